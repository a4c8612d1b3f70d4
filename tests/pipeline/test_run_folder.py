from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qat.errors import ConfigError
from qat.pipeline.run_folder import LOCK, held, run_folder


def test_run_folder_is_made_with_its_parents_and_released(tmp_path: Path) -> None:
    with run_folder(tmp_path / "a" / "b", resume=False) as folder:
        (folder / "report.json").write_text("{}")
        assert (folder / LOCK).read_text() == str(os.getpid())
    assert sorted(path.name for path in folder.iterdir()) == ["report.json"]


def test_run_folder_is_released_after_an_error(tmp_path: Path) -> None:
    def run() -> None:
        with run_folder(tmp_path / "run", resume=False) as folder:
            (folder / "config.yaml").write_text("")
            raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        run()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_run_folder_with_nothing_in_it_does_not_stay(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), run_folder(tmp_path / "run", resume=False):
        raise ConfigError("refused")
    assert not (tmp_path / "run").exists()


def test_second_run_in_a_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("first")
    with pytest.raises(ConfigError, match=r"already holds a run.*resume=true"), run_folder(tmp_path, resume=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_resume_enters_a_folder_that_holds_a_run(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("first")
    with run_folder(tmp_path, resume=True) as folder:
        assert (folder / "report.json").read_text() == "first"


HOLDER = """
import sys, time
from pathlib import Path
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
Path(sys.argv[1]).write_text(sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def holder(lock: Path, content: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, with that written in it."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock), content], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("content", "owner"), [("12345", "process 12345"), ("", "another process")])
def test_folder_of_a_living_process_is_refused(tmp_path: Path, resume: bool, content: str, owner: str) -> None:
    """Also when it has not yet written who it is."""
    with holder(tmp_path / LOCK, content):
        for _ in range(2):
            with pytest.raises(ConfigError, match=f"in use by {owner}"), run_folder(tmp_path, resume=resume):
                pass
        assert (tmp_path / LOCK).exists()


def test_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    with holder(tmp_path / LOCK, "12345") as process:
        process.kill()
        process.wait()
        with run_folder(tmp_path, resume=False) as folder:
            assert (folder / LOCK).read_text() == str(os.getpid())


@pytest.mark.parametrize("content", ["1", "", "rubbish"])
def test_lock_file_that_nobody_holds_locks_nothing(tmp_path: Path, content: str) -> None:
    """Whatever it says, and should a process of that number live: it is another one by now."""
    (tmp_path / LOCK).write_text(content)
    with run_folder(tmp_path, resume=False) as folder:
        assert (folder / LOCK).read_text() == str(os.getpid())


RACER = """
import sys, time
from pathlib import Path
from qat.errors import ConfigError
from qat.pipeline.run_folder import held
folder, until, wins = Path(sys.argv[1]), time.time() + 1.5, 0
while time.time() < until:
    try:
        with held(folder):
            inside = folder.with_name("inside")
            inside.touch(exist_ok=False)  # raises when another is in
            inside.unlink()
            wins += 1
    except ConfigError:
        pass
print(wins)
"""


FORKED = """
import os, sys
from pathlib import Path
from qat.pipeline.run_folder import held
with held(Path(sys.argv[1])):
    if os.fork() == 0:
        raise SystemExit
    os.wait()
    assert (Path(sys.argv[1]) / ".lock").exists()
"""


def test_forked_child_that_ends_does_not_give_the_folder_of_its_parent_back(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, str(tmp_path / "run")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_two_processes_hold_a_folder(tmp_path: Path) -> None:
    """Several that enter and leave as fast as they can, making and removing folder and lock."""
    arguments = [sys.executable, "-c", RACER, str(tmp_path / "run")]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    assert sum(int(out) for out, _ in outputs) > 10


def test_run_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"cannot write the folder .*file/run"),
        run_folder(tmp_path / "file" / "run", resume=False),
    ):
        pass


def test_held_folder_is_made_held_and_given_back(tmp_path: Path) -> None:
    with held(tmp_path / "a" / "b") as folder:
        assert (folder / LOCK).read_text() == str(os.getpid())
        (folder / "jobs.csv").write_text("")
    assert [path.name for path in folder.iterdir()] == ["jobs.csv"]


def test_sweep_goes_on_in_a_folder_that_holds_one(tmp_path: Path) -> None:
    """Unlike a run it needs no `resume=true`: what it holds says itself what is missing."""
    (tmp_path / "study.db").write_text("first")
    with held(tmp_path) as folder:
        assert (folder / "study.db").read_text() == "first"


def test_runs_of_a_sweep_have_locks_of_their_own(tmp_path: Path) -> None:
    with held(tmp_path / "sweep") as sweep, run_folder(sweep / "000", resume=False) as run:
        assert (sweep / LOCK).exists()
        assert (run / LOCK).exists()


def test_second_sweeper_is_refused_and_takes_nothing(tmp_path: Path) -> None:
    with holder(tmp_path / LOCK, "12345"):
        with pytest.raises(ConfigError, match="in use by process 12345"), held(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()


def test_held_folder_is_given_back_after_an_error_and_stays_only_if_it_holds_something(tmp_path: Path) -> None:
    for name, content in (("empty", False), ("full", True)):

        def sweep(name: str = name, content: bool = content) -> None:
            with held(tmp_path / name) as folder:
                if content:
                    (folder / "study.db").write_text("")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sweep()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["full", "full/study.db"]


def test_held_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"cannot write the folder .*file/sweep"),
        held(tmp_path / "file" / "sweep"),
    ):
        pass
