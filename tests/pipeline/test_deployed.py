from __future__ import annotations

import json
import re
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import qat
from qat.errors import ArtifactError, ConfigError, DataError, EngineError, QatError, SchemeError
from qat.pipeline.deployed import benchmark_deployed, evaluate_deployed, export_checkpoint, inspect_deployed
from qat.pipeline.loading import with_own_target
from qat.pipeline.train import train
from qat.quantization.analysis.coverage import Coverage
from qat.quantization.engines import saturation
from qat.quantization.engines.native_engine import NativeEngine
from qat.quantization.engines.probe import Saturation
from qat.quantization.layouts import ChannelsLast, Kind
from qat.quantization.program.storage import load_program, read_manifest
from tests.runs import quiet, tiny_config


def _checkpoint(finished: Path, stage: str = "qat") -> str:
    return str(sorted((finished / "checkpoints" / stage).glob("*.ckpt"))[-1])


def _artifact(finished: Path) -> str:
    return str(finished / "artifact")


@pytest.fixture(scope="module")
def report(finished: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished / "report.json").read_text())
    return content


def test_evaluate_artifact_gives_the_metric_of_the_report(finished: Path, tmp_path: Path, report: dict[str, Any]) -> None:
    console = quiet()
    found = evaluate_deployed(tiny_config(tmp_path, artifact=_artifact(finished)), console)
    assert found == pytest.approx({name: engine["int8"] for name, engine in report["engines"].items()}, abs=1e-4)
    for engine, value in found.items():
        assert engine in _text(console)
        assert f"{value:.3f}" in _text(console)


def test_evaluate_takes_the_preprocessing_of_the_artifact(finished: Path, tmp_path: Path, report: dict[str, Any]) -> None:
    """A deployed model knows its own; what the configuration says is of no matter."""
    config = tiny_config(tmp_path, artifact=_artifact(finished), model__mean=[0.1], model__std=[0.9], model__image_size=48)
    assert evaluate_deployed(config, quiet())["fbgemm"] == pytest.approx(report["stages"]["int8"], abs=1e-4)


@pytest.mark.parametrize("verb", [evaluate_deployed, inspect_deployed])
def test_artifact_is_judged_without_its_float_model(
    finished: Path, tmp_path: Path, verb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qat.pipeline.run.build_model", lambda *_, **__: pytest.fail("the float model was built"))
    assert verb(tiny_config(tmp_path, artifact=_artifact(finished), model__name="gone", model__pretrained=True), quiet())


def test_evaluate_checkpoint_gives_simulation_and_int8(finished: Path, tmp_path: Path, report: dict[str, Any]) -> None:
    found = evaluate_deployed(tiny_config(tmp_path, checkpoint=_checkpoint(finished)), quiet())
    expected = {name: engine["int8"] for name, engine in report["engines"].items()}
    assert found == pytest.approx({"fake_quant": report["stages"]["fake_quant"], **expected}, abs=1e-4)


def test_export_of_a_checkpoint_is_the_artifact_of_the_run(finished: Path, tmp_path: Path) -> None:
    folder = export_checkpoint(tiny_config(tmp_path / "exported", checkpoint=_checkpoint(finished)), quiet())
    for name in ("graph.json", "model.safetensors", "golden.safetensors"):
        assert (folder / name).read_bytes() == (finished / "artifact" / name).read_bytes(), name
    ours, theirs = qat.read_manifest(folder), qat.read_manifest(finished / "artifact")
    for key in ("labels", "preprocessing", "inputs", "target", "task", "model"):
        assert ours[key] == theirs[key], key
    assert qat.verify(folder).passed


def test_export_leaves_a_foreign_folder_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ArtifactError, match="no artifact"):
        export_checkpoint(tiny_config(tmp_path, checkpoint=_checkpoint(finished)), quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_inspect_checkpoint_gives_coverage_and_one_row_per_tensor(
    finished: Path, tmp_path: Path, report: dict[str, Any]
) -> None:
    console = quiet()
    found = inspect_deployed(tiny_config(tmp_path, checkpoint=_checkpoint(finished)), console)
    assert Coverage(**found["coverage"]).macs_int8 == pytest.approx(report["coverage"]["macs_int8"], abs=1e-4)
    program = load_program(finished / "artifact")
    grids = program.grids()
    assert {layer["name"] for layer in found["layers"]} <= grids.keys()
    for layer in found["layers"]:
        assert (layer["scale"], layer["zero_point"]) == (grids[layer["name"]].scale, grids[layer["name"]].zero_point)
        assert layer["max_steps"] <= 1
    assert {node.layer for node in program.layers() if node.grid} <= {layer["layer"] for layer in found["layers"]}
    json.dumps(found)
    assert "simulation against INT8" in _text(console)


def test_inspect_artifact_compares_the_engine_with_the_reference(finished: Path, tmp_path: Path) -> None:
    console = quiet()
    found = inspect_deployed(tiny_config(tmp_path, artifact=_artifact(finished)), console)
    assert found["layers"]
    assert all((layer["max_steps"], layer["differing"], layer["sqnr_db"]) == (0, 0.0, None) for layer in found["layers"])
    assert "fbgemm against reference" in _text(console)
    assert "products added in 16 bits on this CPU" in _text(console)
    assert found["saturation"] == saturation()
    json.dumps(found)


@pytest.mark.parametrize("with_artifact", [True, False])
def test_benchmark_times_every_engine_beside_fp32(finished: Path, tmp_path: Path, with_artifact: bool) -> None:
    config = tiny_config(tmp_path, artifact=_artifact(finished) if with_artifact else None, benchmark__batch_size=2)
    console = quiet()
    found = benchmark_deployed(config, console)
    assert found.keys() == {"fp32", "fbgemm", "x86"}
    assert all(0 < latency["p50"] <= latency["p95"] for latency in found.values())
    assert "batch 2" in " ".join(_text(console).split())


def test_benchmark_leaves_the_number_of_threads_as_it_was(finished: Path, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    console = quiet()
    benchmark_deployed(tiny_config(tmp_path, artifact=_artifact(finished), benchmark__threads=1), console)
    assert "1 threads" in " ".join(_text(console).split())
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("verb", [evaluate_deployed, inspect_deployed])
@pytest.mark.parametrize("both", [True, False])
def test_artifact_or_checkpoint_must_be_given(finished: Path, tmp_path: Path, verb: Any, both: bool) -> None:
    given: dict[str, Any] = {"artifact": _artifact(finished), "checkpoint": _checkpoint(finished)} if both else {}
    with pytest.raises(ConfigError, match=r"artifact=FOLDER or checkpoint=FILE"):
        verb(tiny_config(tmp_path, **given), quiet())


def test_export_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoint=PATH"):
        export_checkpoint(tiny_config(tmp_path / "out"), quiet())


@pytest.mark.parametrize("kind", ["missing", "damaged", "fp32", "other network"])
def test_checkpoint_that_does_not_fit_is_named(finished: Path, tmp_path: Path, kind: str) -> None:
    path, changes = tmp_path / "a.ckpt", {}
    if kind == "damaged":
        path.write_bytes(b"rubbish")
    elif kind == "fp32":
        shutil.copy(_checkpoint(finished, "fp32"), path)
    elif kind == "other network":
        shutil.copy(_checkpoint(finished), path)
        changes = {"model__options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}}
    with pytest.raises(QatError, match=r"a\.ckpt") as caught:
        export_checkpoint(tiny_config(tmp_path / "out", checkpoint=str(path), **changes), quiet())
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_checkpoint_of_another_scheme_is_refused(finished: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "out", checkpoint=_checkpoint(finished), quantization__target="any")
    with pytest.raises(SchemeError, match=r"trained for x86, and any has other kernels.*quantization=x86, or train for any"):
        export_checkpoint(config, quiet())


def test_checkpoint_is_taken_for_the_target_that_it_was_trained_for(finished: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "out", checkpoint=_checkpoint(finished), quantization__target="x86_vnni")
    assert with_own_target(config).quantization.target == "x86"
    fp32 = tiny_config(tmp_path / "out", checkpoint=_checkpoint(finished, "fp32"), quantization__target="any")
    assert with_own_target(fp32) == fp32
    assert with_own_target(tiny_config(tmp_path / "out")) == tiny_config(tmp_path / "out")


def test_export_takes_no_artifact_and_no_folder_for_a_checkpoint(finished: Path, tmp_path: Path) -> None:
    both = tiny_config(tmp_path / "out", checkpoint=_checkpoint(finished), artifact=_artifact(finished))
    with pytest.raises(ConfigError, match="no artifact"):
        export_checkpoint(both, quiet())
    with pytest.raises(ConfigError, match="is a folder"):
        export_checkpoint(tiny_config(tmp_path / "out", checkpoint=str(finished / "checkpoints" / "qat")), quiet())


def test_export_for_another_target_with_the_same_kernels_says_what_it_costs(finished: Path, tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=400)
    config = tiny_config(
        tmp_path / "out", checkpoint=_checkpoint(finished), quantization__target="x86_vnni", engines=["reference"]
    )
    folder = export_checkpoint(config, console)
    assert read_manifest(folder)["target"] == "x86_vnni"
    assert re.search(
        r"trained for x86, converted for x86_vnni: \d+ layers change .* from \d+\.\d to \d+\.\d dB .*qat-evaluate",
        _text(console),
    )


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        *((verb, given) for verb in (evaluate_deployed, inspect_deployed) for given in ("artifact", "checkpoint")),
        (benchmark_deployed, "artifact"),
        (export_checkpoint, "checkpoint"),
    ],
)
def test_what_this_machine_cannot_run_is_refused_before_data_and_model_are_built(
    finished: Path, tmp_path: Path, verb: Any, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for build in ("build_model", "build_source"):
        monkeypatch.setattr(f"qat.pipeline.run.{build}", lambda *_, **__: pytest.fail("model or data were built"))
    unknown = Saturation(layouts=dict.fromkeys(Kind, ()), unexpected=("dense: positions 0 and 9",))
    monkeypatch.setattr(NativeEngine, "saturation", lambda self: unknown)
    path: dict[str, Any] = {given: _artifact(finished) if given == "artifact" else _checkpoint(finished)}
    with pytest.raises(EngineError, match="positions 0 and 9"):
        verb(tiny_config(tmp_path / "out", **path), quiet())
    assert not (tmp_path / "out").exists()


def test_training_that_this_machine_cannot_run_is_refused_before_data_and_model_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for build in ("build_model", "build_source"):
        monkeypatch.setattr(f"qat.pipeline.run.{build}", lambda *_, **__: pytest.fail("model or data were built"))
    monkeypatch.setattr(NativeEngine, "saturation", lambda self: Saturation(layouts=dict.fromkeys(Kind, (ChannelsLast(),))))
    with pytest.raises(EngineError, match="quantization=x86_vnni makes is for x86 CPUs with AVX512-VNNI"):
        train(tiny_config(tmp_path / "out", quantization__target="x86_vnni"), console=quiet())
    assert not (tmp_path / "out").exists()


def test_artifact_is_not_evaluated_on_data_with_other_labels(finished: Path, tmp_path: Path) -> None:
    artifact = Path(shutil.copytree(finished / "artifact", tmp_path / "artifact"))
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["labels"] = ["cat", "dog"]
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="cat"):
        evaluate_deployed(tiny_config(tmp_path, artifact=str(artifact)), quiet())


def test_artifact_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        evaluate_deployed(tiny_config(tmp_path, artifact=str(tmp_path / "nowhere")), quiet())


def _text(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()
