"""The oracle's own tests: published vectors, and files made here, as docs/format.md says, byte by byte."""

import io
import json
import os
import pathlib
import struct
import tempfile
import unittest

import blake3_pure
from blob import HEAD, Blob, context_bytes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from primitives import blake3, crc32c, hkdf, hmac_sha256, open_sector, sha256, xts
from repository import BODY, LEAF, PAGE_HEAD, SIGNED, Repository
from volume_file import BLOCKS, CHUNK, Damaged, Volume

KEY = bytes(range(64))
VOLUME_ID = b"vol-0123456789abcdef0"
DATA = 1 << 20


class Vectors(unittest.TestCase):
    def test_xts_ieee_1619_vector_10(self):
        key = bytes.fromhex("2718281828459045235360287471352662497757247093699959574966967627"
                            "3141592653589793238462643383279502884197169399375105820974944592")
        sealed = xts(key, 0xFF, bytes(range(256)) * 2, decrypt=False)
        expected = "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"
        self.assertEqual(sealed[:32].hex(), expected)
        self.assertEqual(xts(key, 0xFF, sealed), bytes(range(256)) * 2)

    def test_blake3_official(self):
        vectors = {0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
                   1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
                   1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
                   1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
                   2048: "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a"}
        for length, expected in vectors.items():
            data = bytes(i % 251 for i in range(length))
            self.assertEqual(blake3_pure.blake3(data).hex(), expected)
            self.assertEqual(blake3(data).hex(), expected)

    def test_crc32c_check_value(self):
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)

    def test_hkdf_rfc_5869_case_1(self):
        okm = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
        self.assertEqual(okm.hex()[:40], "3cb25f25faacd57a90434f64d0362f2a2d2d0a90")


class HoleRule(unittest.TestCase):
    def test_zero_parts_read_as_zeros(self):
        sealed = bytearray(xts(KEY, 7, b"x" * 4096, decrypt=False))
        sealed[512:1024] = bytes(512)
        self.assertEqual(open_sector(KEY, 7, bytes(sealed)), b"x" * 512 + bytes(512) + b"x" * 3072)
        self.assertEqual(open_sector(KEY, 7, bytes(4096)), bytes(4096))


def make_volume(path, changed=None, map_version=1, parent=None):
    """A volume file of one chunk under KEY, sector 1 written; `changed`: (offset, bytes) put over it at the end."""
    lineage = "ab" * 16
    regions = (("intent", 131072), ("map", 196608), ("data", DATA))
    identity = json.dumps({
        "generation": 1, "volume_id": VOLUME_ID.decode(), "size": CHUNK, "sector_size": 4096, "chunk_size": CHUNK,
        "data_offset": DATA, "lineage": lineage, "parent": parent, "map_generation": 1, "mac_epoch": 0,
        "key_epochs": [{"epoch": 0, "data_key_id": hkdf(KEY, b"", b"coffer/data-key-id/v1", 16).hex()}],
        "regions": [{"kind": kind, "offset": at, "length": 1, "version": map_version if kind == "map" else 1}
                    for kind, at in regions]}).encode()
    file = bytearray(DATA + CHUNK)
    for slot in range(2):
        base = slot * 65536
        start = b"COFFERV1" + struct.pack("<HBB3Q", 1, slot, 0, 0, 0, 0) + VOLUME_ID.ljust(24, b"\0")
        file[base : base + len(start) + 32] = start + blake3(start.ljust(4096, b"\0"))
        mac_key = hkdf(KEY, bytes.fromhex(lineage), b"coffer/header-mac/v1" + VOLUME_ID, 32)
        mac = hmac_sha256(mac_key, start[:10] + start[11:] + identity)
        for magic, name, body in ((b"CIDN", "identity", identity), (b"CKEY", "keys", b"{}"), (b"CSTA", "state", b"{}")):
            at = base + BLOCKS[name][0]
            rest = body + (mac if name == "identity" else b"")
            head = magic + struct.pack("<HHIIQ32s", 1, 0, len(body), 0, 1, blake3(identity))
            block = head + blake3(head + bytes(32) + rest) + rest
            file[at : at + len(block)] = block
    file[DATA + 4096 : DATA + 8192] = xts(KEY, 1, b"coffer! " * 512, decrypt=False)
    if changed:
        file[changed[0] : changed[0] + len(changed[1])] = changed[1]
    with open(path, "wb") as out:
        out.write(file)


class VolumeFile(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "v")

    def volume(self, changed=None, map_version=1, parent=None):
        make_volume(self.path, changed, map_version, parent)
        volume = Volume(self.path)
        self.addCleanup(volume.file.close)
        return volume

    def test_reads_what_was_sealed(self):
        volume = self.volume()
        keys = volume.check_key([KEY])
        self.assertEqual(volume.verify(), [])
        plain = b"".join(volume.read(4000, 200, keys))
        self.assertEqual(plain, bytes(96) + (b"coffer! " * 13))

    def test_one_bad_slot_is_named_and_passed_over(self):
        volume = self.volume((4096 + 100, b"?"))
        self.assertIn("slot A: identity at 4096: checksum", volume.problems[0])
        self.assertEqual(volume.slot.name, "B")

    def test_another_key_is_refused(self):
        with self.assertRaisesRegex(Damaged, "data-key id"):
            self.volume().check_key([bytes(reversed(KEY))])

    def test_zeros_are_damage_where_the_map_was_written_at_creation(self):
        zeros, parent = (196608, bytes(512)), {"snapshot": "snap-0", "size": CHUNK}
        self.assertEqual(self.volume(zeros, 1, parent).verify(), [])
        self.assertIn("CMAP block 0 at 196608: it was written", self.volume(zeros, 2, parent).verify()[0])
        with self.assertRaisesRegex(Damaged, "map has version 3"):
            self.volume(None, 3)

    def test_a_damaged_map_block_is_named(self):
        self.assertIn("CMAP block 0 at 196608", self.volume((196608, b"junk")).verify()[0])


class Blobs(unittest.TestCase):
    def make(self, context):
        backing, nonce = b"k" * 32, b"n" * 32
        before = struct.pack("<4s5B16s32s", b"COFB", 1, 1, 1, 0, 0, b"i" * 16,
                             sha256(b"coffer/kmid/v1" + b"i" * 16 + backing))
        both = hkdf(backing, nonce, b"coffer/blob/v1" + before, 64)
        aad = before + nonce + struct.pack("<H", 0) + both[32:]
        self.assertEqual(len(aad), HEAD.size + 32)
        return backing, aad + AESGCM(both[:32]).encrypt(bytes(12), KEY, aad + context_bytes(context))

    def test_unwrap(self):
        context = {"aws:ebs:id": "vol-1"}
        backing, raw = self.make(context)
        self.assertEqual(Blob(raw).unwrap(backing, context), KEY)
        with self.assertRaisesRegex(Damaged, "tag"):
            Blob(raw).unwrap(backing, {})
        with self.assertRaisesRegex(Damaged, "commitment"):
            Blob(raw).unwrap(b"j" * 32, context)
        with self.assertRaisesRegex(Damaged, "reaches past"):
            Blob(raw[: HEAD.size - 2] + b"\xff\xff" + raw[HEAD.size :])


def make_repository(root):
    """A repository of one snapshot with one chunk, sector 1 of it in use."""
    lineage, installation = b"l" * 16, b"i" * 16
    folder = root / lineage.hex() / installation.hex()
    for name in ("log", "manifests", "pages", "packs"):
        (folder / name).mkdir(parents=True)
    (root / "coffer-repository.json").write_text(json.dumps({
        "format": "coffer-repository", "version": 1, "repository": "00" * 16, "incompatible": [],
        "read_only_compatible": [], "compatible": []}))
    signer = Ed25519PrivateKey.from_private_bytes(b"s" * 32)

    def signed(path, word, magic, kind, number, previous, record):
        body = json.dumps(record).encode()
        raw = SIGNED.pack(magic, 1, kind, len(body), lineage, number, previous, installation) + body
        raw += signer.sign(b"coffer/" + word + b"/v1" + raw)
        path.write_bytes(raw)
        return blake3(raw)

    sector = xts(KEY, 1, b"coffer! " * 512, decrypt=False)
    data_key = hkdf(KEY, b"", b"coffer/data-key-id/v1", 16)
    tag = data_key[:4]
    sector_map, pack = b"\x02" + bytes(15), b"p" * 16
    head = BODY.pack(0, sector_map, tag, 4096, blake3(sector))
    start = (b"COFPACK1" + struct.pack("<HH16s16s", 1, 0, pack, lineage)).ljust(60, b"\0")
    start += struct.pack("<I", crc32c(start + bytes(4)))
    bodies = start + head + sector
    footer = head + struct.pack("<I", 64)
    tail = footer + struct.pack("<III", crc32c(footer), 1, len(bodies)) + b"COFPEND1"
    (folder / "packs" / pack.hex()).write_bytes(bodies + tail)
    page = PAGE_HEAD.pack(b"COFPAGE1", 1, 0, 0, 1, 0, 0)
    page += LEAF.pack(blake3(sector), pack, 64, 4096, sector_map, tag, 0, 0)
    (folder / "pages" / blake3(page).hex()).write_bytes(page)
    public = signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    manifest = signed(folder / "manifests" / "snap-1", b"manifest", b"COFMANI1", 1, 0, bytes(32), {
        "format": 1, "snapshot": "snap-1", "installation": installation.hex(), "root": blake3(page).hex(), "depth": 1,
        "size": CHUNK, "chunks": 1, "parent": None, "keys": {tag.hex(): data_key.hex()}})
    log = folder / "log"
    first = signed(log / f"{0:016x}", b"log", b"COFLOGR1", 1, 0, bytes(32), {"public_key": public})
    signed(log / f"{1:016x}", b"log", b"COFLOGR1", 2, 1, first, {"snapshot": "snap-1", "manifest": manifest.hex()})
    return folder, tag


class Repositories(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = pathlib.Path(scratch.name)
        self.folder, self.tag = make_repository(self.root)

    def problems(self):
        repo = Repository(self.root)
        repo.verify()
        return repo.problems

    def test_a_damaged_log_record_counts_until_a_mend_names_it(self):
        signer, log = Ed25519PrivateKey.from_private_bytes(b"s" * 32), self.folder / "log"
        record = log / f"{1:016x}"
        added = json.loads(record.read_bytes()[SIGNED.size : -64])
        record.write_bytes(record.read_bytes()[:-1] + b"!")
        self.assertRegex(str(self.problems()), "signature")
        for unreadable, good in (([], False), ([1], True)):
            live = {added["snapshot"]: {"manifest": added["manifest"], "time": 1, "held": False}}
            body = json.dumps({"unreadable": unreadable, "live": live, "deleted": {}, "keys": {}}).encode()
            raw = SIGNED.pack(b"COFLOGR1", 1, 7, len(body), b"l" * 16, 2, bytes(32), b"i" * 16) + body
            (log / f"{2:016x}").write_bytes(raw + signer.sign(b"coffer/log/v1" + raw))
            self.assertEqual(self.problems() == [], good)

    def test_verify_and_extract(self):
        self.assertEqual(self.problems(), [])
        out = io.BytesIO()
        Repository(self.root).extract("snap-1", out, {self.tag: KEY})
        self.assertEqual(out.getvalue(), (bytes(4096) + b"coffer! " * 512).ljust(CHUNK, b"\0"))

    def test_one_changed_byte_is_named(self):
        for path, at, text in ((next(self.folder.glob("packs/*")), 200, "hash does not match"),
                               (next(self.folder.glob("pages/*")), 40, "hash in the name"),
                               (self.folder / "manifests" / "snap-1", 75, "signature at"),
                               (next(self.folder.glob("packs/*")), 64 + 64 + 4096 + 70, "CRC of the footer"),
                               (self.folder / "log" / f"{1:016x}", 75, "signature at")):
            raw = path.read_bytes()
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            self.assertRegex("; ".join(self.problems()), text)
            path.write_bytes(raw)


if __name__ == "__main__":
    unittest.main()
