"""The file of an offline W&B run, made to travel: paths of artifact files become relative to the run folder.

W&B notes where the files of an artifact lie on the machine that made them, and `wandb sync` on another one looks there. With
relative paths `cd RUN && wandb sync wandb/offline-run-*` works wherever the folder is.

The file is a LevelDB log: after 7 bytes of W&B's own come blocks of 32 KiB with fragments, each a header (CRC-32 of kind and
data, length, kind) and its data; kind 1 is a whole record, 2, 3 and 4 are the first, a middle and the last part of one.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from qat.files import atomic_write

MAGIC = b":W&B\xe1\xbe\x00"
BLOCK = 32768
HEADER = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4

#: Seconds in which W&B has written the end of a finished run.
PATIENCE = 30.0


def records(content: bytes) -> Iterator[bytes]:
    """The serialized records of a file.

    Raises:
        ValueError: not such a file, or a damaged one.
    """
    if not content.startswith(MAGIC):
        raise ValueError("no W&B file of the known version")
    place, parts = len(MAGIC), b""
    while place + HEADER.size <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER.size:
            place += left
            continue
        checksum, length, kind = HEADER.unpack_from(content, place)
        place += HEADER.size
        data = content[place : place + length]
        place += length
        if len(data) < length or kind not in (WHOLE, FIRST, MIDDLE, LAST) or zlib.crc32(bytes([kind]) + data) != checksum:
            raise ValueError(f"damaged at byte {place}")
        parts += data
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""


def framed(serialized: Iterable[bytes]) -> bytes:
    """The file with these records."""
    content = bytearray(MAGIC)
    for record in serialized:
        rest, begun = record, False
        while True:
            left = BLOCK - len(content) % BLOCK
            if left < HEADER.size:
                content += b"\0" * left
                left = BLOCK
            data, rest = rest[: left - HEADER.size], rest[left - HEADER.size :]
            kind = (MIDDLE if begun else FIRST) if rest else (LAST if begun else WHOLE)
            content += HEADER.pack(zlib.crc32(bytes([kind]) + data), len(data), kind) + data
            begun = True
            if not rest:
                break
    return bytes(content)


def make_portable_(folder: Path) -> None:
    """Let the offline runs in a run folder find their files relative to it.

    The process of W&B still writes after a run has finished; a file replaced before its end would lose what comes.

    Args:
        folder: absolute, as it was when the runs were made.

    Raises:
        ValueError: a file that is not understood, or the newest one is not ended in `PATIENCE` seconds; it is left as it was.
    """
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    for path in paths[-1:]:
        _wait_for_end(path)
    for path in paths:
        content = framed(_relative(record, folder) for record in records(path.read_bytes()))
        with atomic_write(path) as handle:
            handle.write(content)


def _wait_for_end(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not _ended(path.read_bytes()):
        if time.monotonic() > deadline:
            list(records(path.read_bytes()))  # says what is wrong where it is damaged
            raise ValueError(f"the W&B file {path} is not ended after {PATIENCE:g} s")
        time.sleep(0.05)


def _ended(content: bytes) -> bool:
    """Whether every record is whole, and that of the run's end among them."""
    try:
        kinds = {_parsed(serialized).WhichOneof("record_type") for serialized in records(content)}
    except ValueError:  # half-written still
        return False
    return "exit" in kinds


def _parsed(serialized: bytes) -> Any:
    record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
    record.ParseFromString(serialized)
    return record


def _relative(serialized: bytes, folder: Path) -> bytes:
    record = _parsed(serialized)
    if record.WhichOneof("record_type") != "artifact":
        return serialized
    for entry in record.artifact.manifest.contents:
        entry.local_path = entry.local_path.removeprefix(f"{folder}/")
    relative: bytes = record.SerializeToString()
    return relative
