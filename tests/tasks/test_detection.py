"""Detection: the criterion's loss, boxes in pixels of the stored image, average precision, what another model finds again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.data import build_data
from qat.data.batch import Examples
from qat.data.detection.batch import DetectionBatch, Seen
from qat.data.detection.module import DetectionData
from qat.data.detection.shapes import LABELS, shapes_source
from qat.data.detection.source import Boxes
from qat.deploy.postprocess import Detections
from qat.errors import ConfigError
from qat.models.dense import build_dense
from qat.tasks import TASKS, DetectionTask, task_reading
from qat.tasks.detection import found_again
from tests.data.samples import make_preprocess

SIZE = 64

QUERIES: dict[str, Any] = {"kind": "queries", "activation": "sigmoid", "height": SIZE, "width": SIZE, "limit": 100}


def _criterion(outputs: Sequence[Tensor], corners: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    return outputs[0].sum() + sum(boxes.sum() for boxes in corners) + sum(classes.sum() for classes in labels)


def _task(**changes: Any) -> DetectionTask:
    return DetectionTask(**{"labels": LABELS, "criterion": _criterion, "postprocessing": QUERIES, **changes})


def _found(*found: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
    return Detections(
        boxes=torch.tensor(boxes).reshape(-1, 4), scores=torch.tensor(scores), labels=torch.tensor(labels, dtype=torch.int64)
    )


def _truth(*boxes: tuple[list[float], int]) -> Boxes:
    corners, labels = zip(*boxes, strict=True) if boxes else ((), ())
    crowd = torch.zeros(len(boxes), dtype=torch.bool)
    classes = torch.tensor(labels, dtype=torch.int64)
    return Boxes(corners=torch.tensor(corners).reshape(-1, 4), labels=classes, crowd=crowd)


def _batch(*images: tuple[int, int, Boxes]) -> DetectionBatch:
    """Width, height and boxes of every stored image, letterboxed into 64 x 64."""
    preprocess = make_preprocess(SIZE, crop_mode="border")
    seen = [
        Seen(width=width, height=height, placement=preprocess.placement(width, height), boxes=boxes)
        for width, height, boxes in images
    ]
    return DetectionBatch(
        inputs=(torch.randn(len(seen), 3, SIZE, SIZE),),
        corners=[item.placement.to_input(item.boxes.corners) for item in seen],
        labels=[item.boxes.labels for item in seen],
        examples=Examples(seen),
    )


def _points(task: DetectionTask, predictions: Sequence[Detections], batch: DetectionBatch) -> dict[str, float]:
    rows = task.statistics(predictions, batch).double()
    once = torch.ones(1, len(rows), dtype=torch.float64)
    return {name: float(formula(rows, once)) for name, formula in task.formulas.items()}


# --- loss and predictions ----------------------------------------------------------------------------------------------


def test_loss_is_that_of_the_criterion() -> None:
    built = build_dense(name="test_resnet", num_classes=3, image_size=SIZE, head_options={"channels": 16})
    data = build_data(shapes_source(train=8, test=4), preprocessing=built.preprocessing, batch_size=4)
    assert isinstance(data, DetectionData)
    task = _task(**built.task_options)
    batch = next(iter(data.test_dataloader()))
    outputs = built.module(*task.inputs(batch))
    expected = built.task_options["criterion"](outputs, batch.corners, batch.labels)
    assert torch.equal(task.loss(outputs, batch), expected)
    assert len(task.predict(outputs, batch)) == 4


def test_decisions_are_boxes_in_pixels_of_the_stored_image() -> None:
    """The image of 128 x 64 is halved and stands 16 below the top, the one of 32 x 64 stands 16 right of the edge."""
    batch = _batch((128, 64, _truth()), (32, 64, _truth()))
    boxes = torch.tensor([[0.5, 0.5, 0.25, 0.25], [0.5, 0.1, 0.5, 0.1], [0.25, 0.5, 0.5, 0.5]]).repeat(2, 1, 1)
    logits = torch.full((2, 3, 3), -20.0)
    logits[:, 0, 2], logits[:, 1, 0], logits[:, 2, 1] = 3.0, 2.0, 1.0
    wide, tall = _task().predict((logits, boxes), batch)
    for found, expected, labels in (
        (wide, [[48.0, 16, 80, 48], [0, 0, 64, 64]], [2, 1]),  # the second box lies in the border, the third reaches into it
        (tall, [[8.0, 24, 24, 40], [0, 3.2, 32, 9.6], [0, 16, 16, 48]], [2, 0, 1]),
    ):
        sure = found[found.scores > 0.5]
        torch.testing.assert_close(sure.boxes, torch.tensor(expected))
        assert sure.labels.tolist() == labels
    torch.testing.assert_close(wide.scores[:2], torch.tensor([3.0, 1.0]).sigmoid())


def test_boxes_that_are_right_in_the_input_are_right_in_the_image() -> None:
    """What a model knows that answers with its targets, over images of several sizes."""
    truths = [_truth(([3, 4, 60, 50], 0), ([70, 5, 99, 31], 2)), _truth(([0, 0, 20, 90], 1), ([1, 50, 30, 120], 1))]
    batch = _batch((100, 60, truths[0]), (30, 120, truths[1]))
    corners = torch.stack(batch.corners) / SIZE
    boxes = torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1)
    logits = nn.functional.one_hot(torch.stack(batch.labels), len(LABELS)) * 20.0 - 10
    points = _points(_task(), _task().predict((logits, boxes), batch), batch)
    assert points == pytest.approx({"map": 100, "map50": 100, "map75": 100, **{f"ap/{name}": 100 for name in LABELS}})


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_perfect_detections_have_100_points_and_none_has_0() -> None:
    truth = _truth(([10, 10, 50, 40], 0), ([30, 30, 90, 80], 2))
    batch = _batch((100, 100, truth), (100, 100, _truth()))
    right = [_found(([10, 10, 50, 40], 0.9, 0), ([30, 30, 90, 80], 0.6, 2)), _found()]
    known = ("map", "map50", "map75", "ap/disc", "ap/triangle")
    found = _points(_task(), right, batch)
    assert [found[name] for name in known] == pytest.approx([100] * 5)
    assert _points(_task(), [_found(), _found()], batch) == dict.fromkeys(found, 0.0)


def test_metrics_are_average_precision_by_threshold_and_by_class() -> None:
    """With IoU 0.725 the disc is right up to 0.7, with 0.77 the square up to 0.75: at 5 and 6 of the 10 thresholds."""
    batch = _batch((100, 100, _truth(([0, 0, 100, 50], 0), ([0, 50, 50, 100], 1))))
    found = _points(_task(), [_found(([0, 0, 72.5, 50], 0.9, 0), ([0, 50, 50, 88.5], 0.8, 1))], batch)
    assert list(found) == ["map", "map50", "map75", "ap/disc", "ap/square", "ap/triangle"]
    assert found == pytest.approx(
        {"map": 55, "map50": 100, "map75": 50, "ap/disc": 50, "ap/square": 60, "ap/triangle": 0}, abs=1e-6
    )


def test_metric_of_the_task_can_be_chosen() -> None:
    assert _task().metric == "map"
    assert _task(metric="map50").metric == "map50"
    with pytest.raises(ConfigError, match=r"no metric 'map60'.*Allowed: ap/disc, ap/square, ap/triangle, map, map50, map75"):
        _task(metric="map60")


def test_label_smoothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="label_smoothing has no meaning for detectors"):
        _task(label_smoothing=0.1)


def test_data_without_boxes_is_refused() -> None:
    assert TASKS["detection"].reads == shapes_source(train=4, test=1).kind
    with pytest.raises(ConfigError, match="task=detection reads images with boxes, the data has images"):
        task_reading("images", "detection")


# --- training --------------------------------------------------------------------------------------------------------


class _Plain(nn.Module):
    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (pixels.mean((2, 3)),)


class _TrainsItself(_Plain):
    def training_loss(self, pixels: Tensor, corners: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        return pixels.sum() + 2 * sum(boxes.sum() for boxes in corners) + 3 * sum(classes.sum() for classes in labels)


@pytest.mark.parametrize("model", [_Plain(), _TrainsItself()], ids=["plain", "trains_itself"])
def test_model_that_trains_itself_does_and_others_have_the_criterion(model: nn.Module) -> None:
    task, batch = _task(), _batch((128, 64, _truth(([8, 8, 40, 40], 2))), (64, 64, _truth()))
    own, criterion = (
        _TrainsItself().training_loss(batch.inputs[0], batch.corners, batch.labels),
        _criterion(model(*batch.inputs), batch.corners, batch.labels),
    )
    loss = task.training_loss(model, batch)
    assert torch.equal(loss, own if isinstance(model, _TrainsItself) else criterion)
    assert torch.equal(task.loss(model(*batch.inputs), batch), criterion)  # validation compares by the criterion alone


# --- found again -----------------------------------------------------------------------------------------------------

BOX = [0.0, 0, 10, 10]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (_found((BOX, 0.9, 1)), True),
        (_found((BOX, 0.9, 2)), False),
        (_found(([0, 0, 10, 5], 0.9, 1)), True),  # IoU 0.5
        (_found(([0, 0, 10, 4.9], 0.9, 1)), False),
        (_found((BOX, 0.25, 1)), True),  # half of what counts as confident
        (_found((BOX, 0.24, 1)), False),
        (_found(), False),
        (_found((BOX, 0.9, 2), ([0, 0, 10, 7], 0.3, 1)), True),  # a better box of another class is no rival
    ],
)
def test_box_is_found_again_by_class_overlap_and_half_the_score(other: Detections, expected: bool) -> None:
    assert found_again(_found((BOX, 0.5, 1)), other) == [expected]
    assert _task().alike(_found((BOX, 0.5, 1)), other) == [expected]


def test_no_box_is_taken_twice() -> None:
    twins = _found((BOX, 0.9, 1), ([0, 0, 10, 9], 0.8, 1))
    assert found_again(twins, _found((BOX, 0.9, 1))) == [True, False]
    assert found_again(twins, _found((BOX, 0.9, 1), ([0, 0, 10, 9], 0.3, 1))) == [True, True]
    assert found_again(twins, twins) == [True, True]


def test_what_is_not_confident_need_not_be_found() -> None:
    assert found_again(_found((BOX, 0.49, 1)), _found((BOX, 0.9, 1))) == []
    assert found_again(_found(), _found()) == []
    assert found_again(_found((BOX, 0.9, 1), (BOX, 0.49, 0)), _found((BOX, 0.9, 1))) == [True]
