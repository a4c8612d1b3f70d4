"""Folders of runs and of sweeps: one folder, one writer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qat.errors import ConfigError
from qat.ranks import leads

LOCK = ".lock"


@contextmanager
def run_folder(path: Path, *, resume: bool) -> Iterator[Path]:
    """Create and hold a run folder; release it at the end. Of several ranks the first does so for all.

    Raises:
        ConfigError: it holds another run, another process writes there, or it cannot be written.
    """
    if not leads():
        yield path
        return
    with held(path):
        if not resume and any(entry.name != LOCK for entry in path.iterdir()):
            raise ConfigError(f"{path} already holds a run; give another output, or continue it with resume=true")
        yield path


@contextmanager
def held(path: Path) -> Iterator[Path]:
    """Create a folder and be the only process that writes there; one that is still empty at the end goes.

    Raises:
        ConfigError: another process writes there, or it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _claim(path / LOCK)
    except OSError as error:
        raise ConfigError(f"cannot write the folder {path}: {error.strerror}") from error
    try:
        yield path
    finally:
        (path / LOCK).unlink(missing_ok=True)
        if path.is_dir() and not any(path.iterdir()):  # refused before anything was written
            path.rmdir()


def _claim(lock: Path) -> None:
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        owner = lock.read_text().strip()
        if owner.isdigit() and int(owner) != os.getpid() and _alive(int(owner)):
            raise ConfigError(f"{lock.parent} is in use by process {owner}; wait for it or give another output") from None
        lock.unlink(missing_ok=True)  # left behind by a run that was killed
        return _claim(lock)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(str(os.getpid()))
    return None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
