"""The ciphertext blob of symmetric CMKs (docs/format.md)."""

import hmac
import struct

import choices
from primitives import gcm_open, hkdf, sha256
from volume_file import Damaged

HEAD = struct.Struct("<4s5B16s32s32sH")


def context_bytes(context) -> bytes:
    """u32 count, then pairs sorted by key bytes, each string u32 length + UTF-8; an absent context is an empty one."""
    pairs = sorted((k.encode(), v.encode()) for k, v in (context or {}).items())
    out = struct.pack("<I", len(pairs))
    for text in (text for pair in pairs for text in pair):
        out += struct.pack("<I", len(text)) + text
    return out


class Blob:
    """A parsed blob; offsets in errors count from its first byte."""

    def __init__(self, raw: bytes):
        if len(raw) < HEAD.size + 48:
            raise Damaged(f"blob: {len(raw)} bytes are too few")
        (self.magic, self.format, self.suite, self.purpose, self.flags, self.key_id_kind, self.key_id,
         self.material_id, self.nonce, recipient) = HEAD.unpack_from(raw)
        at = HEAD.size + recipient
        if at + 48 > len(raw):
            raise Damaged(f"blob: recipient length {recipient} at {HEAD.size - 2} reaches past the end")
        known = (choices.BLOB_MAGIC, choices.BLOB_FORMAT)
        if (self.magic, self.format) != known or self.suite not in choices.BLOB_SUITES:
            raise Damaged(f"blob: magic {self.magic!r}, format {self.format} at 4, suite {self.suite} at 5")
        self.recipient = raw[HEAD.size : at]
        self.before_nonce = raw[: HEAD.size - 2 - 32]
        self.commitment = raw[at : at + 32]
        self.aad, self.sealed = raw[: at + 32], raw[at + 32 :]

    def show(self):
        kinds = {name: getattr(self, name) for name in ("format", "suite", "purpose", "flags", "key_id_kind")}
        ids = {name: getattr(self, name).hex() for name in ("magic", "key_id", "material_id", "nonce", "recipient")}
        return kinds | ids | {"plain_bytes": len(self.sealed) - 16}

    def unwrap(self, backing: bytes, context) -> bytes:
        """The clear bytes, under the backing key."""
        if self.material_id != sha256(b"coffer/kmid/v1" + self.key_id + backing):
            raise Damaged("blob: commitment and key material id at 25 are those of another backing key")
        both = hkdf(backing, self.nonce, b"coffer/blob/v1" + self.before_nonce, 64)
        if not hmac.compare_digest(both[32:], self.commitment):
            raise Damaged(f"blob: commitment at {len(self.aad) - 32} does not match: another backing key")
        plain = gcm_open(both[:32], self.sealed, self.aad + context_bytes(context))
        if plain is None:
            raise Damaged("blob: tag does not match: other context, or changed bytes")
        return plain
