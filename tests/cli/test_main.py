from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qat.cli import main as cli
from qat.cli.recipes import recipes
from tests.contract import check_report
from tests.runs import call, tiny_overrides, train

BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write into the current folder."""
    monkeypatch.chdir(tmp_path)


def _arguments(**changes: Any) -> list[str]:
    return ["recipe=digits_resnet", *tiny_overrides(Path("run"), **changes)]


def test_train_ends_with_0_and_writes_into_its_run_folder_alone(finished: Path) -> None:
    """The fixture has asserted the 0."""
    check_report(json.loads((finished / "report.json").read_text()))
    assert [path.name for path in finished.parent.iterdir()] == [finished.name]
    assert list((finished / "csv").rglob("metrics.csv"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipe=digits_resnet18"], "digits_resnet"),
        (["qat.learning_rate=1"], "learning_rate"),
        (["quantisation=x86"], "quantisation"),
        (["quantization=x68"], "x86_vnni"),
        (["data=folder"], "data.root is missing"),
        (["data=digits", "data.image_column=img"], "image_column is a key of data=huggingface, and data is digits"),
        (["model.optins.layers=1"], "Did you mean 'options'"),
        (["trainer.max_epochs=3"], "Give fp32.max_epochs or qat.max_epochs"),
        (["trainer.accumulate_grad_batches=0"], "at least 1"),
        (["callbacks=emma"], "Did you mean 'ema'"),
        (["callbacks=ema", "callbacks.ema.dekay=0.9"], "Did you mean 'decay'"),
        (["qat.epochs=3"], "give qat.max_epochs"),
        (["quantization=fbgemm"], "It is now called x86_vnni"),
        (["quantization=x86,portable"], "It is now called any"),
        (["quantization.backend=fbgemm"], "a target is one word now"),
        (["engines=[qnnpack]"], r"qnnpack is for quantization=arm or quantization=any"),
        (["qat.max_epochs=many"], "many"),
        (["model.name=resnet9999"], "unknown timm model 'resnet9999'"),
        (["engines=[fbgem]"], r"unknown engine 'fbgem'. Did you mean 'fbgemm'"),
        (["engines=[]"], r"engines=\[fbgemm\]"),
        (["logger=wandbb"], "logger=wandbb: unknown logger. Did you mean 'wandb'"),
        (["task=classify"], "task=classify: unknown task. Did you mean 'classification'"),
        (["data=digit"], "data=digit: unknown data. Did you mean 'digits'"),
        (["optimizer=adamv"], "optimizer=adamv: unknown optimizer. Did you mean 'adam"),
        (["quantization.keep_float=[head*]"], r"keep_float pattern 'head\*'"),
        (["output=file/run"], "cannot write the folder file/run"),
        (["resume=maybe"], "maybe"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_configuration_ends_with_2_and_one_message(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    given = {argument.partition("=")[0] for argument in arguments}
    base = [argument for argument in _arguments() if argument.partition("=")[0] not in given]
    assert train([*base, *arguments], monkeypatch) == 2
    message = capsys.readouterr().err
    assert re.search(words, message), message
    assert "Traceback" not in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_diverging_training_ends_with_3_and_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = _arguments(fp32__lr=1e6, fp32__gradient_clip_val=None, fp32__max_epochs=20, optimizer="sgd", fp32__warmup=0.0)
    assert train(arguments, monkeypatch) == 3
    message = capsys.readouterr().err
    assert "DivergedError" in message
    assert "divide lr" in message
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.fixture
def wandb_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_DATA_DIR", "elsewhere")  # so that pytest takes back what the run sets
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.mark.usefixtures("wandb_environment")
def test_failed_gate_ends_with_4_after_report_and_wandb_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = _arguments(gate__max_drop=-100, logger="wandb", fp32__max_epochs=1, engines=["fbgemm"])
    assert train(arguments, monkeypatch) == 4
    assert "accuracy (drop" in capsys.readouterr().err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    check_report(report)
    assert [gate["name"] for gate in report["gates"] if not gate["passed"]] == ["accuracy"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "W&B writes into the run folder alone"
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    found = _wandb_summary(folder)
    for stage, value in report["stages"].items():
        assert found[f"{stage}/top1"] == pytest.approx(value, abs=1e-4)
    assert found["int8/drop"] == pytest.approx(report["drop"]["value"], abs=1e-4)
    assert {"int8/agreement", "simulation/agreement", "fp32/val/top1", "qat/val/top1"} <= found.keys()


def test_gates_that_are_not_enforced_end_with_0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = _arguments(gate__max_drop=-100, gate__enforce=False, fp32__max_epochs=0, qat__max_epochs=0, engines=["fbgemm"])
    assert train(arguments, monkeypatch) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [gate["name"] for gate in report["gates"] if not gate["passed"]] == ["accuracy"]


@pytest.mark.parametrize("verb", [cli.train, cli.export])
def test_help_lists_recipes_keys_and_exit_codes(
    verb: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(verb, ["--help"], monkeypatch) == 0
    text = capsys.readouterr().out
    for name in (*recipes(), "x86_vnni", "smoke", "gate:", "max_drop", "keep_float", "freeze_ranges_at", "3 diverged"):
        assert name in text, name


@pytest.mark.parametrize("verb", [cli.evaluate, cli.inspect, cli.benchmark])
def test_verbs_look_at_the_artifact_of_a_run(
    verb: Any, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(verb, _arguments(artifact=finished / "artifact"), monkeypatch) == 0
    assert "fbgemm" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_export_writes_an_artifact_of_a_checkpoint(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkpoint = sorted((finished / "checkpoints" / "qat").glob("*.ckpt"))[-1]
    assert call(cli.export, _arguments(checkpoint=checkpoint), monkeypatch) == 0
    assert "verified on fbgemm, x86" in capsys.readouterr().out
    ours, theirs = tmp_path / "run" / "model.safetensors", finished / "artifact" / "model.safetensors"
    assert ours.read_bytes() == theirs.read_bytes()


def test_export_without_checkpoint_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(cli.export, _arguments(), monkeypatch) == 2
    assert "checkpoint=PATH" in capsys.readouterr().err


def test_bug_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("qat.pipeline.train.train", broken)
    assert train(_arguments(), monkeypatch) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_resume_of_a_moved_run_folder_ends_with_0(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without resume with 2: the folder is taken."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    assert train(_arguments(logger="csv"), monkeypatch) == 2
    assert train([*_arguments(logger="csv"), "resume=true"], monkeypatch) == 0
    check_report(json.loads((tmp_path / "run" / "report.json").read_text()))
    ours, theirs = (folder / "artifact" / "model.safetensors" for folder in (tmp_path / "run", finished))
    assert ours.read_bytes() == theirs.read_bytes()


def test_installed_command_passes_the_exit_code_on(tmp_path: Path) -> None:
    found = subprocess.run(
        [str(BIN / "qat-train"), "recipe=digits_resnet", "engines=[fbgem]", "output=run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    assert "EngineError: unknown engine 'fbgem'" in found.stderr
    assert list(tmp_path.iterdir()) == []


def _wandb_summary(folder: Path) -> dict[str, Any]:
    """The summary of an offline run, as W&B's own reader sees it."""
    command = [str(BIN / "wandb"), "leet", "inspect", "--summary", "--json", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    content: dict[str, Any] = json.loads(found.stdout)
    return _flat(content)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every number of nested objects by its own name."""
    if isinstance(value, dict):
        return {key: item for inner, part in value.items() for key, item in _flat(part, inner).items()}
    return {name: value}
