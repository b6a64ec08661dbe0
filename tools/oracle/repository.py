"""A snapshot repository in a local folder: logs, manifests, trees, packs, redirects (FORMATS.md, sections 4 and 7)."""

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

    def __init__(self, path):
        self.path, self.raw = path, path.read_bytes()
        if len(self.raw) < SIGNED.size + 64:
            raise Damaged(f"{path}: {len(self.raw)} bytes are too few")
        (self.magic, self.version, self.kind, length, self.lineage, self.number, self.previous,
         self.signer) = SIGNED.unpack_from(self.raw)
        if SIGNED.size + length + 64 != len(self.raw):
            raise Damaged(f"{path}: body length {length} at 12 does not fit {len(self.raw)} bytes")
        self.json = parse_json(self.raw[SIGNED.size : -64], f"{path}: body at {SIGNED.size}")

    def check(self, public, words):
        kinds = {"kind": self.kind, "type": field(self.json, "type", "")}
        for word in words:
            message = b"coffer/" + word.format(**kinds).encode() + b"/v1" + self.raw[:-64]
            if ed25519_ok(public, self.raw[-64:], message):
                return
        raise Damaged(f"{self.path}: signature at {len(self.raw) - 64} does not match")

    def hashes(self):
        return [blake3(self.raw if whole else self.raw[:-64]) for whole in choices.PREVIOUS_COVERS_SIGNATURE]


class Folder:
    """One installation's folder of one lineage."""

    def __init__(self, path):
        self.path = path
        self.records = [Signed(p) for p in sorted((path / "log").iterdir())]
        if not self.records:
            raise Damaged(f"{path}: the log is empty")
        self.public = raw_id(field(self.records[0].json, "public_key"))
        self.manifests = {p.name.split(".")[0]: Signed(p) for p in sorted((path / "manifests").glob("*"))}

    def verify(self):
        first = self.records[0].number
        for index, record in enumerate(self.records):
            if record.number != first + index or int(record.path.name, 16) != record.number:
                raise Damaged(f"{record.path}: number {record.number}, expected {first + index}")
            record.check(self.public, choices.LOG_WORDS)
            before = self.records[index - 1].hashes() if index else [ZERO32]
            if (index or first == 0) and record.previous not in before:
                raise Damaged(f"{record.path}: previous at 40 is not the hash of the record before")
        for manifest in self.manifests.values():
            manifest.check(self.public, choices.MANIFEST_WORDS)


class Repository:
    """The whole repository; `problems` collects what `verify` finds."""

    def __init__(self, path):
        self.root = pathlib.Path(path)
        head = self.root / "coffer-repository.json"
        self.head = json.loads(head.read_text()) if head.exists() else None
        if self.head is None:
            raise Damaged(f"{head}: missing")
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
        magic, version, level, _, count, index, _ = PAGE_HEAD.unpack_from(raw)
        size = LEAF.size if level == 0 else 32
        if magic != b"COFPAGE1" or count > 256 or PAGE_HEAD.size + count * size > len(raw):
            raise Damaged(f"{path}: magic {magic!r}, version {version}, level {level}, count {count}")
        entries = [raw[PAGE_HEAD.size + i * size :][:size] for i in range(count)]
        return path, level, index, entries

    def leaves(self, folder, digest, level=None, index=0):
        """(chunk, leaf entry) for every chunk with sectors, below a page."""
        if digest == ZERO32:
            return
        path, own, own_index, entries = self.page(folder, digest)
        if (level is not None and own != level) or own_index != index:
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
        magic, _, _, count, old, checksum = REDIRECT_HEAD.unpack_from(raw)
        head = raw[: REDIRECT_HEAD.size - 32]
        body = raw[REDIRECT_HEAD.size :]
        if magic != b"COFREDIR" or old != pack or checksum not in (blake3(head + ZERO32 + body), blake3(head + body)):
            raise Damaged(f"{path}: magic, pack id or checksum is wrong")
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
        magic, _, _, pack = struct.unpack_from("<8sHH16s", raw)
        crcs = [struct.unpack_from("<I", raw, at)[0] == crc32c(raw[:at] + bytes(60 - at if at < 60 else 0))
                or struct.unpack_from("<I", raw, at)[0] == crc32c(raw[:at] + bytes(4) + raw[at + 4 : 64])
                for at in choices.PACK_CRC_AT]
        if magic != b"COFPACK1" or pack.hex() != path.name or not any(crcs):
            raise Damaged(f"{path}: magic {magic!r}, id {pack.hex()} or CRC of the header is wrong")
        count, footer, _ = struct.unpack("<II8s", raw[-16:])
        if not 64 <= footer <= len(raw) - 16 - count * BODY.size:
            raise Damaged(f"{path}: tail at {len(raw) - 16}: {count} heads at {footer} do not fit")
        self.seen_packs.add(path)

    def chunk(self, folder, number, leaf):
        """The chunk's sealed bytes with its holes as zeros; its hash is checked first."""
        digest, pack, offset, length, sector_map, tag, _, _ = leaf
        path, at = self._pack(folder, pack, offset)
        self._check_pack(path)
        with path.open("rb") as file:
            file.seek(at)
            raw = file.read(BODY.size + CHUNK)
        where = f"chunk {number} in {path} at {at}"
        head_number, head_map, head_tag, head_length, head_hash = BODY.unpack_from(raw)
        if (head_number, head_map, head_tag, head_hash) != (number, sector_map, tag, digest):
            raise Damaged(f"{where}: the body's head is not what the leaf says")
        if length not in (head_length, head_length + BODY.size):
            raise Damaged(f"{where}: length {head_length}, the leaf says {length}")
        sectors = raw[BODY.size : BODY.size + head_length]
        bits = [i for i in range(128) if sector_map[i // 8] >> i % 8 & 1]
        if len(sectors) != len(bits) * SECTOR:
            raise Damaged(f"{where}: {len(sectors)} bytes for {len(bits)} sectors")
        whole = bytearray(CHUNK)
        for i, sector in enumerate(bits):
            whole[sector * SECTOR : (sector + 1) * SECTOR] = sectors[i * SECTOR : (i + 1) * SECTOR]
        covered = {"sectors": sectors, "head": raw[: BODY.size - 32] + sectors, "chunk": bytes(whole)}
        if digest not in [blake3(covered[name]) for name in choices.CHUNK_HASHES]:
            raise Damaged(f"{where}: hash does not match")
        return bytes(whole)

    def chunks(self, snapshot):
        """(chunk number, key tag, sealed bytes) of a snapshot, every hash checked."""
        folder, manifest = self.manifest(snapshot)
        root = raw_id(field(manifest.json, "root"))
        for number, leaf in self.leaves(folder, root):
            yield number, leaf[5], self.chunk(folder, number, leaf)

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
        size = int(field(manifest.json, "size"))
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
