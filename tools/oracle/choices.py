"""Every byte choice that FORMATS.md leaves open, in one place.

Where a list has several values, the reader tries them in order, so a wrong guess costs a line here and nothing else.
When the format is settled, cut each list down to the one value that holds.
"""

# JSON field -> the spellings that are accepted.
FIELDS = {
    "volume_id": ("volume_id", "id"),
    "size": ("size", "size_bytes"),
    "lineage": ("lineage", "lineage_id"),
    "regions": ("regions", "region_table"),
    "parent": ("parent", "parent_snapshot"),
    "map_generation": ("map_generation",),
    "mac_epoch": ("mac_epoch",),
    "epochs": ("key_epochs", "epochs"),
    "epoch": ("epoch", "key_epoch", "number"),
    "data_key_id": ("data_key_id", "id"),
    "public_key": ("public_key", "key"),
    "root": ("root", "tree_root"),
    "depth": ("depth", "tree_depth"),
    "keys": ("key_tags", "keys"),
    "snapshot_id": ("snapshot", "snapshot_id", "id"),
    "manifest": ("manifest", "manifest_hash"),
    "type": ("type", "kind", "record"),
    "kind": ("kind",),
    "offset": ("offset",),
    "length": ("length",),
}
DATA_REGIONS = ("data", "sealed", "sectors")
MAP_REGIONS = ("map", "map0")

# Preamble: where the flags begin (after a zero byte, or after padding to 8), and how far its checksum reaches.
PREAMBLE_FLAGS_AT = (16, 12)
PREAMBLE_COVERS_4K = (False, True)
SLOT_MAGICS = {"identity": None, "keys": None, "state": None}  # None: any four bytes
PRESENT = 1  # in a map entry's flags
# What K_mac's info has after its label: the id's text, or the 24 bytes of the preamble.
MAC_INFO_IS_TEXT = (True, False)

# Signed records: the word for "kind" in what is signed. {kind} is the number, {type} the JSON's own word.
LOG_WORDS = ("log", "log-record", "log/{type}", "{type}", "{kind}")
MANIFEST_WORDS = ("manifest", "{kind}")
# What `previous` is the BLAKE3 of: the whole file, or all before the signature.
PREVIOUS_COVERS_SIGNATURE = (True, False)
PACK_CRC_AT = (60, 44)
# What a chunk's hash covers: its non-hole sectors; head less hash and sectors; the whole chunk with its holes.
CHUNK_HASHES = ("sectors", "head", "chunk")
CONTEXT_COUNT = "<I"
