"""A snapshot repository in a local folder: logs, manifests, trees, packs, redirects (docs/format.md)."""

import json
import pathlib
import struct

import choices
from primitives import SECTOR, blake3, crc32c, ed25519_ok, open_sector
from volume_file import CHUNK, Damaged, field, parse_json, raw_id

SIGNED = struct.Struct("<8sHHI16sQ32s16s")
PAGE_HEAD = struct.Struct("<8sHBBIQQ")
LEAF = struct.Struct("<32s16sII16s4sHH")
BODY = struct.Struct("<Q16s4sI32s")
REDIRECT_HEAD = struct.Struct("<8sHHI16s32s")
REDIRECT = struct.Struct("<II16sII")
ZERO32 = bytes(32)


class Signed:
    """A log record or manifest, as stored."""

    def __init__(self, path, magic):
        self.path, self.raw = path, path.read_bytes()
        if len(self.raw) < SIGNED.size + 64:
            raise Damaged(f"{path}: {len(self.raw)} bytes are too few")
        (self.magic, self.version, self.kind, length, self.lineage, self.number, self.previous,
         self.signer) = SIGNED.unpack_from(self.raw)
        if self.magic != magic or self.version != choices.SIGNED_VERSION:
            raise Damaged(f"{path}: magic {self.magic!r}, version {self.version}")
        if SIGNED.size + length + 64 != len(self.raw):
            raise Damaged(f"{path}: body length {length} at 12 does not fit {len(self.raw)} bytes")
        self.json = parse_json(self.raw[SIGNED.size : -64], f"{path}: body at {SIGNED.size}")

    def check(self, public, word, folder):
        if not ed25519_ok(public, self.raw[-64:], word + self.raw[:-64]):
            raise Damaged(f"{self.path}: signature at {len(self.raw) - 64} does not match")
        if (self.lineage.hex(), self.signer.hex()) != (folder.parent.name, folder.name):
            raise Damaged(f"{self.path}: lineage {self.lineage.hex()}, signer {self.signer.hex()}: of another folder")

    def digest(self):
        return blake3(self.raw)


class Folder:
    """One installation's folder of one lineage."""

    def __init__(self, path):
        self.path = path
        self.unreadable = {}  # number -> why; what a later mend or checkpoint makes up for is taken out by verify
        self.records = {}  # number -> record, None if unreadable; behind genesis the oldest may have been deleted
        for record in sorted(p for p in (path / "log").iterdir() if "#" not in p.name):
            number = int(record.name, 16)
            try:
                self.records[number] = Signed(record, choices.LOG_MAGIC)
            except Damaged as bad:
                self.unreadable[number] = bad
                self.records[number] = None
        if self.unreadable.get(0):
            raise self.unreadable[0]
        if 0 not in self.records or self.records[0].kind != choices.GENESIS:
            raise Damaged(f"{path}: the log does not begin with a genesis")
        self.public = raw_id(field(self.records[0].json, "public_key"))
        self.manifests = {p.name: Signed(p, choices.MANIFEST_MAGIC) for p in sorted((path / "manifests").glob("*"))}

    def verify(self):
        newest = max(n for n in self.records if n % choices.CHECKPOINT_EVERY == 0)
        for index, record in self.records.items():
            if index > newest and index - 1 not in self.records:
                raise Damaged(f"{self.path}: the log has a gap before {index:016x}")
            if record and index and not self._signed(index, record):
                self.records[index] = record = None
            if record is None:
                continue
            if record.number != index or record.path.name != f"{index:016x}":
                raise Damaged(f"{record.path}: number {record.number}, expected {index}")
            record.check(self.public, choices.LOG_WORD, self.path)
            before = self.records.get(index - 1)
            mended = index and before is None and record.kind != choices.MEND
            if not mended and record.previous != (before.digest() if before else ZERO32):
                raise Damaged(f"{record.path}: previous at 40 is not the hash of the record before")
            self._kind(index, record)
            if record.kind == choices.CHECKPOINT:
                self.unreadable.clear()
            elif record.kind == choices.MEND:
                for number in field(record.json, "unreadable"):
                    self.unreadable.pop(number, None)
        for bad in self.unreadable.values():
            raise bad
        for name, manifest in self.manifests.items():
            manifest.check(self.public, choices.MANIFEST_WORD, self.path)
            self._manifest(name, manifest)
        for name, digest in self.live().items():
            if name not in self.manifests:
                raise Damaged(f"{self.path}: {name} is live and has no manifest")
            if self.manifests[name].digest() != digest:
                raise Damaged(f"{self.manifests[name].path}: not the manifest that the log names")

    def _signed(self, index, record):
        try:
            record.check(self.public, choices.LOG_WORD, self.path)
        except Damaged as bad:
            self.unreadable[index] = bad
            return False
        return True

    @staticmethod
    def _kind(index, record):
        genesis, checkpoint = index == 0, index % choices.CHECKPOINT_EVERY == 0 and index > 0
        known = choices.GENESIS <= record.kind <= choices.MEND
        right = (record.kind == choices.GENESIS) == genesis and (record.kind == choices.CHECKPOINT) == checkpoint
        if not known or not right:
            raise Damaged(f"{record.path}: kind {record.kind} at number {index}")

    def _manifest(self, name, manifest):
        body = manifest.json
        found = (manifest.kind, manifest.number, field(body, "format"))
        if found != (choices.MANIFEST_KIND, 0, choices.MANIFEST_FORMAT):
            raise Damaged(f"{manifest.path}: kind, number and format are {found}")
        if field(body, "snapshot") != name or field(body, "installation") != self.path.name:
            raise Damaged(f"{manifest.path}: it is of {body['snapshot']} by {body['installation']}")
        depth = 1
        while 256**depth * CHUNK < field(body, "size"):
            depth += 1
        if field(body, "depth") != depth:
            raise Damaged(f"{manifest.path}: depth {body['depth']}, not {depth}")
        for tag, key in field(body, "keys").items():
            if not key.startswith(tag) or len(tag) != 8:
                raise Damaged(f"{manifest.path}: key tag {tag} is not that of {key}")
        parent = self.manifests.get(field(body, "parent") or "")
        if manifest.previous != (parent.digest() if parent else ZERO32) and (parent or body["parent"] is None):
            raise Damaged(f"{manifest.path}: previous at 40 is not the hash of the parent's manifest")

    def live(self):
        """Snapshot -> hash of its manifest, by the log: added, and not deleted since."""
        found = {}
        for record in filter(None, self.records.values()):
            if record.kind in (choices.MEND, choices.CHECKPOINT):
                live = field(record.json, "live")
                found = {snapshot: raw_id(field(entry, "manifest")) for snapshot, entry in live.items()}
            elif record.kind == choices.ADD:
                found[field(record.json, "snapshot")] = raw_id(field(record.json, "manifest"))
            elif record.kind == choices.DELETE:
                found.pop(field(record.json, "snapshot"), None)
        return found


class Repository:
    """The whole repository; `problems` collects what `verify` finds."""

    def __init__(self, path):
        self.root = pathlib.Path(path)
        head = self.root / "coffer-repository.json"
        if not head.exists():
            raise Damaged(f"{head}: missing")
        self.head = parse_json(head.read_text(), head)
        known = {"format": choices.REPOSITORY_FORMAT, "version": choices.REPOSITORY_VERSION, "incompatible": []}
        if {name: self.head.get(name) for name in known} != known:
            raise Damaged(f"{head}: not {known}")
        self.folders = [Folder(p.parent) for p in sorted(self.root.glob("*/*/log"))]
        self.problems = []
        self.seen_packs = set()

    def manifest(self, snapshot):
        for folder in self.folders:
            if snapshot in folder.manifests:
                return folder, folder.manifests[snapshot]
        raise Damaged(f"{snapshot}: no manifest; known: {sorted(s for f in self.folders for s in f.manifests)}")

    def _find(self, folder, kind, name):
        """An object in this folder, else in another installation's of the lineage."""
        for where in [folder.path, *sorted(folder.path.parent.iterdir())]:
            path = where / kind / name
            if path.exists():
                return path
        return None

    def page(self, folder, digest):
        path = self._find(folder, "pages", digest.hex())
        if path is None:
            raise Damaged(f"page {digest.hex()}: missing")
        raw = path.read_bytes()
        if blake3(raw) != digest:
            raise Damaged(f"{path}: the bytes do not have the hash in the name")
        magic, version, level, zero, count, index, zero2 = PAGE_HEAD.unpack_from(raw)
        size = LEAF.size if level == 0 else 32
        whole = 0 < count <= 256 and PAGE_HEAD.size + count * size == len(raw) and any(raw[-size:])
        if (magic, version, zero, zero2) != (choices.PAGE_MAGIC, choices.PAGE_VERSION, 0, 0) or not whole:
            raise Damaged(f"{path}: magic {magic!r}, version {version}, level {level}, count {count}")
        entries = [raw[PAGE_HEAD.size + i * size :][:size] for i in range(count)]
        return path, level, index, entries

    def leaves(self, folder, digest, level, index=0):
        """(chunk, leaf entry) for every chunk with sectors, below a page."""
        if digest == ZERO32:
            return
        path, own, own_index, entries = self.page(folder, digest)
        if own != level or own_index != index:
            raise Damaged(f"{path}: level {own}, index {own_index}; expected {level}, {index}")
        for i, entry in enumerate(entries):
            if own:
                yield from self.leaves(folder, entry, own - 1, index * 256 + i)
            elif any(entry):
                yield index * 256 + i, LEAF.unpack(entry)

    def _pack(self, folder, pack, offset):
        """The pack's path and the offset in it, through a redirect if the pack is gone."""
        path = self._find(folder, "packs", pack.hex())
        if path is not None:
            return path, offset
        path = self._find(folder, "redirects", pack.hex())
        if path is None:
            raise Damaged(f"pack {pack.hex()}: neither it nor a redirect is there")
        raw = path.read_bytes()
        magic, version, zero, count, old, checksum = REDIRECT_HEAD.unpack_from(raw)
        head = raw[: REDIRECT_HEAD.size - 32]
        body = raw[REDIRECT_HEAD.size :]
        known = (choices.REDIRECT_MAGIC, choices.REDIRECT_VERSION, 0, pack)
        if (magic, version, zero, old) != known or checksum != blake3(head + ZERO32 + body):
            raise Damaged(f"{path}: magic, version, pack id or checksum is wrong")
        for i in range(count):
            at, _, new, new_at, _ = REDIRECT.unpack_from(body, i * REDIRECT.size)
            if at == offset:
                target = self._find(folder, "packs", new.hex())
                if target is None:
                    raise Damaged(f"{path}: entry {i} names pack {new.hex()}, which is missing")
                return target, new_at
        raise Damaged(f"{path}: no entry for offset {offset}")

    def _check_pack(self, path):
        if path in self.seen_packs:
            return
        raw = path.read_bytes()
        magic, version, flags, pack, lineage = struct.unpack_from("<8sHH16s16s", raw)
        crc_at = choices.PACK_CRC_AT
        if (magic, version, flags) != (choices.PACK_MAGIC, choices.PACK_VERSION, 0) or pack.hex() != path.name:
            raise Damaged(f"{path}: magic {magic!r}, version {version}, flags {flags} or id {pack.hex()} is wrong")
        if lineage.hex() != path.parents[2].name or any(raw[44:crc_at]):
            raise Damaged(f"{path}: lineage {lineage.hex()} or reserved bytes at 44 are wrong")
        if struct.unpack_from("<I", raw, crc_at)[0] != crc32c(raw[:crc_at] + bytes(4)):
            raise Damaged(f"{path}: CRC at {crc_at} does not match")
        count, footer, end = struct.unpack("<II8s", raw[-16:])
        entry = BODY.size + 4
        if end != choices.PACK_END or footer < 64 or footer + count * entry + 4 + 16 != len(raw):
            raise Damaged(f"{path}: tail at {len(raw) - 16}: {count} heads at {footer} do not fit, or magic {end!r}")
        heads = raw[footer:-20]
        if struct.unpack_from("<I", raw, len(raw) - 20)[0] != crc32c(heads):
            raise Damaged(f"{path}: CRC of the footer at {len(raw) - 20} does not match")
        at = 64
        for i in range(count):
            head, (offset,) = heads[i * entry :][: BODY.size], struct.unpack_from("<I", heads, i * entry + BODY.size)
            if offset != at or raw[at : at + BODY.size] != head:
                raise Damaged(f"{path}: body {i} at {at} is not the footer's at {offset}")
            at += BODY.size + BODY.unpack(head)[3]
        if at != footer:
            raise Damaged(f"{path}: the bodies end at {at}, the footer is at {footer}")
        self.seen_packs.add(path)

    def chunk(self, folder, number, leaf):
        """The chunk's sealed bytes with its holes as zeros; its hash is checked first."""
        digest, pack, offset, length, sector_map, tag, flags, zero = leaf
        if flags or zero:
            raise Damaged(f"chunk {number}: its leaf has flags {flags:#x}, reserved {zero}")
        path, at = self._pack(folder, pack, offset)
        self._check_pack(path)
        with path.open("rb") as file:
            file.seek(at)
            raw = file.read(BODY.size + CHUNK)
        where = f"chunk {number} in {path} at {at}"
        head_number, head_map, head_tag, head_length, head_hash = BODY.unpack_from(raw)
        if (head_number, head_map, head_tag, head_hash) != (number, sector_map, tag, digest):
            raise Damaged(f"{where}: the body's head is not what the leaf says")
        if length != head_length:
            raise Damaged(f"{where}: length {head_length}, the leaf says {length}")
        sectors = raw[BODY.size : BODY.size + head_length]
        bits = [i for i in range(128) if sector_map[i // 8] >> i % 8 & 1]
        if len(sectors) != len(bits) * SECTOR:
            raise Damaged(f"{where}: {len(sectors)} bytes for {len(bits)} sectors")
        whole = bytearray(CHUNK)
        for i, sector in enumerate(bits):
            whole[sector * SECTOR : (sector + 1) * SECTOR] = sectors[i * SECTOR : (i + 1) * SECTOR]
        if digest != blake3(sectors):
            raise Damaged(f"{where}: hash does not match")
        return bytes(whole)

    def chunks(self, snapshot):
        """(chunk number, key tag, sealed bytes) of a snapshot, every hash checked."""
        folder, manifest = self.manifest(snapshot)
        body = manifest.json
        count = 0
        for number, leaf in self.leaves(folder, raw_id(field(body, "root")), field(body, "depth") - 1):
            if leaf[5].hex() not in field(body, "keys") or number * CHUNK >= field(body, "size"):
                raise Damaged(f"{manifest.path}: chunk {number} under key tag {leaf[5].hex()} is not what it speaks of")
            count += 1
            yield number, leaf[5], self.chunk(folder, number, leaf)
        if count != field(body, "chunks"):
            raise Damaged(f"{manifest.path}: {field(body, 'chunks')} chunks, the tree has {count}")

    def verify(self):
        """(snapshots, chunks) that are right; `problems` has the rest."""
        good = count = 0
        for folder in self.folders:
            try:
                folder.verify()
            except Damaged as error:
                self.problems.append(str(error))
            for snapshot in folder.manifests:
                try:
                    count += sum(1 for _ in self.chunks(snapshot))
                    good += 1
                except Damaged as error:
                    self.problems.append(f"{snapshot}: {error}")
        return good, count

    def extract(self, snapshot, out, keys=None):
        """Writes a snapshot's image, sealed, or plain with `keys`: key tag (4 bytes) -> data key."""
        _, manifest = self.manifest(snapshot)
        size = field(manifest.json, "size")
        out.truncate(size)
        for number, tag, sealed in self.chunks(snapshot):
            if keys is not None:
                if tag not in keys:
                    raise Damaged(f"chunk {number} is under key tag {tag.hex()}, whose key was not given")
                first = number * CHUNK // SECTOR
                sealed = b"".join(
                    open_sector(keys[tag], first + i, sealed[i * SECTOR : (i + 1) * SECTOR]) for i in range(128))
            out.seek(number * CHUNK)
            out.write(sealed[: max(0, size - number * CHUNK)])
