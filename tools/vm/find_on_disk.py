"""find_on_disk.py IMAGE ABSENT PRESENT: succeeds if the sparse IMAGE has PRESENT somewhere and ABSENT nowhere."""

import os
import sys

STEP = 16 << 20


def pieces(image):
    """The image's data, holes left out, in pieces that overlap by more than a marker's length."""
    at, size = 0, os.fstat(image.fileno()).st_size
    while at < size:
        try:
            at = os.lseek(image.fileno(), at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(image.fileno(), at, os.SEEK_HOLE)
        while at < end:
            yield os.pread(image.fileno(), min(STEP + 256, size - at), at)
            at = min(at + STEP, end)


def main(path: str, absent: bytes, present: bytes) -> int:
    if not absent or not present:
        print("the guest named no marker")
        return 1
    seen, total = {absent: 0, present: 0}, 0
    with open(path, "rb") as image:
        for piece in pieces(image):
            total += len(piece)
            for marker in seen:
                seen[marker] += marker in piece
    print(f"# of {total >> 20} MiB on the disk, {seen[absent]} pieces have the marker, {seen[present]} the control")
    return 0 if seen[present] and not seen[absent] else 1


sys.exit(main(sys.argv[1], sys.argv[2].encode(), sys.argv[3].encode()))
