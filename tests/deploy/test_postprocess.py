"""From raw outputs to boxes, against torchvision and transformers."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_iou
from transformers import DeformableDetrImageProcessor, DetrImageProcessor, RTDetrImageProcessor

from qat.deploy.postprocess import Detections, anchors_of, decoder, overlaps, suppress
from qat.errors import ConfigError
from qat.models.dense import HEADS, build_dense
from qat.models.float_model import FloatModel
from tests.models.references import NAMES, torchvision_anchors, torchvision_detector

SIZE, CLASSES = 64, 3

QUERIES: dict[str, Any] = {"kind": "queries", "activation": "sigmoid", "height": 48, "width": 80, "limit": 100}


@cache
def _dense(head: str) -> FloatModel:
    return build_dense(name="test_resnet", num_classes=CLASSES, head=head, image_size=SIZE, head_options={"channels": 16})


def _dense_record(**changes: Any) -> dict[str, Any]:
    return {**_dense("fcos").task_options["postprocessing"], **changes}


def _boxes(count: int) -> Tensor:
    corners = torch.rand(count, 2) * 60
    return torch.cat([corners, corners + torch.rand(count, 2) * 30 + 1], 1)


def _detections(count: int) -> Detections:
    scores = torch.rand(count).sort(descending=True).values
    return Detections(boxes=_boxes(count), scores=scores, labels=torch.randint(CLASSES, (count,)))


# --- dense -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{}, {"min_score": 0.75}, {"candidates": 7, "limit": 9}], ids=["as_built", "high_scores", "few_candidates"]
)
@pytest.mark.parametrize("head", HEADS)
def test_dense_decoder_equals_torchvision(head: str, limits: dict[str, Any]) -> None:
    """On random outputs, many of them over the edge."""
    built = _dense(head)
    record = {**built.task_options["postprocessing"], **limits}
    reference = torchvision_detector(head, record, num_classes=CLASSES)
    anchors = torchvision_anchors(reference, record)
    positions = sum(map(len, anchors))
    offsets = torch.rand(2, positions, 4) * 2 if head == "fcos" else torch.randn(2, positions, 4)
    outputs = [torch.randn(2, positions, CLASSES), offsets, torch.randn(2, positions, 1)][: 3 if head == "fcos" else 2]
    sizes = [len(level) for level in anchors]
    by_level = {name: torch.split(x, sizes, 1) for name, x in zip(NAMES, outputs, strict=False)}
    expected = reference.postprocess_detections(by_level, [anchors] * 2, [(SIZE, SIZE)] * 2)
    for found, image in zip(decoder(record)(outputs), expected, strict=True):
        assert 0 < len(found) <= record["limit"]
        torch.testing.assert_close(found.boxes, image["boxes"], rtol=0, atol=1e-4)
        torch.testing.assert_close(found.scores, image["scores"])
        assert torch.equal(found.labels, image["labels"])


def test_dense_decoder_finds_nothing_where_no_score_suffices() -> None:
    outputs = [torch.full((1, 86, CLASSES), -20.0), torch.ones(1, 86, 4), torch.zeros(1, 86, 1)]
    found = decoder(_dense_record())(outputs)[0]
    assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))


def test_anchors_equal_those_of_torchvision() -> None:
    generator = AnchorGenerator(((8, 20), (32, 50)), ((0.5, 1.0, 2.0),) * 2)
    grids = [(6, 10), (2, 3)]
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    expected = generator(ImageList(torch.zeros(1, 3, 48, 80), [(48, 80)]), maps)[0]
    found = [
        anchors_of({"grid": grid, "stride": (48 // grid[0], 80 // grid[1]), "anchors": cell.tolist()})
        for grid, cell in zip(grids, generator.cell_anchors, strict=True)
    ]
    assert torch.equal(torch.cat(found), expected)


def test_overlaps_equal_those_of_torchvision() -> None:
    a, b = _boxes(30), _boxes(20)
    torch.testing.assert_close(overlaps(a, b), box_iou(a, b))


def test_boxes_without_area_overlap_with_nothing() -> None:
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 10.0, 10.0], [8.0, 8.0, 2.0, 2.0]])
    assert overlaps(boxes, boxes).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("max_overlap", [0.1, 0.3, 0.6])
def test_suppression_equals_that_of_torchvision(max_overlap: float) -> None:
    found = _detections(300)
    kept = suppress(found, max_overlap)
    assert 0 < len(kept) < len(found)
    assert torch.equal(kept, batched_nms(found.boxes, found.scores, found.labels, max_overlap))
    assert len(suppress(found[torch.zeros(0, dtype=torch.int64)], max_overlap)) == 0


# --- queries ---------------------------------------------------------------------------------------------------------


def _expected(processor: Any, logits: Tensor, boxes: Tensor, **options: Any) -> list[dict[str, Tensor]]:
    outputs, sizes = SimpleNamespace(logits=logits, pred_boxes=boxes), [(QUERIES["height"], QUERIES["width"])] * len(logits)
    found: list[dict[str, Tensor]] = processor.post_process_object_detection(outputs, 0.0, target_sizes=sizes, **options)
    return found


def _assert_found(found: list[Detections], expected: list[dict[str, Tensor]]) -> None:
    for image, other in zip(found, expected, strict=True):
        order = other["scores"].argsort(descending=True)[: len(image)]
        torch.testing.assert_close(image.scores, other["scores"][order])
        assert torch.equal(image.labels, other["labels"][order])
        torch.testing.assert_close(image.boxes, other["boxes"][order])


def test_softmax_queries_are_those_of_detr() -> None:
    logits, boxes = torch.randn(2, 30, CLASSES + 1), torch.rand(2, 30, 4)
    for limit in (100, 8):
        found = decoder({**QUERIES, "activation": "softmax", "limit": limit})([logits, boxes])
        assert [len(image) for image in found] == [min(limit, 30)] * 2
        _assert_found(found, _expected(DetrImageProcessor(), logits, boxes))


@pytest.mark.parametrize("limit", [8, 100, 1000])
def test_sigmoid_queries_are_those_of_deformable_detr(limit: int) -> None:
    """A query counts once per class; there are 120 pairs."""
    logits, boxes = torch.randn(2, 40, CLASSES), torch.rand(2, 40, 4)
    found = decoder({**QUERIES, "limit": limit})([logits, boxes, torch.randn(2, 40, 5)])
    assert [len(image) for image in found] == [min(limit, 120)] * 2
    _assert_found(found, _expected(DeformableDetrImageProcessor(), logits, boxes, top_k=limit))


def test_sigmoid_queries_are_those_of_rt_detr() -> None:
    """Which keeps as many as there are queries."""
    logits, boxes = torch.randn(2, 40, CLASSES), torch.rand(2, 40, 4)
    _assert_found(decoder({**QUERIES, "limit": 40})([logits, boxes]), _expected(RTDetrImageProcessor(), logits, boxes))


# --- both ------------------------------------------------------------------------------------------------------------


def test_placed_boxes_are_cut_at_the_edges_and_those_outside_left_out() -> None:
    found = Detections(boxes=torch.zeros(4, 4), scores=torch.tensor([0.9, 0.8, 0.7, 0.6]), labels=torch.arange(4))
    boxes = torch.tensor([[-5.0, 2, 8, 99], [20, 0, 30, 10], [1, 2, 3, 4], [3, -9, 5, -1]])
    placed = found.placed(boxes, width=20, height=30)
    assert placed.boxes.tolist() == [[0, 2, 8, 30], [1, 2, 3, 4]]
    assert placed.labels.tolist() == [0, 2]
    assert torch.equal(placed.scores, found.scores[[0, 2]])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "unknown postprocessing kind 'None'"),
        ({**QUERIES, "kind": "query"}, r"unknown postprocessing kind 'query'.*Did you mean 'queries'"),
        ({**QUERIES, "activation": "relu"}, "unknown activation 'relu'. Allowed: sigmoid, softmax"),
    ],
)
def test_unknown_record_is_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decoder(record)


def test_unknown_box_coding_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown box coding 'linaer'.*Did you mean 'linear'"):
        decoder(_dense_record(coding="linaer"))


@pytest.mark.parametrize("kind", ["dense", "queries"])
def test_record_that_lacks_any_entry_is_refused(kind: str) -> None:
    whole = _dense_record() if kind == "dense" else QUERIES
    decoder(whole)
    for entry in whole.keys() - {"kind"}:
        with pytest.raises(ConfigError, match=f"the postprocessing record lacks '{entry}'"):
            decoder({key: value for key, value in whole.items() if key != entry})
