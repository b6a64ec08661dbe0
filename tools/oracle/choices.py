"""The constants of coffer's formats, version 1 of each. A reader refuses what it does not know."""

# Volume file: preamble, 4 KiB.
VOLUME_MAGIC, VOLUME_FORMAT = b"COFFERV1", 1
PREAMBLE, FLAGS_AT, NAME_AT, SUM_AT = 4096, 12, 36, 60
# Its blocks: magic, and their version. The identity's checksum covers the MAC behind its body too.
BLOCK_MAGICS = {"identity": b"CIDN", "keys": b"CKEY", "state": b"CSTA"}
BLOCK_VERSION = 1
META_VERSION = 1  # of map and write-intent blocks
MAP_VERSIONS = (1, 2)  # of the map region; 2: the blocks of the chunks of the parent were written at creation
PRESENT = 1  # in a map entry's flags, which has no other
SECTOR_SIZE, CHUNK_SIZE = 4096, 524288
MAC_INFO = b"coffer/header-mac/v1"  # the volume id's text follows
DATA_KEY_ID_INFO = b"coffer/data-key-id/v1"

# Ciphertext blobs.
BLOB_MAGIC, BLOB_FORMAT, BLOB_SUITES = b"COFB", 1, (1,)

# Snapshot repository.
REPOSITORY_FORMAT, REPOSITORY_VERSION = "coffer-repository", 1
LOG_MAGIC, LOG_WORD = b"COFLOGR1", b"coffer/log/v1"
MANIFEST_MAGIC, MANIFEST_WORD, MANIFEST_KIND, MANIFEST_FORMAT = b"COFMANI1", b"coffer/manifest/v1", 1, 1
SIGNED_VERSION = 1
GENESIS, ADD, DELETE, HOLD, KEY, CHECKPOINT, MEND = 1, 2, 3, 4, 5, 6, 7
CHECKPOINT_EVERY = 256
PAGE_MAGIC, PAGE_VERSION = b"COFPAGE1", 1
PACK_MAGIC, PACK_END, PACK_VERSION, PACK_CRC_AT = b"COFPACK1", b"COFPEND1", 1, 60
REDIRECT_MAGIC, REDIRECT_VERSION = b"COFREDIR", 1
