"""From the raw outputs of a detector to boxes, from the record that a float model and an artifact carry.

Needs torch and numpy only, so that whoever loads an artifact can redo it without timm, transformers or torchvision. Equal to
torchvision's FCOS and RetinaNet and to transformers' image processors; tests hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qat.errors import ConfigError, near


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found on one image, best first.

    Args:
        boxes: shape (K, 4), float32, x1, y1, x2, y2 in pixels.
        scores: shape (K,), in [0, 1].
        labels: shape (K,), int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Tensor) -> Detections:
        return Detections(boxes=self.boxes[chosen], scores=self.scores[chosen], labels=self.labels[chosen])

    def placed(self, boxes: Tensor, width: int, height: int) -> Detections:
        """The same with other boxes, cut at the edges of an image; what lies wholly outside is left out."""
        limits = torch.tensor([width, height] * 2, dtype=boxes.dtype)
        cut = torch.minimum(boxes.clamp(min=0), limits)
        inside = (cut[:, 2:] > cut[:, :2]).all(1)
        return Detections(boxes=cut[inside], scores=self.scores[inside], labels=self.labels[inside])


#: Raw outputs of a network -> one `Detections` per image, in pixels of the network's input.
Decoder = Callable[[Sequence[Tensor]], list[Detections]]


@dataclass(frozen=True, kw_only=True)
class DenseDecoder:
    """Logits (N, L, C), offsets (N, L, 4) and perhaps centerness (N, L, 1) at L anchors of a feature pyramid.

    Args:
        anchors: per level, shape (L_i, 4).
        coding: "linear": distances to the four sides in units of the anchor (FCOS); "exponential": shift of the centre and
            logarithm of the growth (R-CNN, RetinaNet).
        min_score: less is no candidate. The score is sigmoid(logit), or sqrt(sigmoid(logit) sigmoid(centerness)).
        candidates: best anchors per level that enter the suppression.
        max_overlap: boxes of one class with a larger IoU than this to a better one are suppressed.
        limit: boxes per image.

    Reference: Tian et al. 2019, arXiv:1904.01355 (FCOS); Lin et al. 2017, arXiv:1708.02002 (RetinaNet).
    """

    anchors: tuple[Tensor, ...]
    coding: str
    height: int
    width: int
    min_score: float
    candidates: int
    max_overlap: float
    limit: int

    def __call__(self, outputs: Sequence[Tensor]) -> list[Detections]:
        logits, offsets, *rest = (x.detach().float().cpu() for x in outputs)
        scores = logits.sigmoid()
        if rest:
            scores = (scores * rest[0].sigmoid()).sqrt()
        return [self._one(*image) for image in zip(scores, offsets, strict=True)]

    def _one(self, scores: Tensor, offsets: Tensor) -> Detections:
        sizes = [len(anchors) for anchors in self.anchors]
        found = []
        for level_scores, level_offsets, anchors in zip(
            torch.split(scores, sizes), torch.split(offsets, sizes), self.anchors, strict=True
        ):
            flat = level_scores.flatten()
            chosen = torch.nonzero(flat > self.min_score).flatten()
            values, best = flat[chosen].topk(min(self.candidates, len(chosen)))
            chosen = chosen[best]
            anchor = chosen // scores.shape[1]
            found.append((CODINGS[self.coding](anchors[anchor], level_offsets[anchor]), values, chosen % scores.shape[1]))
        boxes, values, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = values.argsort(descending=True, stable=True)
        limits = torch.tensor([self.width, self.height] * 2)
        candidates = Detections(
            boxes=torch.minimum(boxes.clamp(min=0), limits)[order], scores=values[order], labels=labels[order]
        )
        return candidates[suppress(candidates, self.max_overlap)[: self.limit]]


@dataclass(frozen=True, kw_only=True)
class QueryDecoder:
    """Logits (N, Q, C) and boxes (N, Q, 4) as centre, width and height in [0, 1] of Q queries; nothing is suppressed.
    Further outputs are for the loss alone.

    Args:
        activation: "sigmoid": classes compete over all queries (Deformable DETR, RT-DETR, D-FINE, ...); "softmax": one class
            per query, the last logit is that of no object (DETR, YOLOS).
        limit: boxes per image.

    Reference: Carion et al. 2020, arXiv:2005.12872; Zhu et al. 2020, arXiv:2010.04159.
    """

    activation: str
    height: int
    width: int
    limit: int

    def __call__(self, outputs: Sequence[Tensor]) -> list[Detections]:
        logits, centred = (x.detach().float().cpu() for x in outputs[:2])
        boxes = _corners(centred) * torch.tensor([self.width, self.height] * 2)
        if self.activation == "softmax":
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            found = zip(boxes, scores, labels, strict=True)
            return [Detections(boxes=b, scores=s, labels=c)[s.argsort(descending=True)[: self.limit]] for b, s, c in found]
        classes = logits.shape[-1]
        scores, chosen = logits.sigmoid().flatten(1).topk(min(self.limit, logits[0].numel()))
        return [
            Detections(boxes=b[c // classes], scores=s, labels=c % classes)
            for b, s, c in zip(boxes, scores, chosen, strict=True)
        ]


def decoder(record: Mapping[str, object]) -> Decoder:
    """The decoder that a postprocessing record describes.

    Raises:
        ConfigError: an unknown kind, or an entry is missing.
    """
    kinds: dict[str, Callable[[Mapping[str, object]], Decoder]] = {"dense": _dense, "queries": _queries}
    kind = str(record.get("kind"))
    if kind not in kinds:
        raise ConfigError(f"unknown postprocessing kind {kind!r}.{near(kind, kinds)}")
    try:
        return kinds[kind](record)
    except KeyError as error:
        raise ConfigError(f"the postprocessing record lacks {error}") from error


def anchors_of(level: Mapping[str, Any]) -> Tensor:
    """All anchors of a level in the order (row, column, anchor): its `anchors` around every multiple of its `stride`.

    Args:
        level: `grid` (rows, columns), `stride` (y, x) and `anchors` [[x1, y1, x2, y2], ...], pixels.

    Returns:
        Shape (rows * columns * anchors, 4).
    """
    (rows, columns), (stride_y, stride_x) = level["grid"], level["stride"]
    y, x = torch.meshgrid(torch.arange(rows) * float(stride_y), torch.arange(columns) * float(stride_x), indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + torch.tensor(level["anchors"], dtype=torch.float32)).reshape(-1, 4)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) and (M, 4): shape (N, M); 0 for boxes without area."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (_area(a)[:, None] + _area(b)[None] - shared).clamp(min=1e-12)


def suppress(found: Detections, max_overlap: float) -> Tensor:
    """Greedy non-maximum suppression within each class.

    Args:
        found: best first.

    Returns:
        Positions that are kept, best first.
    """
    rivals = (overlaps(found.boxes, found.boxes) > max_overlap) & (found.labels[:, None] == found.labels[None])
    beaten, table = np.zeros(len(found), dtype=bool), rivals.numpy()
    kept = []
    for position in range(len(found)):
        if not beaten[position]:
            kept.append(position)
            beaten |= table[position]
    return torch.tensor(kept, dtype=torch.int64)


def _linear(anchors: Tensor, offsets: Tensor) -> Tensor:
    """centre - (left, top) * size, centre + (right, bottom) * size."""
    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    return torch.cat([centre - offsets[:, :2] * size, centre + offsets[:, 2:] * size], 1)


def _exponential(anchors: Tensor, offsets: Tensor) -> Tensor:
    """centre + shift * size; size * exp(growth), which is bounded as in R-CNN implementations."""
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + 0.5 * size
    grown = size * offsets[:, 2:].clamp(max=math.log(1000 / 16)).exp()
    return _corners(torch.cat([centre + offsets[:, :2] * size, grown], 1))


#: Name -> (anchors (K, 4), offsets (K, 4)) -> boxes (K, 4).
CODINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"linear": _linear, "exponential": _exponential}


def _corners(centred: Tensor) -> Tensor:
    half = centred[..., 2:] / 2
    return torch.cat([centred[..., :2] - half, centred[..., :2] + half], -1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)


def _dense(record: Mapping[str, Any]) -> Decoder:
    if record["coding"] not in CODINGS:
        raise ConfigError(f"unknown box coding {record['coding']!r}.{near(str(record['coding']), CODINGS)}")
    return DenseDecoder(
        anchors=tuple(anchors_of(level) for level in record["levels"]),
        coding=record["coding"],
        height=record["height"],
        width=record["width"],
        min_score=record["min_score"],
        candidates=record["candidates"],
        max_overlap=record["max_overlap"],
        limit=record["limit"],
    )


def _queries(record: Mapping[str, Any]) -> Decoder:
    if record["activation"] not in ("sigmoid", "softmax"):
        raise ConfigError(f"unknown activation {record['activation']!r}. Allowed: sigmoid, softmax.")
    return QueryDecoder(activation=record["activation"], height=record["height"], width=record["width"], limit=record["limit"])
