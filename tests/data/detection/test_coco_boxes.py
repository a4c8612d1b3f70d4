"""Boxes of COCO's JSON: cut, left out and counted, told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.data.detection.coco import coco_source
from qat.data.detection.source import BoxSource
from qat.errors import DataError
from tests.data.detection.samples import DRAWN, HEIGHT, WIDTH, contents, write_coco

X, Y, W, H = DRAWN


def _with_boxes(root: Path, *boxes: list[float], corrupt_budget: float = 0.5) -> BoxSource:
    """A source whose first training image has these boxes, of alternating categories, and no other."""
    splits = contents()
    template = splits["train"]["annotations"][0]
    splits["train"]["annotations"][:1] = [
        {**template, "id": 700 + i, "category_id": (4, 9)[i % 2], "bbox": box} for i, box in enumerate(boxes)
    ]
    return coco_source(write_coco(root, splits), box_budget=corrupt_budget)


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ([-5, 3, 20, 10], [0, 3, 15, 13]),
        ([3, -5, 20, 10], [3, 0, 23, 5]),
        ([50, 30, 20, 20], [50, 30, WIDTH, HEIGHT]),
        ([-100, -100, 500, 500], [0, 0, WIDTH, HEIGHT]),
    ],
)
def test_coco_box_over_the_edge_is_cut_and_said(tmp_path: Path, box: list[float], corners: list[float]) -> None:
    source = _with_boxes(tmp_path, box, corrupt_budget=0)
    assert source.train.boxes(0).corners.tolist() == [corners]
    (note,) = source.notes
    assert f"instances_train.json: annotation 700 of image train0.jpg: bbox {box} reaches over the edge, cut" in note


def test_coco_box_over_the_edge_by_rounding_is_cut_without_a_word(tmp_path: Path) -> None:
    source = _with_boxes(tmp_path, [-1, -0.5, WIDTH + 2, HEIGHT + 1], corrupt_budget=0)
    assert source.train.boxes(0).corners.tolist() == [[0, 0, WIDTH, HEIGHT]]
    assert source.notes == ()


@pytest.mark.parametrize(
    "bad", [[5, 5, 0, 8], [5, 5, 8, 0], [20, 5, -8, 8], [20, 20, 8, -8], [-30, 5, 20, 8], [5, HEIGHT, 8, 8], [50, 5, 1e-6, 8]]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_coco_box_without_area_is_left_out_and_the_others_keep_their_labels(
    tmp_path: Path, bad: list[float], place: int
) -> None:
    boxes: list[list[float]] = [[1, 1, 10, 10], [2, 2, 10, 10], [3, 3, 10, 10]]
    kept = [i for i in range(3) if i != place]
    source = _with_boxes(tmp_path, *boxes[:place], bad, *boxes[place + 1 :])
    found = source.train.boxes(0)
    assert found.corners[:, 0].tolist() == [i + 1 for i in kept]
    assert found.labels.tolist() == [i % 2 for i in kept]
    (note,) = source.notes
    assert f"annotation {700 + place} of image train0.jpg: bbox {bad} has no area inside the image, left out" in note
    assert source.train.boxes(1).labels.tolist() == [0], "the next image keeps its own"


def test_coco_refuses_more_boxes_without_area_than_the_budget(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes: tuple[list[float], ...] = ([1, 1, 10, 10], [2, 2, 0, 10])
    with pytest.raises(DataError, match=r"1 of 10 boxes have no area, more than data\.box_budget=0\.09 .*\n.*annotation 701"):
        _with_boxes(tmp_path, *boxes, corrupt_budget=0.09)
    _with_boxes(tmp_path, *boxes, corrupt_budget=0.1)
    assert "1 of 10 boxes have no area and are left out" in caplog.text


def test_coco_cut_boxes_do_not_count_against_the_budget_whatever_the_folder_is_called(tmp_path: Path) -> None:
    source = _with_boxes(tmp_path / "left out", [-5, 3, 20, 10], corrupt_budget=0)
    assert len(source.notes) == 1


@pytest.mark.parametrize(
    "change",
    [{"bbox": [*DRAWN[:3], DRAWN[3] + 1]}, {"category_id": 4}, {"iscrowd": 1}],
    ids=["corner", "label", "crowd"],
)
def test_coco_identity_tells_every_property_of_a_box(tmp_path: Path, change: dict[str, Any]) -> None:
    splits = contents()
    before = coco_source(write_coco(tmp_path, splits)).train
    splits["train"]["annotations"][0].update(change)
    after = coco_source(write_coco(tmp_path, splits)).train
    assert before.identity(0) != after.identity(0)
    assert before.identity(1) == after.identity(1)
