"""Average precision from per-image records against torchmetrics, and under weights against repeated images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from qat.deploy.postprocess import Detections
from qat.evaluation.average_precision import (
    LIMIT,
    RECALLS,
    THRESHOLDS,
    Truth,
    average_precision,
    curves,
    mean_average_precision,
    records,
)

CLASSES = 4


def _boxes(rng: np.random.Generator, count: int) -> Tensor:
    corners = rng.uniform(0, 80, (count, 2))
    return torch.from_numpy(np.concatenate([corners, corners + rng.uniform(4, 40, (count, 2))], 1)).float()


def _data(seed: int, images: int = 12) -> tuple[list[Detections], list[Truth]]:
    """Boxes and detections near them, some of the wrong class, some of nothing; equal scores, crowds, empty images."""
    rng = np.random.default_rng(seed)
    found, truths = [], []
    for image in range(images):
        count = 0 if image % 5 == 4 else int(rng.integers(1, 8))
        boxes, labels = _boxes(rng, count), torch.from_numpy(rng.integers(0, CLASSES - 1, count))
        truths.append(Truth(boxes=boxes, labels=labels, crowd=torch.from_numpy(rng.random(count) < 0.1)))
        extra = int(rng.integers(0, 5))
        moved = torch.cat([boxes + torch.from_numpy(rng.normal(0, 2.5, (count, 4))).float(), _boxes(rng, extra)])
        guessed = torch.cat([labels, torch.from_numpy(rng.integers(0, CLASSES - 1, extra))])
        wrong = torch.from_numpy(rng.random(len(guessed)) < 0.15)
        guessed[wrong] = torch.from_numpy(rng.integers(0, CLASSES - 1, int(wrong.sum())))
        scores = torch.from_numpy(rng.permutation(20)[: len(guessed)] / 20).float()  # no two of an image, many of the set
        order = scores.argsort(descending=True, stable=True)
        found.append(Detections(boxes=moved[order], scores=scores[order], labels=guessed[order]))
    return found, truths


def _torchmetrics(found: list[Detections], truths: list[Truth]) -> dict[str, Any]:
    metric = MeanAveragePrecision(
        backend="pycocotools",
        iou_thresholds=THRESHOLDS.tolist(),  # its defaults are these in float32, which moves a recall of 3/10 across 0.3
        rec_thresholds=RECALLS.tolist(),
        class_metrics=True,
        extended_summary=True,
    )
    metric.update(
        [{"boxes": d.boxes, "scores": d.scores, "labels": d.labels} for d in found],
        [{"boxes": t.boxes, "labels": t.labels, "iscrowd": t.crowd.int()} for t in truths],
    )
    return dict(metric.compute())


@pytest.mark.parametrize("seed", range(6))
def test_unweighted_it_is_the_metric_of_torchmetrics(seed: int) -> None:
    found, truths = _data(seed)
    expected = _torchmetrics(found, truths)
    rows = records(found, truths, classes=CLASSES)
    once = torch.ones(1, len(rows), dtype=torch.float64)
    for name, threshold in (("map", None), ("map_50", 0), ("map_75", 5)):
        formula = mean_average_precision(CLASSES, threshold=threshold)
        assert float(formula(rows, once)) == pytest.approx(100 * float(expected[name]), abs=1e-4)
    for label, ap in zip(expected["classes"].tolist(), expected["map_per_class"].tolist(), strict=True):
        own = float(mean_average_precision(CLASSES, label=label)(rows, once))
        assert own == pytest.approx(100 * max(ap, 0.0), abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_precision_over_recall_is_that_of_torchmetrics(seed: int) -> None:
    found, truths = _data(seed)
    precision = _torchmetrics(found, truths)["precision"]  # (thresholds, recalls, classes, areas, limits)
    rows = records(found, truths, classes=CLASSES).numpy()
    for label in range(CLASSES - 1):
        for threshold, curve in zip((0, 5), curves(rows, np.ones((1, len(rows))), label, (0, 5)), strict=True):
            np.testing.assert_allclose(curve[0], precision[threshold, :, label, 0, -1].numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_a_weight_is_that_many_copies_of_the_image(seed: int) -> None:
    """Which is what makes the bootstrap one of images: nothing is matched or sorted anew."""
    found, truths = _data(seed)
    weights = np.random.default_rng(seed + 100).integers(0, 4, (3, len(found)))
    weighted = average_precision(records(found, truths, classes=CLASSES).numpy(), weights.astype(float), classes=CLASSES)
    for row, counts in zip(weighted, weights, strict=True):
        copies = [i for i, count in enumerate(counts) for _ in range(count)]
        rows = records([found[i] for i in copies], [truths[i] for i in copies], classes=CLASSES).numpy()
        repeated = average_precision(rows, np.ones((1, len(rows))), classes=CLASSES)[0]
        np.testing.assert_allclose(row, repeated, atol=1e-9)


def test_a_class_without_boxes_has_no_ap_and_does_not_count() -> None:
    found, truths = _data(0)
    rows = records(found, truths, classes=CLASSES)
    precision = average_precision(rows.numpy(), np.ones((1, len(rows))), classes=CLASSES)
    assert np.isnan(precision[0, :, CLASSES - 1]).all()
    assert not np.isnan(precision[0, :, : CLASSES - 1]).any()
    nothing = records([], [], classes=CLASSES)
    assert nothing.shape == (0, 12 * LIMIT + CLASSES)


def test_only_the_best_detections_of_an_image_count() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    scores = torch.linspace(0.9, 0.1, LIMIT + 20)
    far = torch.tensor([[50.0, 50.0, 60.0, 60.0]]).repeat(LIMIT + 20, 1)
    truth = Truth(boxes=boxes, labels=torch.zeros(1, dtype=torch.int64), crowd=torch.zeros(1, dtype=torch.bool))
    formula = mean_average_precision(1, threshold=0)
    for place, right in ((LIMIT - 1, True), (LIMIT, False)):
        spread = far.clone()
        spread[place] = boxes[0]
        found = Detections(boxes=spread, scores=scores, labels=torch.zeros(LIMIT + 20, dtype=torch.int64))
        points = float(formula(records([found], [truth], classes=1), torch.ones(1, 1, dtype=torch.float64)))
        assert (points > 0) is right
