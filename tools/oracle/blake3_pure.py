"""BLAKE3 (hash mode, 32 bytes out) in plain Python, for machines without the `blake3` wheel. Slow, short, tested."""

import struct

_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT = 1, 2, 4, 8
_MASK = 0xFFFFFFFF
_QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)


def _compress(chaining, words, counter, length, flags):
    v = [*chaining, *_IV[:4], counter & _MASK, counter >> 32, length, flags]
    for _ in range(7):
        for step, (a, b, c, d) in enumerate(_QUARTERS):
            for x, turn, back in ((words[2 * step], 16, 12), (words[2 * step + 1], 8, 7)):
                v[a] = (v[a] + v[b] + x) & _MASK
                t = v[d] ^ v[a]
                v[d] = (t >> turn | t << (32 - turn)) & _MASK
                v[c] = (v[c] + v[d]) & _MASK
                t = v[b] ^ v[c]
                v[b] = (t >> back | t << (32 - back)) & _MASK
        words = [words[i] for i in _PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


def _chunk(data, counter, root):
    chaining = list(_IV)
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    for i, block in enumerate(blocks):
        flags = (_CHUNK_START if i == 0 else 0) | (_CHUNK_END | root if i == len(blocks) - 1 else 0)
        words = struct.unpack("<16I", block.ljust(64, b"\0"))
        chaining = _compress(chaining, words, counter, len(block), flags)
    return chaining


def _tree(data, counter, root):
    if len(data) <= 1024:
        return _chunk(data, counter, root)
    chunks = (len(data) + 1023) // 1024
    left = 1 << (chunks - 1).bit_length() - 1
    words = _tree(data[: left * 1024], counter, 0) + _tree(data[left * 1024 :], counter + left, 0)
    return _compress(_IV, words, 0, 64, _PARENT | root)


def blake3(data: bytes) -> bytes:
    """The 32-byte BLAKE3 of data."""
    return struct.pack("<8I", *_tree(bytes(data), 0, _ROOT))
