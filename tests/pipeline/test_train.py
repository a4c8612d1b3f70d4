from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import qat
from qat.data import build_data, build_source
from qat.deploy.preprocess import preprocess_of
from qat.errors import ConfigError, DataError, KeepFloatError, QatError
from qat.models import build_model
from qat.pipeline.train import train
from qat.training.callbacks.checkpoint import load_weights
from tests.contract import check_report
from tests.runs import TINY, quiet, tiny_config, trained


@pytest.fixture(scope="module")
def report(finished: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished / "report.json").read_text())
    return content


@pytest.fixture(scope="module")
def test_set(finished: Path) -> tuple[Tensor, Tensor]:
    """The test images of the run as the artifact's manifest says they are made, and their targets."""
    preprocessing = preprocess_of(qat.read_manifest(finished / "artifact")["preprocessing"])
    data = build_data(build_source("digits"), preprocessing=preprocessing, batch_size=50, limit_test=TINY["data.limit_test"])
    images, targets = zip(*data.test_dataloader(), strict=True)
    return torch.cat(images), torch.cat(targets)


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    return 100.0 * float((logits.argmax(1) == targets).double().mean())


def test_report_is_complete(report: dict[str, Any]) -> None:
    check_report(report)


@pytest.mark.parametrize("engine", ["fbgemm", "x86"])
def test_report_has_the_accuracy_of_the_artifact(
    finished: Path, report: dict[str, Any], test_set: tuple[Tensor, Tensor], engine: str
) -> None:
    images, targets = test_set
    logits = qat.load(finished / "artifact", engine)(images)
    assert report["engines"][engine]["int8"] == pytest.approx(_accuracy(logits, targets), abs=1e-4)
    reference = qat.load(finished / "artifact", "reference")(images)[: TINY["gate.reference_samples"]]
    alike = (logits[: len(reference)].argmax(1) == reference.argmax(1)).double().mean()
    assert report["engines"][engine]["agreement"] == pytest.approx(float(alike), abs=1e-6)
    assert report["n_eval"] == len(targets) == TINY["data.limit_test"]


def test_report_has_the_accuracy_of_the_float_model(
    finished: Path, report: dict[str, Any], test_set: tuple[Tensor, Tensor]
) -> None:
    images, targets = test_set
    options = {key.removeprefix("model."): value for key, value in TINY.items() if key.startswith("model.")}
    network = build_model("timm", task="classification", data=build_source("digits"), **options).module.eval()
    network.load_state_dict(load_weights(sorted((finished / "checkpoints" / "fp32").glob("*.ckpt"))[-1]))
    with torch.no_grad():
        assert report["stages"]["fp32"] == pytest.approx(_accuracy(network(images), targets), abs=1e-4)


def test_report_is_consistent_in_itself(report: dict[str, Any]) -> None:
    stages, engines = report["stages"], report["engines"]
    first = next(iter(engines.values()))
    assert stages["int8"] == first["int8"]
    assert report["drop"]["value"] == pytest.approx(stages["fp32"] - stages["int8"], abs=2e-4)
    assert report["simulation"]["delta"] == pytest.approx(stages["fake_quant"] - stages["int8"], abs=2e-4)
    assert report["artifact"]["ratio"] == pytest.approx(
        report["artifact"]["bytes"] / report["artifact"]["fp32_bytes"], abs=1e-4
    )
    for engine in engines.values():
        assert engine["speedup"] == pytest.approx(engine["fp32_latency_ms"]["p50"] / engine["latency_ms"]["p50"], rel=0.01)
    training = report["training"]
    assert training["step_ratio"] == pytest.approx(training["qat_step_ms"] / training["fp32_step_ms"], rel=1e-3)


def test_run_learned_something(report: dict[str, Any]) -> None:
    """Otherwise every comparison above would hold for any network."""
    assert report["stages"]["fp32"] > 15.0
    assert len({engine["int8"] for engine in report["engines"].values()} | set(report["stages"].values())) > 1


def test_gates_passed_and_are_in_the_report(report: dict[str, Any]) -> None:
    assert {gate["name"] for gate in report["gates"]} == {"kernel/fbgemm", "kernel/x86", "simulation", "accuracy"}
    assert all(gate["passed"] for gate in report["gates"])


def test_artifact_verifies_and_carries_the_run(finished: Path, report: dict[str, Any]) -> None:
    for engine in report["engines"]:
        assert qat.verify(finished / "artifact", engine).passed
    manifest = qat.read_manifest(finished / report["artifact"]["path"])
    assert manifest["metrics"] == report["stages"]
    assert manifest["labels"] == [str(digit) for digit in range(10)]
    assert (manifest["task"], manifest["recipe"]) == ("classification", "digits_resnet")
    assert manifest["preprocessing"]["height"] == TINY["model.image_size"]
    size = sum((finished / "artifact" / name).stat().st_size for name in ("graph.json", "model.safetensors"))
    assert report["artifact"]["bytes"] == size


def test_run_folder_says_with_what_it_was_made(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["quantization"]["freeze_ranges_at"] == TINY["quantization.freeze_ranges_at"]
    assert config["model"]["options"] == TINY["model.options"]
    overrides = yaml.safe_load((finished / "overrides.yaml").read_text())
    assert f"qat.lr={TINY['qat.lr']}" in overrides
    assert json.loads((finished / "env.json").read_text())["torch"] == torch.__version__
    assert not (finished / ".lock").exists()


def test_metrics_file_has_every_stage_and_the_summary(finished: Path, report: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    named = {line["stage"]: line for line in lines}
    for stage in ("fp32", "ptq", "fake_quant", "int8/fbgemm", "int8/x86"):
        assert f"{stage}/top1" in named[stage], stage
    summary = named["summary"]
    for stage, value in report["stages"].items():
        assert summary[f"{stage}/top1"] == pytest.approx(value, abs=1e-4)
    assert {"int8/drop", "int8/agreement", "simulation/agreement"} <= summary.keys()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"quantization__keep_float": ["nope*"]}, KeepFloatError),
        ({"quantization__observer": "nope"}, ConfigError),
        ({"quantization__freeze_ranges_at": 2.0}, ConfigError),
        ({"quantization__calibration_batches": 0}, ConfigError),
        ({"optimizer": "timm", "optimizer__name": "nope"}, ConfigError),
        ({"callbacks": {"ema": {"decay": 0.9}}}, ConfigError),
        ({"qat__lr": -1.0}, ConfigError),
        ({"qat__max_epochs": -1}, ConfigError),
        ({"fp32__max_steps": 0}, ConfigError),
        ({"model__name": "nope"}, ConfigError),
        ({"data": "folder", "data__root": "nowhere"}, DataError),
        ({"task": "detection"}, ConfigError),
        ({"model": "hf_text", "model__name": "bert"}, ConfigError),
        ({"engines": ["nope"]}, QatError),
        ({"engines": []}, ConfigError),
        ({"logger": "wandb", "quantization__keep_float": ["nope*"]}, KeepFloatError),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_training_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], kind: type[QatError]
) -> None:
    def trained(*_: Any, **__: Any) -> None:
        pytest.fail("training began")

    monkeypatch.setattr("qat.pipeline.stages.fit", trained)
    with pytest.raises(kind) as caught:
        train(tiny_config(tmp_path / "run", **changes), console=quiet())
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_second_run_in_the_folder_of_a_finished_one_is_refused(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(ConfigError, match="resume=true"):
        train(tiny_config(finished), console=quiet())
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_stage_without_epochs_is_skipped(tmp_path: Path) -> None:
    report = trained(tiny_config(tmp_path / "run", fp32__max_epochs=0, qat__max_epochs=0, engines=["reference"]))
    check_report(report)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert report["stages"]["ptq"] == report["stages"]["int8"] == report["stages"]["fake_quant"]


def test_baseline_takes_over_the_fp32_weights_of_another_run(finished: Path, tmp_path: Path) -> None:
    report = trained(tiny_config(tmp_path / "run", baseline=str(finished), engines=["fbgemm"]))
    theirs = json.loads((finished / "report.json").read_text())
    assert report["stages"]["fp32"] == theirs["stages"]["fp32"]
    assert not (tmp_path / "run" / "checkpoints" / "fp32").exists(), "nothing was trained again"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": "nowhere"}, "baseline=nowhere: no FP32 checkpoint there"),
        ({"model__options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 32]}}, "is of another model"),
    ],
    ids=str,
)
def test_baseline_that_does_not_fit_is_refused(changes: dict[str, Any], words: str, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        train(tiny_config(tmp_path / "run", **{"baseline": str(finished), **changes}), console=quiet())
    assert list(tmp_path.iterdir()) == []
