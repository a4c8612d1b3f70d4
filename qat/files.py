"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` for writing; it takes the place of `path` when the block ends well, and goes otherwise.

    What is written is on the disk before the name is, so that a machine that loses power has the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with staging.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_write(path) as handle:
        handle.write(text.encode())


def write_json(path: Path, data: object) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")
