"""A coffer volume file: header slots, map, write-intent, sealed sectors (docs/format.md)."""

import hmac
import json
import struct

import choices
from primitives import SECTOR, blake3, crc32c, hkdf, hmac_sha256, open_sector

SLOT_BYTES = 64 << 10
BLOCKS = {"identity": (4 << 10, 24 << 10), "keys": (28 << 10, 32 << 10), "state": (60 << 10, 4 << 10)}
BLOCK_HEAD = struct.Struct("<4sHHIIQ32s32s")
INTENT_AT, MAP_AT = 128 << 10, 192 << 10
SECTOR_BLOCK = struct.Struct("<4sHHII8sII")
CHUNK = 512 << 10
PER_BLOCK = 60
INTENT_BLOCKS = 18


class Damaged(Exception):
    """Something is not as the format says; the text names what and where."""


def field(record, name):
    """A field of a JSON object."""
    if name not in record:
        raise Damaged(f"no field {name} in {sorted(record)}")
    return record[name]


def raw_id(value) -> bytes:
    """Bytes of an id or hash written in hexadecimal."""
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError) as error:
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
        for name in BLOCKS:
            if self.blocks[name]["identity_hash"] != self.identity_hash:
                raise Damaged(f"slot {self.name}: {name} at {self.base + BLOCKS[name][0]}: names another identity")
        self._identity()

    def _preamble(self, number):
        raw, where = self.raw[: choices.PREAMBLE], f"slot {self.name}: preamble at {self.base}"
        if raw[:8] != choices.VOLUME_MAGIC:
            raise Damaged(f"{where}: magic is {raw[:8]!r}")
        at = choices.SUM_AT
        if raw[at : at + 32] != blake3(raw[:at] + bytes(32) + raw[at + 32 :]):
            raise Damaged(f"{where}: checksum does not match")
        self.format, self.slot, zero = struct.unpack_from("<HBB", raw, 8)
        if (self.format, self.slot, zero) != (choices.VOLUME_FORMAT, number, 0):
            raise Damaged(f"{where}: format {self.format}, slot {self.slot}, reserved {zero}")
        self.flags = struct.unpack_from("<3Q", raw, choices.FLAGS_AT)
        if self.flags[0]:
            raise Damaged(f"{where}: unknown incompatible features {self.flags[0]:#x}")
        self.volume_id = raw[choices.NAME_AT : at].rstrip(b"\0").decode("ascii", "replace")

    def _block(self, name):
        at, room = BLOCKS[name]
        where = f"slot {self.name}: {name} at {self.base + at}"
        magic, version, zero, length, zero2, generation, identity_hash, checksum = BLOCK_HEAD.unpack_from(self.raw, at)
        mac = 32 if name == "identity" else 0
        if magic != choices.BLOCK_MAGICS[name] or zero or zero2:
            raise Damaged(f"{where}: magic {magic!r} or reserved fields {zero}, {zero2} are wrong")
        if BLOCK_HEAD.size + length + mac > room:
            raise Damaged(f"{where}: length {length} is more than its room")
        body_at = at + BLOCK_HEAD.size
        rest = self.raw[body_at : body_at + length + mac]
        if checksum != blake3(self.raw[at : body_at - 32] + bytes(32) + rest):
            raise Damaged(f"{where}: checksum does not match")
        if version != choices.BLOCK_VERSION:
            raise Damaged(f"{where}: version {version}")
        return {
            "magic": magic.decode("ascii"), "generation": generation, "identity_hash": identity_hash,
            "body": rest[:length], "mac": rest[length:], "json": parse_json(rest[:length], where),
        }

    def _identity(self):
        identity, where = self.identity, f"slot {self.name}: identity at {self.base + BLOCKS['identity'][0]}"
        expected = {"volume_id": self.volume_id, "generation": self.blocks["identity"]["generation"],
                    "sector_size": choices.SECTOR_SIZE, "chunk_size": choices.CHUNK_SIZE}
        for name, value in expected.items():
            if field(identity, name) != value:
                raise Damaged(f"{where}: {name} is {identity[name]}, not {value}")

    def rank(self):
        return (self.blocks["identity"]["generation"], self.blocks["state"]["generation"])

    def check_mac(self, key: bytes):
        """K_mac over the preamble less slot and checksum, then the identity's raw bytes."""
        salt = raw_id(field(self.identity, "lineage"))
        head = self.raw[:10] + self.raw[11 : choices.SUM_AT]
        block = self.blocks["identity"]
        mac_key = hkdf(key, salt, choices.MAC_INFO + self.volume_id.encode(), 32)
        if not hmac.compare_digest(hmac_sha256(mac_key, head + block["body"]), block["mac"]):
            at = self.base + BLOCKS["identity"][0] + BLOCK_HEAD.size + len(block["body"])
            raise Damaged(f"slot {self.name}: identity MAC at {at}: no match")


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
        self.state = self.slot.blocks["state"]["json"]
        self.size = field(self.identity, "size")
        self.map_generation = field(self.identity, "map_generation")
        self.parent = field(self.identity, "parent")
        self.data_offset = field(self.identity, "data_offset")
        regions = {field(r, "kind"): field(r, "offset") for r in field(self.identity, "regions")}
        expected = {"intent": INTENT_AT, "map": MAP_AT, "data": self.data_offset}
        if {kind: regions.get(kind) for kind in expected} != expected:
            raise Damaged(f"slot {self.slot.name}: the regions {regions} are not {expected}")
        self.tag = blake3(self.slot.volume_id.encode())[:8]
        version = next(field(r, "version") for r in self.identity["regions"] if r["kind"] == "map")
        if version not in choices.MAP_VERSIONS:
            raise Damaged(f"slot {self.slot.name}: the map has version {version}")
        chunks = field(self.parent, "size") + CHUNK - 1 if self.parent and version > 1 else 0
        self.map_written = (chunks // CHUNK + PER_BLOCK - 1) // PER_BLOCK

    def _at(self, offset, length):
        self.file.seek(offset)
        data = self.file.read(length)
        return data + bytes(length - len(data))

    def data_key_ids(self):
        """Key epoch -> data-key id."""
        return {field(e, "epoch"): raw_id(field(e, "data_key_id")) for e in field(self.identity, "key_epochs")}

    def epoch_of(self, key: bytes) -> int:
        """The key epoch that a clear data key belongs to."""
        if len(key) != 64 or key[:32] == key[32:]:
            raise Damaged("a data key is 64 bytes with two different halves")
        ours = hkdf(key, b"", choices.DATA_KEY_ID_INFO, 16)
        for epoch, data_key_id in self.data_key_ids().items():
            if data_key_id == ours:
                return epoch
        raise Damaged(f"the key has data-key id {ours.hex()}, the volume knows {self.data_key_ids()}")

    def check_key(self, keys):
        """Finds each key's epoch and checks the identity's MAC of every good slot; gives epoch -> key."""
        found = {self.epoch_of(key): key for key in keys}
        for slot in self.slots:
            epoch = field(slot.identity, "mac_epoch")
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
        if (got, version, block, zero, zero2) != (magic, choices.META_VERSION, number, 0, 0):
            raise Damaged(f"{where}: magic {got!r}, version {version}, number {block}, reserved {zero}, {zero2}")
        if crc != crc32c(raw[:28] + bytes(4) + raw[32:]):
            raise Damaged(f"{where}: CRC32C does not match")
        if tag != self.tag:
            raise Damaged(f"{where}: volume tag {tag.hex()} is not {self.tag.hex()}")
        return generation, raw[32:]

    def entry(self, chunk):
        """(flags, key epoch, changed epoch) of a chunk; zeros: its map block is absent or of an older generation."""
        number, index = divmod(chunk, PER_BLOCK)
        return self.entries(number)[index]

    def entries(self, number):
        """All entries of a map block."""
        at = MAP_AT + number * 512
        block = self._small_block(at, b"CMAP", number)
        if block is None and number < self.map_written:
            raise Damaged(f"CMAP block {number} at {at}: it was written when the volume was made, and is zeros")
        if block is None or block[0] < self.map_generation:
            return [(0, 0, 0)] * PER_BLOCK
        if block[0] > self.map_generation:
            raise Damaged(f"CMAP block {number} at {at}: generation {block[0]}, the header has {self.map_generation}")
        entries = [struct.unpack_from("<BBHI", block[1], index * 8) for index in range(PER_BLOCK)]
        for index, (flags, _, zero, _) in enumerate(entries):
            if flags & ~choices.PRESENT or zero:
                raise Damaged(f"CMAP block {number} at {at}: entry {index} has flags {flags:#x}, reserved {zero}")
        return [(flags, epoch, changed) for flags, epoch, _, changed in entries]

    def verify(self):
        """All problems found without a key."""
        found = list(self.problems)
        chunks = (self.size + CHUNK - 1) // CHUNK
        for number in range((chunks + PER_BLOCK - 1) // PER_BLOCK):
            self._try(found, lambda n=number: self.entries(n))
        for number in range(INTENT_BLOCKS):
            self._try(found, lambda n=number: self._intent(n))
        return found

    def _intent(self, number):
        at = INTENT_AT + number * 512
        block = self._small_block(at, b"CINT", number)
        if block is not None and block[0]:
            raise Damaged(f"CINT block {number} at {at}: reserved {block[0]}")

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
        flags, epoch, _ = self.entry(chunk)
        if not flags & choices.PRESENT:
            if self.parent and not field(self.state, "hydrated") and chunk * CHUNK < field(self.parent, "size"):
                raise Damaged(f"chunk {chunk} is absent: it is in the parent's tree ({self.parent})")
            if self.map_generation > 1:
                return bytes(SECTOR)
        sealed = self._at(self.data_offset + number * SECTOR, SECTOR)
        if not any(sealed):
            return sealed
        if epoch not in keys:
            raise Damaged(f"chunk {chunk} is under key epoch {epoch}, whose key was not given")
        return open_sector(keys[epoch], number, sealed)
