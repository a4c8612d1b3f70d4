"""Sweeps through the command itself, in processes of their own. What a search decides is in tests/sweep/."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from qat.pipeline.run_folder import LOCK
from tests.contract import check_report
from tests.runs import tiny_overrides

BIN = Path(sys.executable).parent

SHORT: dict[str, Any] = {"fp32__max_epochs": 1, "qat__max_epochs": 1, "data__limit_train": 64, "engines": ["fbgemm"]}


def _command(*arguments: str, **changes: Any) -> list[str]:
    """`qat-train -m` of a short run; without `output` or the keys that the arguments give."""
    given = {argument.partition("=")[0] for argument in arguments}
    base = tiny_overrides(Path("unused"), **{**SHORT, **changes})
    own = [argument for argument in base if argument.partition("=")[0] not in {*given, "output"}]
    return [str(BIN / "qat-train"), "-m", "recipe=digits_resnet", *own, *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def _sweep(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def _check_two_jobs(found: subprocess.CompletedProcess[str], folder: Path) -> None:
    """The first diverged, the second went on to its end, and everybody can see it."""
    assert found.returncode == 3, found.stderr
    rows = _rows(folder / "jobs.csv")
    assert [row["ended"] for row in rows] == ["failed (3)", "done"]
    assert [row["overrides"] for row in rows] == ["qat.lr=1e+30", "qat.lr=0.001"]
    assert [row["folder"] for row in rows] == ["0", "1"]
    assert not (folder / "0" / "report.json").exists()
    report = json.loads((folder / "1" / "report.json").read_text())
    check_report(report)
    assert float(rows[1]["INT8"]) == pytest.approx(report["stages"]["int8"], abs=0.005)
    assert not list(folder.rglob(LOCK))
    assert "qat.lr=0.001" in found.stdout
    assert "job 0 DivergedError" in found.stdout
    assert "Traceback" not in found.stdout + found.stderr


def test_grid_runs_all_jobs_in_folders_of_their_own_and_ends_with_the_code_of_the_bad_one(tmp_path: Path) -> None:
    found = _sweep(_command("qat.lr=1e30,1e-3", "hydra.sweep.dir=sweep", fp32__max_epochs=0), tmp_path)
    _check_two_jobs(found, tmp_path / "sweep")
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"0", "1", "jobs.csv", "comparison.html", "multirun.yaml"}
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["qat.rate=1e-3", "seed=1,2"], "Key 'rate' not in 'StageConfig'"),
        (["hydra/sweeper=optuna", "hydra.sweeper.sampler=tpee"], "unknown sampler 'tpee'. Did you mean 'tpe'"),
    ],
)
def test_sweep_that_cannot_be_ends_with_2_and_leaves_nothing(arguments: list[str], words: str, tmp_path: Path) -> None:
    found = _sweep(_command(*arguments, "hydra.sweep.dir=sweep"), tmp_path)
    assert found.returncode == 2, found.stderr
    assert words in found.stderr
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_a_search_says_what_to_install_and_a_grid_needs_nothing(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['optuna'] = None; "
    train = f"{hidden} from qat.cli.main import train; sys.argv[0] = 'qat-train'; train()"
    search = _command("hydra/sweeper=optuna", "hydra.sweep.dir=sweep")[1:]
    found = _sweep([sys.executable, "-c", train, *search], tmp_path)
    assert found.returncode == 2
    assert "pip install 'qat[sweep]'" in found.stderr
    grid = f"{hidden} from qat.cli.overrides import grid, read; print(grid(read(['a=1,2'])))"
    assert _sweep([sys.executable, "-c", grid], tmp_path).stdout == "[['a=1'], ['a=2']]\n"


@pytest.mark.slow
def test_sigterm_ends_the_job_at_work_the_others_go_on_and_so_does_the_sweep_with_resume(tmp_path: Path) -> None:
    command = _command("seed=0,1", "hydra.sweep.dir=sweep", fp32__max_epochs=30)
    sweep = tmp_path / "sweep"
    with subprocess.Popen(
        command, cwd=tmp_path, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        end = time.monotonic() + 120
        while not list((sweep / "0" / "checkpoints" / "fp32").glob("*.ckpt")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=120)
    assert process.returncode == 143, text
    assert [row["ended"] for row in _rows(sweep / "jobs.csv")] == ["interrupted (143)", "done"]
    assert not (sweep / "0" / "report.json").exists()
    check_report(json.loads((sweep / "1" / "report.json").read_text()))
    assert "resume=true" in text
    found = _sweep([*command, "resume=true"], tmp_path)
    assert found.returncode == 0, found.stdout
    assert [row["ended"] for row in _rows(sweep / "jobs.csv")] == ["done", "done"]


@pytest.mark.slow
def test_search_that_was_killed_goes_on_by_the_same_command(tmp_path: Path) -> None:
    """SIGKILL to all of it while trial 1 trains: no handler has a chance."""
    command = _command(
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweep.dir=sweep",
        "qat.lr=interval(1e-4,1e-2)",
    )
    sweep = tmp_path / "sweep"
    with subprocess.Popen(
        command, cwd=tmp_path, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        end = time.monotonic() + 120
        while not (sweep / "001" / "config.yaml").exists():
            assert process.poll() is None, "the search ended by itself"
            assert time.monotonic() < end, "trial 1 did not start"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (sweep / LOCK).exists()
    assert not (sweep / "001" / "report.json").exists()
    before = _study(sweep).trials
    assert [trial.state.name for trial in before] == ["COMPLETE", "RUNNING"]

    found = _sweep(command, tmp_path)
    assert found.returncode == 0, found.stderr
    after = _study(sweep).trials
    assert [trial.state.name for trial in after] == ["COMPLETE"] * 3
    assert [trial.params for trial in after[:2]] == [trial.params for trial in before]
    rates = {trial.number: trial.params["qat.lr"] for trial in after}
    assert len(set(rates.values())) == 3
    assert [row["folder"] for row in _rows(sweep / "trials.csv")] == ["000", "001", "002"]
    for number, rate in rates.items():
        report = json.loads((sweep / f"{number:03d}" / "report.json").read_text())
        assert after[number].value == report["stages"]["int8"]
        assert f"qat.lr={rate}" in (sweep / f"{number:03d}" / "overrides.yaml").read_text(), "exactly what was drawn"
        assert after[number].intermediate_values.keys() == {0}, "the run told the study of its epoch"
    assert (sweep / "trials.svg").exists()
    assert (sweep / "comparison.html").exists()
    assert not list(sweep.rglob(LOCK))


def _study(sweep: Path) -> optuna.Study:
    """The name of a study is that of its recipe."""
    return optuna.load_study(study_name="digits_resnet", storage=f"sqlite:///{sweep / 'study.db'}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "plugin", "options"),
    [
        ("joblib", "hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
        ("submitit_local", "hydra_submitit_launcher", []),
        ("ray", "hydra_ray_launcher", []),
    ],
)
def test_other_launchers_run_the_jobs_as_well(launcher: str, plugin: str, options: list[str], tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}")
    found = _sweep(_command("qat.lr=1e30,1e-3", "hydra.sweep.dir=sweep", f"hydra/launcher={launcher}", *options), tmp_path)
    if launcher == "joblib":
        assert "Joblib.Parallel(n_jobs=2" in found.stdout
    _check_two_jobs(found, tmp_path / "sweep")


@pytest.mark.slow
def test_output_of_a_sweep_may_be_chosen_per_job(tmp_path: Path) -> None:
    found = _sweep(_command("output=run-${hydra:job.num}", "task=detection,classification", "hydra.sweep.dir=sweep"), tmp_path)
    assert found.returncode == 2, found.stdout
    assert [row["folder"] for row in _rows(tmp_path / "sweep" / "jobs.csv")] == ["run-0", "run-1"]
    assert not (tmp_path / "run-0").exists()
    check_report(json.loads((tmp_path / "run-1" / "report.json").read_text()))
