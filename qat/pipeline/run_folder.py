"""Folders of runs and of sweeps: one folder, one writer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from qat.errors import ConfigError
from qat.ranks import leads

LOCK = ".lock"

#: How often a folder is made again that somebody else has just removed.
TRIES = 100


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

    The lock is the kernel's: it ends with the process that holds it, however that ends. What the file says is for people.

    Raises:
        ConfigError: another process writes there, or it cannot be written.
    """
    lock = FileLock(path / LOCK, blocking=False)
    try:
        _claim(path, lock)
    except OSError as error:
        raise ConfigError(f"cannot write the folder {path}: {error.strerror}") from error
    owner = os.getpid()
    try:
        yield path
    finally:
        if os.getpid() == owner:  # a forked child that ends here holds nothing
            _release(path, lock)


def _release(path: Path, lock: FileLock) -> None:
    """Give the lock back; the file goes while it is held, so that who has opened it before sees that, and makes another."""
    (path / LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()  # when it is empty: refused before anything was written
    lock.release()


def _claim(path: Path, lock: FileLock) -> None:
    """Make the folder and take its lock; both may go at any moment, when whoever holds them leaves."""
    for _ in range(TRIES):
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            (path / LOCK).write_text(str(os.getpid()))
            return
        except FileNotFoundError:
            continue
        except FileExistsError:  # it went between two looks of mkdir, or is no folder
            if path.exists() and not path.is_dir():
                raise
        except Timeout:
            raise ConfigError(f"{path} is in use by {_owner(path)}; wait for it or give another output") from None
    raise ConfigError(f"the folder {path} vanishes as soon as it is made; give another output")


def _owner(path: Path) -> str:
    """Who holds a folder, in words."""
    try:
        process = (path / LOCK).read_text().strip()
    except OSError:
        process = ""
    return f"process {process}" if process.isdigit() else "another process"
