#!/usr/bin/env python3
"""A second reader of coffer's formats, written from docs/format.md alone: the oracle of coffer's tests.

  coffer_reader.py volume show FILE
  coffer_reader.py volume verify FILE [--key KEYFILE]...
  coffer_reader.py volume read FILE --key KEYFILE [--offset N] [--length N]     plain bytes to stdout
  coffer_reader.py repo show|verify FOLDER
  coffer_reader.py repo extract FOLDER SNAPSHOT OUT [--key KEYFILE]...          sealed without a key
  coffer_reader.py blob show FILE
  coffer_reader.py blob unwrap FILE --backing KEYFILE [--context KEY=VALUE]...  clear bytes to stdout

A KEYFILE has the raw bytes (64 for a data key, 32 for a backing key). Exit status: 0, or 1 with a line that says what
is damaged and where.
"""

import argparse
import json
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from blob import Blob  # noqa: E402
from primitives import hkdf  # noqa: E402
from repository import Repository  # noqa: E402
from volume_file import Damaged, Volume  # noqa: E402


def show(value):
    print(json.dumps(value, indent=2, default=lambda b: b.hex()))


def key_bytes(paths):
    return [pathlib.Path(path).read_bytes() for path in paths or []]


def volume_show(args):
    volume = Volume(args.file)
    slots = [{"slot": s.name, "volume_id": s.volume_id, "flags": s.flags,
              **{name: {"generation": b["generation"], "magic": b["magic"], "body": b["json"]}
                 for name, b in s.blocks.items()}} for s in volume.slots]
    show({"active": volume.slot.name, "size": volume.size, "data_offset": volume.data_offset, "slots": slots,
          "problems": volume.problems})


def volume_verify(args):
    volume = Volume(args.file)
    problems = volume.verify()
    if args.key:
        epochs = volume.check_key(key_bytes(args.key))
        print(f"data-key id and identity MAC match (key epochs {sorted(epochs)})")
    if problems:
        raise Damaged("; ".join(problems))
    print(f"{volume.slot.volume_id}: {len(volume.slots)} slots, map and write-intent are whole")


def volume_read(args):
    volume = Volume(args.file)
    keys = volume.check_key(key_bytes(args.key))
    length = volume.size - args.offset if args.length is None else args.length
    for piece in volume.read(args.offset, length, keys):
        sys.stdout.buffer.write(piece)


def repo_show(args):
    repo = Repository(args.file)
    show({"repository": repo.head, "folders": [
        {"path": str(f.path), "records": [r.json for r in filter(None, f.records.values())],
         "manifests": {name: m.json for name, m in f.manifests.items()}} for f in repo.folders]})


def repo_verify(args):
    repo = Repository(args.file)
    snapshots, chunks = repo.verify()
    if repo.problems:
        raise Damaged("; ".join(repo.problems))
    print(f"{snapshots} snapshots, {chunks} chunks: log chains, signatures, trees and hashes are right")


def repo_extract(args):
    keys = {hkdf(k, b"", b"coffer/data-key-id/v1", 16)[:4]: k for k in key_bytes(args.key)} or None
    with open(args.out, "wb") as out:
        Repository(args.file).extract(args.snapshot, out, keys)


def blob_show(args):
    show(Blob(pathlib.Path(args.file).read_bytes()).show())


def blob_unwrap(args):
    context = dict(pair.split("=", 1) for pair in args.context or [])
    plain = Blob(pathlib.Path(args.file).read_bytes()).unwrap(pathlib.Path(args.backing).read_bytes(), context)
    sys.stdout.buffer.write(plain)


def parser():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nouns = top.add_subparsers(required=True)
    tables = {"volume": (volume_show, volume_verify, volume_read), "repo": (repo_show, repo_verify, repo_extract),
              "blob": (blob_show, blob_unwrap)}
    for noun, functions in tables.items():
        verbs = nouns.add_parser(noun).add_subparsers(required=True)
        for function in functions:
            verb = verbs.add_parser(function.__name__.split("_")[1])
            verb.add_argument("file")
            verb.set_defaults(run=function)
            if function in (volume_verify, volume_read, repo_extract):
                verb.add_argument("--key", action="append", required=function is volume_read)
            if function is volume_read:
                verb.add_argument("--offset", type=int, default=0)
                verb.add_argument("--length", type=int)
            if function is repo_extract:
                verb.add_argument("snapshot")
                verb.add_argument("out")
            if function is blob_unwrap:
                verb.add_argument("--backing", required=True)
                verb.add_argument("--context", action="append")
    return top


def main():
    args = parser().parse_args()
    try:
        args.run(args)
    except (Damaged, OSError, ValueError, KeyError, struct.error) as error:
        print(f"coffer_reader: {args.file}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
