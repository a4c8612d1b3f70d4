"""COCO's average precision from per-image records, with any weight on every image, so that it can be bootstrapped.

Detections are matched with boxes by pycocotools, image by image; what is left of an image is a row of numbers (`records`).
Precision and recall over all images follow from the rows (`average_precision`). With every weight 1 the result equals
torchmetrics' and pycocotools'; tests hold it.

Reference: Lin et al. 2014, arXiv:1405.0312; pycocotools.cocoeval.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.sparse import coo_array
from torch import Tensor

from qat.deploy.postprocess import Detections

#: IoU thresholds of COCO.
THRESHOLDS = np.linspace(0.5, 0.95, 10)

#: Recalls at which precision is read.
RECALLS = np.linspace(0.0, 1.0, 101)

#: Detections of an image that count: its best ones.
LIMIT = 100

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The annotated boxes of one image.

    Args:
        boxes: shape (M, 4), x1, y1, x2, y2 in pixels.
        labels: shape (M,), int64.
        crowd: shape (M,), bool: stands for several objects, and detections in it are not counted.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor


def records(found: Sequence[Detections], truths: Sequence[Truth], *, classes: int) -> Tensor:
    """One row per image: `LIMIT` detections as (score, class, 10 outcomes), then the number of boxes per class.

    An outcome is 1 for a detection that matches a box at that IoU threshold, 0 for one that does not and -1 for one that is
    not counted (in a crowd). Missing detections have class -1.

    Returns:
        float64 of shape (N, 12 * LIMIT + classes).
    """
    found = [image[torch.arange(min(LIMIT, len(image)))] for image in found]
    rows = np.zeros((len(found), 12 * LIMIT + classes))
    slots = rows[:, : 12 * LIMIT].reshape(len(found), LIMIT, 12)
    slots[:, :, 1] = -1
    filled = [0] * len(found)
    for image, label, evaluated in _matched(found, truths, classes):
        rows[image, 12 * LIMIT + label] = (np.asarray(evaluated["gtIgnore"]) == 0).sum()
        count = len(evaluated["dtScores"])
        part = slots[image, filled[image] : filled[image] + count]
        part[:, 0], part[:, 1] = evaluated["dtScores"], label
        part[:, 2:] = np.where(evaluated["dtIgnore"], -1, evaluated["dtMatches"] > 0).T
        filled[image] += count
    return torch.from_numpy(rows)


def average_precision(
    rows: Array, weights: Array, *, classes: int, thresholds: Sequence[int] = range(len(THRESHOLDS))
) -> npt.NDArray[np.float64]:
    """AP in [0, 1] per data set, threshold and class; NaN for a class without boxes.

    AP = mean over `RECALLS` of max { precision(k) : recall(k) >= r }, over detections sorted by score.

    Args:
        rows: shape (R, ...), see `records`.
        weights: how often each image is in each of B data sets, shape (B, R).
        thresholds: positions in `THRESHOLDS`.

    Returns:
        Shape (B, len(thresholds), classes).
    """
    result = np.full((len(weights), len(thresholds), classes), np.nan)
    for label in range(classes):
        for t, curve in enumerate(curves(rows, weights, label, thresholds)):
            result[:, t, label] = curve.mean(1)
    return result


def curves(rows: Array, weights: Array, label: int, thresholds: Sequence[int]) -> list[Array]:
    """Precision at `RECALLS` of one class, shape (B, 101) per threshold; NaN where there are no boxes.

    Precision is largest at detections that are right, so it is computed there alone: between two of them only the number of
    wrong ones matters, and how often their images count.
    """
    slots = rows[:, : 12 * LIMIT].reshape(-1, 12)
    positives = weights @ rows[:, 12 * LIMIT + label]
    chosen = np.flatnonzero(slots[:, 1] == label)
    chosen = chosen[np.argsort(-slots[chosen, 0], kind="stable")]
    images, counted = chosen // LIMIT, np.ascontiguousarray(weights.T)
    found = []
    for threshold in thresholds:
        outcome = slots[chosen, 2 + threshold]
        hits, misses = np.flatnonzero(outcome == 1), np.flatnonzero(outcome == 0)
        behind = np.searchsorted(hits, misses)  # a wrong detection lowers the precision from the next right one on
        between = coo_array((np.ones(len(misses)), (behind, images[misses])), shape=(len(hits) + 1, len(rows))).tocsr()
        right = np.cumsum(counted[images[hits]], axis=0)
        wrong = np.cumsum(between @ counted, axis=0)[: len(hits)]
        precision = np.divide(right, right + wrong, out=np.zeros_like(right), where=right + wrong > 0)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        found.append(_read(right.T, positives, envelope.T))
    return found


def mean_average_precision(
    classes: int, *, threshold: int | None = None, label: int | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """The formula (see `qat.evaluation.evaluate`) of 100 * mean AP over classes that have boxes and over thresholds.

    Args:
        threshold: one position in `THRESHOLDS` alone: 0 is mAP50, 5 is mAP75.
        label: one class alone.
    """
    thresholds = range(len(THRESHOLDS)) if threshold is None else [threshold]

    def formula(statistics: Tensor, weights: Tensor) -> Tensor:
        rows, counts = statistics.numpy(), weights.numpy()
        if label is None:
            found = average_precision(rows, counts, classes=classes, thresholds=thresholds)
        else:
            found = np.stack([curve.mean(1) for curve in curves(rows, counts, label, thresholds)], 1)[..., None]
        known = ~np.isnan(found)
        total = np.where(known, found, 0.0).sum((1, 2)) / np.maximum(known.sum((1, 2)), 1)
        return torch.from_numpy(100.0 * total)

    return formula


def _read(right: Array, positives: Array, envelope: Array) -> Array:
    """The envelope of precision at every recall of `RECALLS`; 0 behind the last one reached."""
    padded = np.pad(envelope, ((0, 0), (0, 1)))
    result = np.full((len(right), len(RECALLS)), np.nan)
    for row in np.flatnonzero(positives > 0):
        result[row] = padded[row, np.searchsorted(right[row] / positives[row], RECALLS, side="left")]
    return result


def _matched(found: Sequence[Detections], truths: Sequence[Truth], classes: int) -> list[tuple[int, int, dict[str, Any]]]:
    """pycocotools' matching of every image and class that has boxes or detections."""
    boxes: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for image, (detections, truth) in enumerate(zip(found, truths, strict=True)):
        for box, label, crowd in zip(truth.boxes.tolist(), truth.labels.tolist(), truth.crowd.tolist(), strict=True):
            boxes.append({**_entry(image, box, label, len(boxes) + 1), "iscrowd": int(crowd)})
        for box, label, score in zip(
            detections.boxes.tolist(), detections.labels.tolist(), detections.scores.double().tolist(), strict=True
        ):
            results.append({**_entry(image, box, label, len(results) + 1), "score": score})
    images, categories = [{"id": i} for i in range(len(found))], [{"id": i} for i in range(classes)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        tables = []
        for annotations in (boxes, results):
            table = COCO()
            table.dataset = {"images": images, "categories": categories, "annotations": annotations}
            table.createIndex()
            tables.append(table)
        matching = COCOeval(*tables, iouType="bbox")
        matching.params.areaRng, matching.params.areaRngLbl, matching.params.maxDets = [[0.0, 1e10]], ["all"], [LIMIT]
        matching.params.iouThrs = THRESHOLDS
        matching.evaluate()
    return [(entry["image_id"], entry["category_id"], entry) for entry in matching.evalImgs if entry is not None]


def _entry(image: int, box: Sequence[float], label: int, number: int) -> dict[str, object]:
    x1, y1, x2, y2 = box
    size = [x2 - x1, y2 - y1]
    return {"id": number, "image_id": image, "category_id": label, "bbox": [x1, y1, *size], "area": size[0] * size[1]}
