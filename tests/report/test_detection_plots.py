"""What the pictures of a detector show."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from qat.data.detection.source import Boxes
from qat.deploy.postprocess import Detections
from qat.evaluation.average_precision import Truth, mean_average_precision, records
from qat.evaluation.evaluate import Evaluation
from qat.report.detection_plots import chosen, precision_recall, save, sheet
from qat.tasks.detection import found_again

LABELS = ("cell", "dust")


def _found(corners: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(boxes=torch.tensor(corners).reshape(-1, 4), scores=torch.tensor(scores), labels=torch.tensor(labels))


BOX, OTHER = [10.0, 10.0, 40.0, 40.0], [60.0, 20.0, 90.0, 70.0]
TRUTH = Truth(boxes=torch.tensor([BOX, OTHER]), labels=torch.tensor([0, 1]), crowd=torch.tensor([False, False]))
BOTH, ONE = _found([BOX, OTHER], [0.9, 0.8], [0, 1]), _found([BOX], [0.9], [0])


def _evaluation(predictions: list[Detections]) -> Evaluation:
    rows: Tensor = records(predictions, [TRUTH] * len(predictions), classes=2)
    return Evaluation(predictions=predictions, statistics=rows, formulas={"map": mean_average_precision(2)}, alike=found_again)


def test_sheet_chooses_where_the_models_differ_most_and_some_regular_images() -> None:
    fp32, int8 = _evaluation([BOTH] * 20), _evaluation([ONE if i in (6, 13) else BOTH for i in range(20)])
    positions = chosen(fp32, int8)
    assert positions[:2] == [6, 13]
    assert len(set(positions)) == len(positions) == 6


def test_sheet_shows_every_confident_box_with_class_and_score(tmp_path: Path) -> None:
    unsure = _found([BOX, OTHER], [0.9, 0.2], [0, 1])
    boxes = Boxes(corners=TRUTH.boxes, labels=TRUTH.labels, crowd=TRUTH.crowd)
    figure = sheet([Image.new("RGB", (100, 80))], ["a.jpg"], [boxes], [(BOTH, unsure)], LABELS)
    fp32, int8 = figure.axes
    assert [text.get_text() for text in fp32.texts] == ["cell 0.90", "dust 0.80"]
    assert [text.get_text() for text in int8.texts] == ["cell 0.90"]
    assert (fp32.get_title(), int8.get_title()) == ("FP32: 2 boxes on a.jpg", "INT8: 1 box on a.jpg")
    assert len(fp32.patches) == 2 + 2, "annotated and found"
    with Image.open(save(figure, tmp_path / "plots" / "boxes.png")) as picture:
        assert picture.width > 500


def test_curves_of_both_models_and_every_class(tmp_path: Path) -> None:
    figure = precision_recall(_evaluation([BOTH, BOTH]), _evaluation([BOTH, ONE]), LABELS)
    for axes in figure.axes:
        assert len(axes.lines) == 2 * len(LABELS)
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == ["cell 100.0", "dust 50.5"]
    text = save(figure, tmp_path / "curves.svg").read_text()
    assert re.search(r"<svg", text)
