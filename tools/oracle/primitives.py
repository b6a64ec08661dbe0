"""The cryptography and checksums that coffer's formats name, from libraries other than coffer's own."""

import hashlib
import hmac as _hmac

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blake3_pure import blake3 as _slow_blake3

try:
    from blake3 import blake3 as _fast

    def blake3(data: bytes) -> bytes:
        """The 32-byte BLAKE3 of data."""
        return _fast(data).digest()

except ImportError:
    blake3 = _slow_blake3

SECTOR = 4096
PART = 512


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as iSCSI and ext4 have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return _hmac.new(key, data, hashlib.sha256).digest()


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt or None, info).derive(key)


def gcm_open(key: bytes, sealed_and_tag: bytes, aad: bytes) -> "bytes | None":
    """AES-256-GCM with IV 0; None if the tag is wrong."""
    try:
        return AESGCM(key).decrypt(bytes(12), sealed_and_tag, aad)
    except InvalidTag:
        return None


def ed25519_ok(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def xts(key: bytes, number: int, data: bytes, decrypt: bool = True) -> bytes:
    """One data unit of AES-256-XTS with tweak LE128(number)."""
    cipher = Cipher(algorithms.AES(key), modes.XTS(number.to_bytes(16, "little")))
    context = cipher.decryptor() if decrypt else cipher.encryptor()
    return context.update(data) + context.finalize()


def open_sector(key: bytes, number: int, sealed: bytes) -> bytes:
    """Plain bytes of a sector; a 512-byte part whose sealed bytes are all zero reads as zeros (the hole rule)."""
    if not any(sealed):
        return bytes(len(sealed))
    plain = bytearray(xts(key, number, sealed))
    for at in range(0, len(sealed), PART):
        if not any(sealed[at : at + PART]):
            plain[at : at + PART] = bytes(PART)
    return bytes(plain)
