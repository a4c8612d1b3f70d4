"""Trainings by several ranks, through the command."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml

from qat.cli.launch import launch, read_config
from qat.config import to_record
from qat.config.training import TorchrunConfig
from qat.errors import ConfigError, PrunedError
from qat.pipeline.train import train
from tests.contract import check_report
from tests.runs import quiet, tiny_config, tiny_overrides

BIN = Path(sys.executable).parent
TRAINING = {"fp32__max_epochs": 6, "qat__max_epochs": 2, "engines": ["fbgemm"], "data__limit_train": 128, "data__batch_size": 8}


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A test that fails half-way leaves no training behind."""
    yield
    for process in STARTED:
        process.kill()
        process.communicate()
    STARTED.clear()


def start(output: Path, *arguments: str, **changes: Any) -> subprocess.Popen[str]:
    overrides = tiny_overrides(output, **{**TRAINING, **changes})
    command = [str(BIN / "qat-train"), "recipe=digits_resnet", "launch=torchrun", "launch.nproc=2", *overrides, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output.parent.mkdir(exist_ok=True)
    started = subprocess.Popen(
        command, cwd=output.parent, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    STARTED.append(started)
    return started


def end(process: subprocess.Popen[str], seconds: float = 180) -> tuple[int, str]:
    text, _ = process.communicate(timeout=seconds)
    return process.returncode, text


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Wait until there is something, while the process runs."""
    for _ in range(600):
        if value := found():
            return value
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise TimeoutError


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the ranks, in their order."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(pid) for pid in found.read_text().split()]
    return [pid for pid in pids if b"qat.cli.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def last_checkpoint(folder: Path, stage: str) -> dict[str, Any]:
    path = max((folder / "checkpoints" / stage).glob("*.ckpt"))
    state: dict[str, Any] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training by two ranks that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("two") / "run"
    code, text = end(start(folder))
    assert code == 0, text
    return folder


def test_two_ranks_train_one_run(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_text())
    check_report(report)
    assert (whole / "artifact" / "manifest.json").is_file()
    assert not (whole / ".lock").exists()
    assert re.search(r"2 ranks hold the same \d+ ranges", (whole / "train.log").read_text())
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["stage"], line["step"]) for line in lines if "val/top1" in line]
    assert len(logged) == len(set(logged)) == 8, "one rank alone writes"
    steps = {stage: max(step for s, step in logged if s == stage) + 1 for stage in ("fp32", "qat")}
    assert steps == {"fp32": 6 * 128 // 16, "qat": 2 * 128 // 16}, "a global batch is that of both ranks"


def test_step_of_two_ranks_is_that_of_one_process_with_the_batches_of_both(tmp_path: Path) -> None:
    """One step of SGD in QAT: the gradient of a global batch is the mean over its halves, and the ranges are equal."""
    step: dict[str, Any] = {
        **TRAINING,
        "fp32__max_epochs": 0,
        "qat__max_steps": 1,
        "optimizer": "sgd",
        "qat__lr": 0.05,
        "qat__warmup": 0.0,
    }
    code, text = end(start(tmp_path / "two", **step))
    assert code == 0, text
    for name, batch_size in (("one", 16), ("half", 8)):  # the half is what rank 0 sees
        train(tiny_config(tmp_path / name, **{**step, "data__batch_size": batch_size}), console=quiet())
    two, one, half = (last_checkpoint(tmp_path / name, "qat") for name in ("two", "one", "half"))
    floats = [name for name, value in one.items() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    assert any(name.endswith(".scale") for name in floats)
    assert any(name.endswith(".weight") for name in floats)
    for name in floats:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6)
    assert max(float((half[name] - one[name]).abs().max()) for name in floats if "weight" in name) > 1e-4


@pytest.mark.slow
def test_ranks_that_are_told_to_end_continue_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    wait_for(lambda: list((folder / "checkpoints" / "fp32").glob("*.ckpt")), process)
    process.send_signal(signal.SIGTERM)
    code, text = end(process, 60)
    assert code == 143, text
    assert "resume=true" in text
    assert not (folder / ".lock").exists()
    assert not (folder / "report.json").exists()
    code, text = end(start(folder, "resume=true"))
    assert code == 0, text
    for stage in ("fp32", "qat"):
        ours, theirs = last_checkpoint(folder, stage), last_checkpoint(whole, stage)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            same = torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value
            assert same, f"{stage} {name}"
    weights = "artifact/model.safetensors"
    assert (folder / weights).read_bytes() == (whole / weights).read_bytes()


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_and_a_restart_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, fp32__max_epochs=20)
    wait_for(lambda: list((folder / "checkpoints" / "fp32").glob("*.ckpt")), process)
    pids = ranks_of(process)
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    code, text = end(process, 60)
    assert code == 1, text
    assert re.search(r"LaunchError: rank 1 \(process \d+\) was killed by signal 9", text)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    process = start(folder, "resume=true", "launch.max_restarts=1", fp32__max_epochs=20)
    pids = wait_for(lambda: ranks_of(process), process)
    wait_for(lambda: (folder / ".lock").exists(), process)
    os.kill(pids[0], signal.SIGKILL)
    code, text = end(process)
    assert code == 0, text
    check_report(json.loads((folder / "report.json").read_text()))


@pytest.mark.slow
def test_ranks_of_a_trial_that_is_pruned_end_as_such(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    for _ in range(5):  # better than any network
        trial = study.ask()
        trial.report(101.0, step=0)
        study.tell(trial, 101.0)
    study.ask()
    trial_of = (f"trial.storage='{storage}'", "trial.study=s", "trial.number=5")
    code, text = end(start(tmp_path / "run", *trial_of, fp32__max_epochs=0))
    assert code == PrunedError.exit_code, text
    assert re.search(r"PrunedError: trial 5 is pruned after epoch 1", text)
    assert list(study.trials[5].intermediate_values) == [0], "one rank reports"


def test_ranks_with_different_configurations_refuse(tmp_path: Path) -> None:
    """Two 'machines', each with one rank; also what several machines do."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    several = ("launch.nproc=1", "launch.nnodes=2", f"launch.endpoint=localhost:{port}")
    processes = [start(tmp_path / "run", *several, f"launch.node_rank={i}", f"qat.lr=0.0{i + 1}") for i in range(2)]
    for code, text in map(end, processes):
        assert code == 2, text
        assert "different configurations: qat.lr: rank 0 0.01, rank 1 0.02" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nnodes": 2}, "launch.endpoint=HOST:PORT"),
        ({"nnodes": 2, "node_rank": 2}, "launch.node_rank=2 must lie below"),
    ],
    ids=str,
)
def test_launch_refuses_settings_that_cannot_be(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        launch(tiny_config(tmp_path / "run"), TorchrunConfig(**changes), [])


def test_configuration_survives_its_file(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path / "run",
        data="huggingface",
        data__image_column="img",
        model__options={"a": 1},
        launch="torchrun",
        logger="wandb",
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_record(config)))
    assert read_config(path) == config


@pytest.mark.parametrize("content", ["seed: many", "sead: 1", "choices: {data: digit}", "[1, 2]", "a: [", None], ids=str)
def test_file_that_is_no_configuration_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"config.yaml is no configuration"):
        read_config(path)


def test_worker_ends_with_2_for_a_bad_file(tmp_path: Path) -> None:
    command: Sequence[str] = [sys.executable, "-m", "qat.cli.worker", str(tmp_path / "none.yaml")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "ConfigError" in found.stderr
