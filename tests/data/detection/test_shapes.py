from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from qat.data.detection import shapes
from qat.data.detection.shapes import LABELS, SIDE, shapes_source
from qat.data.detection.source import BoxTable
from qat.errors import ConfigError
from tests.data.detection.samples import extent

TRAIN = shapes_source(train=60, test=60).train
TEST = shapes_source(train=60, test=60).test


def _corners(table: BoxTable, index: int) -> list[list[int]]:
    return table.boxes(index).corners.int().tolist()


def _drawn(table: BoxTable, index: int) -> npt.NDArray[np.bool_]:
    """Which pixels are far from the ground, in every channel; shape (height, width)."""
    pixels = np.asarray(table.open(index)).astype(int)
    ground = np.ones((SIDE, SIDE), dtype=bool)
    for x1, y1, x2, y2 in _corners(table, index):
        ground[y1:y2, x1:x2] = False
    far: npt.NDArray[np.bool_] = (np.abs(pixels - np.median(pixels[ground], axis=0)) > 40).all(axis=-1)
    return far


def test_shapes_have_the_promised_form() -> None:
    source = shapes_source(train=7, test=5)
    assert (source.labels, len(source.train.targets), len(source.test.targets)) == (LABELS, 7, 5)
    assert source.train.open(0).size == source.train.size(0) == (SIDE, SIDE)
    assert {label for i in range(60) for label in TRAIN.boxes(i).labels.tolist()} == {0, 1, 2}


def test_shapes_repeat_and_differ_between_seeds() -> None:
    table, other = shapes_source(train=10, seed=3).train, shapes_source(train=10, seed=4).train
    images, corners = [table.open(i).tobytes() for i in range(10)], [_corners(table, i) for i in range(10)]
    shapes._drawn.cache_clear()
    assert [table.open(i).tobytes() for i in reversed(range(10))] == images[::-1]
    assert [_corners(table, i) for i in range(10)] == corners
    assert not {*images} & {other.open(i).tobytes() for i in range(10)}
    assert len({table.identity(0), other.identity(0), table.identity(1)}) == 3


def test_shapes_are_not_changed_by_who_draws_on_them() -> None:
    before = TRAIN.open(0).tobytes()
    TRAIN.open(0).putpixel((0, 0), (1, 2, 3))
    assert TRAIN.open(0).tobytes() == before


def test_shapes_stand_tight_in_their_boxes_and_nowhere_else() -> None:
    for index in range(60):
        drawn = _drawn(TRAIN, index)
        for (x1, y1, x2, y2), label in zip(_corners(TRAIN, index), TRAIN.boxes(index).labels.tolist(), strict=True):
            inside = drawn[y1:y2, x1:x2]
            assert extent(inside) == [0, 0, x2 - x1, y2 - y1]
            share = {"disc": np.pi / 4, "square": 1.0, "triangle": 0.5}[LABELS[label]]
            assert inside.mean() == pytest.approx(share, abs=0 if share == 1 else 0.1)
            drawn[y1:y2, x1:x2] = False
        assert not drawn.any()


def test_shapes_do_not_overlap_and_lie_in_the_image() -> None:
    for index in range(60):
        times = np.zeros((SIDE, SIDE), dtype=int)
        for x1, y1, x2, y2 in _corners(TRAIN, index):
            assert 0 <= x1 < x2 <= SIDE
            assert 0 <= y1 < y2 <= SIDE
            times[y1:y2, x1:x2] += 1
        assert times.max() <= 1


def test_shapes_leave_some_images_empty() -> None:
    counts = [len(TRAIN.boxes(index).labels) for index in range(60)]
    assert 1 <= counts.count(0) <= 20
    assert max(counts) <= 5


def test_shapes_share_no_image_between_training_and_test_of_any_seed() -> None:
    sources = [shapes_source(train=60, test=60, seed=seed) for seed in range(3)]
    images = [table.open(i).tobytes() for source in sources for table in (source.train, source.test) for i in range(60)]
    assert len(set(images)) == len(images)


def test_shapes_need_images() -> None:
    with pytest.raises(ConfigError, match=r"data\.test must be at least 1, got 0"):
        shapes_source(test=0)
