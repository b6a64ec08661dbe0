"""Makes DIR/sealed.img, an ext4 file system sealed with AES-256-XTS in 4 KiB units, DIR/sealed.key and the hashes of
its files (DIR/sealed.sha256): what `coffer volume export --sealed --fill-holes` would make, without coffer."""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

UNIT = 4096
SIZE = 8 << 20


def seal(plain: bytes, key: bytes) -> bytes:
    """The sealed bytes; the tweak is the number of the 4 KiB unit, little-endian."""
    out = []
    for number in range(len(plain) // UNIT):
        encryptor = Cipher(algorithms.AES(key), modes.XTS(number.to_bytes(16, "little"))).encryptor()
        out.append(encryptor.update(plain[number * UNIT : (number + 1) * UNIT]))
    return b"".join(out)


def main(target: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch, "files")
        folder.mkdir()
        sums = []
        for number in range(8):
            body = os.urandom(100_000 + number)
            (folder / f"file{number}").write_bytes(body)
            sums.append(f"{hashlib.sha256(body).hexdigest()}  file{number}\n")
        image = pathlib.Path(scratch, "fs")
        with image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-d", folder, image], check=True)
        key = os.urandom(64)
        (target / "sealed.img").write_bytes(seal(image.read_bytes(), key))
    (target / "sealed.key").write_bytes(key)
    (target / "sealed.sha256").write_text("".join(sums))


main(pathlib.Path(sys.argv[1]))
