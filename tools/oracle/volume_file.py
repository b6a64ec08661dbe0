"""A coffer volume file: header slots, map, write-intent, sealed sectors (FORMATS.md, sections 1, 2 and 7)."""

import hmac
import json
import struct

import choices
from primitives import SECTOR, blake3, crc32c, hkdf, hmac_sha256, open_sector

SLOT_BYTES = 64 << 10
BLOCKS = {"identity": (4 << 10, 24 << 10), "keys": (28 << 10, 32 << 10), "state": (60 << 10, 4 << 10)}
BLOCK_HEAD = struct.Struct("<4sHHIIQ32s32s")
INTENT_AT, MAP_AT = 128 << 10, 192 << 10
SECTOR_BLOCK = struct.Struct("<4sHHIIQII")
CHUNK = 512 << 10
PER_BLOCK = 60


class Damaged(Exception):
    """Something is not as the format says; the text names what and where."""


def field(record, name, default=...):
    """A JSON field under any of its accepted spellings."""
    for spelling in choices.FIELDS[name]:
        if spelling in record:
            return record[spelling]
    if default is ...:
        raise Damaged(f"no field {' or '.join(choices.FIELDS[name])} in {sorted(record)}")
    return default


def raw_id(value) -> bytes:
    """Bytes of an id or hash written as hex, UUID, or a list of numbers."""
    if isinstance(value, list):
        return bytes(value)
    try:
        return bytes.fromhex(value.replace("-", ""))
    except ValueError as error:
        raise Damaged(f"{value!r} is not hexadecimal") from error


def parse_json(body, where):
    try:
        return json.loads(body)
    except ValueError as error:
        raise Damaged(f"{where}: not JSON: {error}") from error


class Slot:
    """One header slot: every checksum in it is checked on the way."""

    def __init__(self, raw: bytes, number: int):
        self.base, self.name = number * SLOT_BYTES, "AB"[number]
        self.raw = raw
        self._preamble(number)
        self.blocks = {name: self._block(name) for name in BLOCKS}
        self.identity = self.blocks["identity"]["json"]
        self.identity_hash = blake3(self.blocks["identity"]["body"])
        for name in ("keys", "state"):
            if self.blocks[name]["identity_hash"] != self.identity_hash:
                raise Damaged(f"slot {self.name}: {name} at {self.base + BLOCKS[name][0]}: names another identity")

    def _preamble(self, number):
        raw, where = self.raw, f"slot {self.name}: preamble at {self.base}"
        if raw[:8] != b"COFFERV1":
            raise Damaged(f"{where}: magic is {raw[:8]!r}")
        self.format, self.slot = struct.unpack_from("<HB", raw, 8)
        if self.slot != number:
            raise Damaged(f"{where}: says it is slot {self.slot}")
        for flags_at in choices.PREAMBLE_FLAGS_AT:
            for whole in choices.PREAMBLE_COVERS_4K:
                self.sum_at = flags_at + 48
                end = 4096 if whole else self.sum_at
                covered = raw[: self.sum_at] + (bytes(32) + raw[self.sum_at + 32 : end] if whole else b"")
                variants = [covered] if whole else [covered, covered + bytes(32)]
                if raw[self.sum_at : self.sum_at + 32] in [blake3(v) for v in variants]:
                    self.flags = struct.unpack_from("<3Q", raw, flags_at)
                    self.volume_id_raw = raw[flags_at + 24 : self.sum_at]
                    self.volume_id = self.volume_id_raw.rstrip(b"\0").decode("ascii", "replace")
                    self.preamble_end = end if whole else self.sum_at + 32
                    return
        raise Damaged(f"{where}: checksum does not match")

    def _block(self, name):
        at, room = BLOCKS[name]
        where = f"slot {self.name}: {name} at {self.base + at}"
        magic, version, zero, length, zero2, generation, identity_hash, checksum = BLOCK_HEAD.unpack_from(self.raw, at)
        if BLOCK_HEAD.size + length > room or zero or zero2:
            raise Damaged(f"{where}: length {length} or reserved fields {zero}, {zero2} are wrong")
        head = self.raw[at : at + BLOCK_HEAD.size - 32]
        body_at = at + BLOCK_HEAD.size
        body = self.raw[body_at : body_at + length]
        if checksum not in (blake3(head + bytes(32) + body), blake3(head + body)):
            raise Damaged(f"{where}: checksum does not match")
        after = self.raw[body_at + length : body_at + length + 32]
        return {
            "magic": magic.decode("ascii", "replace"), "version": version, "generation": generation, "after": after,
            "identity_hash": identity_hash, "body": body, "json": parse_json(body, where),
        }

    def rank(self):
        return (self.blocks["identity"]["generation"], self.blocks["state"]["generation"])

    def check_mac(self, key: bytes):
        """K_mac over the preamble less slot and checksum, then the identity's raw bytes."""
        salt = raw_id(field(self.identity, "lineage"))
        preamble = bytearray(self.raw[: self.preamble_end])
        zeroed = bytearray(preamble)
        zeroed[10] = 0
        zeroed[self.sum_at : self.sum_at + 32] = bytes(32)
        cut = bytes(preamble[:10] + preamble[11 : self.sum_at] + preamble[self.sum_at + 32 :])
        heads = {cut, bytes(zeroed), bytes(zeroed[: self.sum_at])}
        body, mac = self.blocks["identity"]["body"], self.blocks["identity"]["after"]
        for text in choices.MAC_INFO_IS_TEXT:
            volume = self.volume_id.encode() if text else self.volume_id_raw
            mac_key = hkdf(key, salt, b"coffer/header-mac/v1" + volume, 32)
            if any(hmac.compare_digest(hmac_sha256(mac_key, head + body), mac) for head in heads):
                return
        raise Damaged(f"slot {self.name}: identity MAC at {self.base + 4096 + BLOCK_HEAD.size + len(body)}: no match")


class Volume:
    """An open volume file; `problems` has what is damaged but not fatal."""

    def __init__(self, path):
        self.file = open(path, "rb")
        self.problems, self.slots = [], []
        for number in range(2):
            try:
                self.slots.append(Slot(self._at(number * SLOT_BYTES, SLOT_BYTES), number))
            except Damaged as error:
                self.problems.append(str(error))
        if not self.slots:
            raise Damaged("both slots are damaged: " + "; ".join(self.problems))
        self.slot = max(self.slots, key=Slot.rank)
        self.identity = self.slot.identity
        self.size = int(field(self.identity, "size"))
        self.map_generation = int(field(self.identity, "map_generation", 1))
        self.parent = field(self.identity, "parent", None)
        regions = {r[choices.FIELDS["kind"][0]]: r for r in field(self.identity, "regions", [])}
        self.data_offset = self._region(regions, choices.DATA_REGIONS, self.identity.get("data_offset"))
        self.map_offset = self._region(regions, choices.MAP_REGIONS, MAP_AT)
        self.tags = set()

    @staticmethod
    def _region(regions, kinds, default):
        for kind in kinds:
            if kind in regions:
                return int(field(regions[kind], "offset"))
        if default is None:
            raise Damaged(f"identity: no region of kind {' or '.join(kinds)}")
        return int(default)

    def _at(self, offset, length):
        self.file.seek(offset)
        data = self.file.read(length)
        return data + bytes(length - len(data))

    def data_key_ids(self):
        """Key epoch -> data-key id."""
        epochs = field(self.identity, "epochs")
        if isinstance(epochs, dict):
            return {int(e): raw_id(v if isinstance(v, str) else field(v, "data_key_id")) for e, v in epochs.items()}
        return {int(field(e, "epoch")): raw_id(field(e, "data_key_id")) for e in epochs}

    def epoch_of(self, key: bytes) -> int:
        """The key epoch that a clear data key belongs to."""
        if len(key) != 64 or key[:32] == key[32:]:
            raise Damaged("a data key is 64 bytes with two different halves")
        ours = hkdf(key, b"", b"coffer/data-key-id/v1", 16)
        for epoch, data_key_id in self.data_key_ids().items():
            if data_key_id == ours:
                return epoch
        raise Damaged(f"the key has data-key id {ours.hex()}, the volume knows {self.data_key_ids()}")

    def check_key(self, keys):
        """Finds each key's epoch and checks the identity's MAC of every good slot; gives epoch -> key."""
        found = {self.epoch_of(key): key for key in keys}
        for slot in self.slots:
            epoch = int(field(slot.identity, "mac_epoch", 0))
            if epoch not in found:
                raise Damaged(f"the MAC is under key epoch {epoch}; give that key")
            slot.check_mac(found[epoch])
        return found

    def _small_block(self, at, magic, number):
        raw = self._at(at, 512)
        if not any(raw):
            return None
        got, version, zero, block, generation, tag, zero2, crc = SECTOR_BLOCK.unpack_from(raw)
        where = f"{magic.decode()} block {number} at {at}"
        if got != magic or block != number or zero or zero2:
            raise Damaged(f"{where}: magic {got!r}, number {block}, reserved {zero}, {zero2}")
        if crc != crc32c(raw[:28] + bytes(4) + raw[32:]):
            raise Damaged(f"{where}: CRC32C does not match")
        self.tags.add(tag)
        return version, generation, raw[32:]

    def entry(self, chunk):
        """(flags, key epoch, changed epoch) of a chunk; None: its map block is absent or of an older generation."""
        number, index = divmod(chunk, PER_BLOCK)
        where = self.map_offset + number * 512
        block = self._small_block(where, b"CMAP", number)
        if block is None or block[1] < self.map_generation:
            return None
        if block[1] > self.map_generation:
            raise Damaged(f"map block {number} at {where}: generation {block[1]}, the header has {self.map_generation}")
        flags, epoch, _, changed = struct.unpack_from("<BBHI", block[2], index * 8)
        return flags, epoch, changed

    def verify(self):
        """All problems found without a key."""
        found = list(self.problems)
        chunks = (self.size + CHUNK - 1) // CHUNK
        for number in range((chunks + PER_BLOCK - 1) // PER_BLOCK):
            self._try(found, lambda n=number: self.entry(n * PER_BLOCK))
        regions = (self.size + (1 << 30) - 1) >> 30
        for number in range((regions + 3839) // 3840):
            self._try(found, lambda n=number: self._small_block(INTENT_AT + n * 512, b"CINT", n))
        if len(self.tags) > 1:
            found.append(f"map and intent blocks bear {len(self.tags)} volume tags")
        return found

    @staticmethod
    def _try(found, check):
        try:
            check()
        except Damaged as error:
            found.append(str(error))

    def read(self, offset, length, keys):
        """Plain bytes of a range, in pieces of a sector or less; `keys`: key epoch -> data key."""
        end = offset + length
        if offset < 0 or end > self.size:
            raise Damaged(f"{offset}+{length} is outside of {self.size} bytes")
        while offset < end:
            number, inside = divmod(offset, SECTOR)
            piece = min(SECTOR - inside, end - offset)
            yield self._sector(number, keys)[inside : inside + piece]
            offset += piece

    def _sector(self, number, keys):
        chunk = number * SECTOR // CHUNK
        entry = self.entry(chunk)
        if not entry or not entry[0] & choices.PRESENT:
            if self.parent:
                raise Damaged(f"chunk {chunk} is absent: it is in the parent's tree ({self.parent})")
            if self.map_generation > 1:
                return bytes(SECTOR)
        epoch = entry[1] if entry and any(entry) else min(keys)
        sealed = self._at(self.data_offset + number * SECTOR, SECTOR)
        if not any(sealed):
            return sealed
        if epoch not in keys:
            raise Damaged(f"chunk {chunk} is under key epoch {epoch}, whose key was not given")
        return open_sector(keys[epoch], number, sealed)
