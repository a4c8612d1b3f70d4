"""An interrupted run, continued, is the uninterrupted one: weights, observers, optimizer and INT8 program, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from qat.errors import PreemptedError, SchemeError
from qat.pipeline.train import train
from qat.training import fit as fit_module
from qat.training.callbacks.checkpoint import callbacks_for
from tests.runs import TINY, TINY_TEXT, quiet, tiny_config, tiny_overrides

#: 4 steps an epoch: FP32 has 8, QAT 12. Observers move in the first 6 steps of QAT.
RUN: dict[str, Any] = {
    "data__limit_train": 64,
    "fp32__max_epochs": 2,
    "qat__max_epochs": 3,
    "quantization__freeze_ranges_at": 0.5,
    "model__options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "drop_rate": 0.2},
    "engines": ["fbgemm"],
}


class PowerCutError(Exception):
    """Stands for a power cut."""


class PowerCut(Callback):
    """Raises in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise PowerCutError


class Switches(Callback):
    """(stage, step) -> (observing, quantizing) of every activation."""

    def __init__(self, stage: str, seen: dict[tuple[str, int], set[tuple[bool, bool]]]) -> None:
        self.stage, self.seen = stage, seen

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.stage == "qat":
            modules = pl_module.model.fake_quantizes()  # type: ignore[operator, union-attr]
            self.seen[self.stage, trainer.global_step] = {(m.observing, m.quantizing) for _, m in modules}


def _run(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    cut: tuple[str, int] | None = None,
    base: Mapping[str, Any] = TINY,
    run: Mapping[str, Any] = RUN,
    **changes: Any,
) -> dict[Any, Any]:
    """Train in `folder`; the power goes before optimizer step `cut[1]` of stage `cut[0]`."""
    seen: dict[tuple[str, int], set[tuple[bool, bool]]] = {}

    def callbacks(checkpoints: Path) -> Sequence[Callback]:
        stage = checkpoints.name
        extra = [PowerCut(cut[1])] if cut is not None and cut[0] == stage else []
        return [*callbacks_for(checkpoints), *extra, Switches(stage, seen)]

    monkeypatch.setattr(fit_module, "callbacks_for", callbacks)
    train(tiny_config(folder, base=base, **{**run, **changes}), console=quiet())
    return seen


def _last(folder: Path, stage: str) -> dict[str, Any]:
    path = max((folder / "checkpoints" / stage).glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def _equal(a: Any, b: Any, where: str = "") -> None:
    """Raise, naming the place, when two nested structures differ in one bit."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            _equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            _equal(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def _same(a: Path, b: Path) -> None:
    """Hold two finished run folders to each other."""
    for stage in ("fp32", "qat"):
        ours, theirs = _last(a, stage), _last(b, stage)
        for key in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers"):
            _equal(ours[key], theirs[key], f"{stage}.{key}")
        for name in ("RngState", "DivergenceGuard"):
            _equal(ours["callbacks"][name], theirs["callbacks"][name], f"{stage}.{name}")
    for name in ("graph.json", "model.safetensors", "golden.safetensors"):
        assert (a / "artifact" / name).read_bytes() == (b / "artifact" / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Any, Any]]:
    """The uninterrupted run and its switches."""
    folder = tmp_path_factory.mktemp("resume") / "whole"
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        return folder, _run(folder, patch)


def test_uninterrupted_run_moves_its_observers_and_stops_them(whole: tuple[Path, dict[Any, Any]]) -> None:
    """Otherwise the comparisons below would compare nothing."""
    folder, switches = whole
    assert switches == {("qat", step): {(step < 6, True)} for step in range(12)}
    state = _last(folder, "qat")["state_dict"]
    for part in ("observer.low", "scale", "zero_point", "weight"):
        assert any(name.endswith(part) for name in state), part
    assert _last(folder, "fp32")["epoch"] == 1


@pytest.mark.parametrize("cut", [("fp32", 5), ("qat", 1), ("qat", 5), ("qat", 9)], ids=lambda cut: f"{cut[0]}-{cut[1]}")
def test_resumed_run_equals_the_uninterrupted_one(
    whole: tuple[Path, dict[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: tuple[str, int]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(PowerCutError):
        _run(folder, monkeypatch, cut=cut)
    assert not (folder / "artifact").exists()
    torch.manual_seed(99)  # another process: nothing may hang on what was drawn before
    np.random.seed(99)
    switches = _run(folder, monkeypatch, resume=True)
    assert switches.items() <= whole[1].items()
    if cut[0] == "qat":
        assert min(step for _, step in switches) == cut[1] // 4 * 4, "only the interrupted epoch is done again"
    _same(folder, whole[0])


class Eviction(Callback):
    """Sends this process SIGTERM in the middle of a step, as a cluster does that wants its machine back."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("cut", [("fp32", 5), ("qat", 1), ("qat", 6)], ids=lambda cut: f"{cut[0]}-{cut[1]}")
def test_run_that_is_told_to_end_continues_at_the_very_next_step(
    whole: tuple[Path, dict[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: tuple[str, int]
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(f"{__name__}.PowerCut", Eviction)
    with pytest.raises(PreemptedError, match=f"at step {cut[1] + 1};.*resume=true") as caught:
        _run(folder, monkeypatch, cut=cut)
    assert caught.value.exit_code == 143
    assert not (folder / ".lock").exists()
    torch.manual_seed(99)
    np.random.seed(99)
    switches = _run(folder, monkeypatch, resume=True)
    if cut[0] == "qat":
        assert min(step for _, step in switches) == cut[1] + 1, "no step is done twice"
    _same(folder, whole[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantization__target": "x86_vnni"}, r"target: checkpoint 'x86', model 'x86_vnni'"),
        ({"quantization__keep_float": ["fc"]}, r"kernels: checkpoint alone has \[.*'linear'\], model alone has \[\]"),
    ],
    ids=str,
)
def test_resume_with_another_scheme_names_the_difference(
    whole: tuple[Path, dict[Any, Any]], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    folder = whole[0]
    before = (folder / "report.json").read_bytes()
    with pytest.raises(SchemeError, match=words) as caught:
        _run(folder, monkeypatch, resume=True, engines=["reference"], **changes)
    assert caught.value.exit_code == 2
    assert (folder / "report.json").read_bytes() == before


@pytest.mark.slow
def test_run_killed_by_the_system_is_resumed_bit_for_bit(
    whole: tuple[Path, dict[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    command = [str(Path(sys.executable).parent / "qat-train"), "recipe=digits_resnet", *tiny_overrides(folder, **RUN)]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list((folder / "checkpoints" / "qat").glob("*.ckpt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (folder / ".lock").exists()
    _run(folder, monkeypatch, resume=True)
    _same(folder, whole[0])


@pytest.mark.parametrize(
    "cut", [pytest.param(("fp32", 9), marks=pytest.mark.slow), ("qat", 9)], ids=lambda cut: f"{cut[0]}-{cut[1]}"
)
def test_resumed_text_run_is_the_uninterrupted_one(
    cut: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buckets of similar length, dropout, a tokenizer learned anew by the second process: 7 steps an epoch."""
    text: dict[str, Any] = {"fp32__max_epochs": 2, "qat__max_epochs": 2, "gate__enforce": False}
    _run(tmp_path / "whole", monkeypatch, base=TINY_TEXT, run=text)
    with pytest.raises(PowerCutError):
        _run(tmp_path / "cut", monkeypatch, base=TINY_TEXT, run=text, cut=cut)
    _run(tmp_path / "cut", monkeypatch, base=TINY_TEXT, run=text, resume=True)
    _same(tmp_path / "whole", tmp_path / "cut")
