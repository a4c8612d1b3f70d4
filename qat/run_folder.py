"""The run folder: one run, one folder, one writer."""

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
    try:
        path.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in path.iterdir() if entry.name != LOCK]
        if others and not resume:
            raise ConfigError(f"{path} already holds a run; give another output, or continue it with resume=true")
        _claim(path / LOCK)
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {path}: {error.strerror}") from error
    try:
        yield path
    finally:
        _release(path)


@contextmanager
def sweep_folder(path: Path) -> Iterator[Path]:
    """Create and hold the folder of a sweep, new or to be continued; `ConfigError` as for a run folder."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        _claim(path / LOCK)
    except OSError as error:
        raise ConfigError(f"cannot write the sweep folder {path}: {error.strerror}") from error
    try:
        yield path
    finally:
        _release(path)


def _release(path: Path) -> None:
    """Give the folder back; one that was refused before anything was written goes."""
    (path / LOCK).unlink(missing_ok=True)
    if path.is_dir() and not any(path.iterdir()):
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
