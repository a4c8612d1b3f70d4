"""Whole runs of detectors: the report, the pictures, the artifact from an image, and the commands on all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import qat
from qat.data import build_source
from qat.errors import ConfigError, DataError
from qat.evaluation.average_precision import Truth, mean_average_precision, records
from qat.pipeline.deployed import benchmark_deployed, evaluate_deployed, export_checkpoint, inspect_deployed
from qat.pipeline.train import train
from tests.contract import check_report
from tests.models.detectors import DETECTORS
from tests.runs import TINY_SHAPES, quiet, tiny_config, trained


@pytest.fixture(scope="module")
def report(finished_shapes: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished_shapes / "report.json").read_text())
    return content


def test_report_of_a_detector_keeps_the_contract(report: dict[str, Any]) -> None:
    check_report(report)
    assert (report["task"], report["metric"]["name"]) == ("detection", "map")
    names = {"map", "map50", "map75", "ap/disc", "ap/square", "ap/triangle"}
    assert report["metrics"]["int8"].keys() == report["drops"].keys() == names
    assert report["metrics"]["int8"]["map"] == report["stages"]["int8"]
    assert report["drops"]["map"] == report["drop"]
    assert report["metrics"]["fp32"]["map50"] > 2.0, "it learned something, so that the rest says something"
    assert all(gate["passed"] for gate in report["gates"])
    assert report["engines"]["fbgemm"]["agreement"] == 1.0
    assert 0.5 < report["agreement"] <= 1.0
    assert report["coverage"]["macs_int8"] == 1.0


def test_run_folder_holds_what_there_is_to_look_at(finished_shapes: Path) -> None:
    plots = finished_shapes / "plots"
    assert {path.name for path in plots.iterdir()} == {"precision_recall.svg", "boxes.png"}
    assert all(path.stat().st_size > 10_000 for path in plots.iterdir())


def test_artifact_finds_on_images_what_the_report_says(finished_shapes: Path, report: dict[str, Any]) -> None:
    """One image at a time, through the artifact's own preprocessing and postprocessing: the same mAP."""
    detector = qat.load_detector(finished_shapes / "artifact")
    source = build_source("shapes", train=TINY_SHAPES["data.train"], test=TINY_SHAPES["data.test"])
    indices = range(len(source.test.targets))
    found = [detector.detect(source.test.open(i)) for i in indices]  # type: ignore[union-attr]
    boxes = [source.test.boxes(i) for i in indices]  # type: ignore[union-attr]
    truths = [Truth(boxes=b.corners, labels=b.labels, crowd=b.crowd) for b in boxes]
    rows = records(found, truths, classes=3)
    points = float(mean_average_precision(3)(rows, torch.ones(1, len(rows), dtype=torch.float64)))
    assert points == pytest.approx(report["stages"]["int8"], abs=1e-3)


def test_commands_work_on_what_a_detection_run_left(finished_shapes: Path, tmp_path: Path, report: dict[str, Any]) -> None:
    artifact, console = str(finished_shapes / "artifact"), quiet()
    checkpoint = str(max((finished_shapes / "checkpoints" / "qat").glob("*.ckpt")))
    found = evaluate_deployed(tiny_config(tmp_path / "a", base=TINY_SHAPES, artifact=artifact), console)
    assert found["fbgemm"] == pytest.approx(report["stages"]["int8"], abs=1e-3)
    again = evaluate_deployed(tiny_config(tmp_path / "b", base=TINY_SHAPES, checkpoint=checkpoint), console)
    assert again["fake_quant"] == pytest.approx(report["stages"]["fake_quant"], abs=1e-3)
    rows = inspect_deployed(tiny_config(tmp_path / "c", base=TINY_SHAPES, artifact=artifact), console)["layers"]
    assert {row["max_steps"] for row in rows} == {0}
    times = benchmark_deployed(tiny_config(tmp_path / "d", base=TINY_SHAPES, artifact=artifact), console)
    assert times.keys() == {"fp32", "fbgemm"}
    folder = export_checkpoint(tiny_config(tmp_path / "e", base=TINY_SHAPES, checkpoint=checkpoint), console)
    assert qat.read_manifest(folder)["postprocessing"] == qat.read_manifest(artifact)["postprocessing"]


@pytest.mark.parametrize("name", [pytest.param("d_fine", marks=pytest.mark.slow), "yolos"])
def test_hugging_face_detectors_run_to_a_report(name: str, tmp_path: Path) -> None:
    """One that trains with denoising queries, and one with a softmax; both take a free batch."""
    config = tiny_config(
        tmp_path / "run",
        base=TINY_SHAPES,
        model="hf_detector",
        model__name=name,
        model__image_size=96,
        model__options=DETECTORS[name],
        data__train=32,
        data__test=10,
        fp32__max_epochs=1,
        fp32__lr=1e-3,
        gate__enforce=False,
    )
    content = trained(config)
    check_report(content)
    gates = {gate["name"]: gate for gate in content["gates"]}
    assert gates["kernel/fbgemm"]["passed"], gates
    assert qat.verify(tmp_path / "run" / "artifact").passed
    assert qat.load_detector(tmp_path / "run" / "artifact").labels == ("disc", "square", "triangle")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"task": "classification"}, ConfigError, r"reads images, the data has images with boxes"),
        (
            {"data": "digits"},
            ConfigError,
            r"the task is classification; set model=timm or hf_image or module",
        ),
        ({"model__head": "ssd"}, ConfigError, r"model\.head=ssd: unknown head"),
        ({"model__crop_pct": 0.9}, ConfigError, r"sees the whole image"),
        ({"fp32__label_smoothing": 0.1}, ConfigError, r"label_smoothing has no meaning"),
        ({"task__metric": "top1"}, ConfigError, r"no metric 'top1'.*map50"),
        ({"data": "coco", "data__root": "nowhere"}, DataError, r"no folder nowhere"),
    ],
)
def test_detection_refuses_what_cannot_be_meant_before_it_trains(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(tiny_config(tmp_path / "run", base=TINY_SHAPES, **changes), console=quiet())
    assert not (tmp_path / "run" / "checkpoints").exists()
