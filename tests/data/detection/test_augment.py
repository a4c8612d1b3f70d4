from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qat.data.detection.augment import AUGMENTS, BoxAugment
from qat.errors import ConfigError
from tests.data.detection.samples import extent, rectangles

#: Label 0 is wide, label 1 is tall; cropping keeps the centre of a box, so that both stay what they are.
DRAWN = [(10, 10, 60, 22), (70, 30, 80, 74)]
CORNERS, LABELS = torch.tensor(DRAWN, dtype=torch.float32), torch.tensor([0, 1])


def _image(mode: str = "RGB") -> Image.Image:
    return rectangles(100, 90, *DRAWN, ground=60).convert(mode)


def _views(name: str, count: int = 60, mode: str = "RGB") -> list[tuple[Image.Image, Tensor, Tensor]]:
    augment = BoxAugment(name)
    return [augment(_image(mode), CORNERS, LABELS, random.Random(seed)) for seed in range(count)]


def test_none_is_the_identity() -> None:
    corners = torch.tensor([[3.0, 3.0, 3.5, 3.5]])
    image, seen, labels = BoxAugment("none")(_image(), corners, LABELS[:1], random.Random(0))
    assert image.tobytes() == _image().tobytes()
    assert torch.equal(seen, corners)
    assert torch.equal(labels, LABELS[:1])


@pytest.mark.parametrize("name", AUGMENTS)
def test_augment_repeats_with_its_seed_and_leaves_global_randomness_alone(name: str) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    first = _views(name, 20)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(99)
    torch.manual_seed(99)
    for (image, corners, labels), (other, other_corners, other_labels) in zip(first, _views(name, 20), strict=True):
        assert image.tobytes() == other.tobytes()
        assert torch.equal(corners, other_corners)
        assert torch.equal(labels, other_labels)
    assert len({image.tobytes() for image, _, _ in first}) > 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", AUGMENTS)
def test_boxes_stay_on_what_they_were_drawn_around(name: str, mode: str) -> None:
    seen = 0
    for image, corners, labels in _views(name, mode=mode):
        assert image.mode == mode
        assert type(corners) is Tensor
        bright = np.asarray(image.convert("L")) > 130  # between the fill of zooming out, 114, and any white
        for corner, label in zip(corners, labels.tolist(), strict=True):
            x1, y1, x2, y2 = (round(v) for v in corner.tolist())
            left, top = max(0, x1 - 5), max(0, y1 - 5)
            around = torch.tensor(extent(bright[top : y2 + 5, left : x2 + 5])) + torch.tensor([left, top, left, top])
            torch.testing.assert_close(corner, around.float(), atol=2, rtol=0)
            assert (x2 - x1 < y2 - y1) == bool(label)
            seen += 1
    assert seen >= 60


def test_flip_mirrors_or_keeps_exactly() -> None:
    mirrored = torch.tensor([[100 - x2, y1, 100 - x1, y2] for x1, y1, x2, y2 in DRAWN], dtype=torch.float32)
    kinds = {(torch.equal(corners, CORNERS), torch.equal(corners, mirrored)) for _, corners, _ in _views("flip", 20)}
    assert kinds == {(True, False), (False, True)}


def test_only_images_without_upside_are_turned_over() -> None:
    def upside(name: str) -> set[bool]:
        both = [corners for _, corners, _ in _views(name) if len(corners) == 2]
        return {bool(corners[0, 1] < corners[1, 1]) for corners in both}

    assert upside("ssd") == {True}
    assert upside("ssd_any_side_up") == {True, False}


@pytest.mark.parametrize("name", AUGMENTS)
def test_augment_takes_images_without_boxes(name: str) -> None:
    augment = BoxAugment(name)
    for seed in range(20):
        _, corners, labels = augment(_image(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), random.Random(seed))
        assert (corners.shape, labels.shape, labels.dtype) == ((0, 4), (0,), torch.int64)


def test_boxes_of_which_little_remains_leave_with_their_labels() -> None:
    corners = torch.tensor([[10.0, 10.0, 11.5, 30.0], [20.0, 20.0, 40.0, 40.0]])
    for seed in range(10):
        _, seen, labels = BoxAugment("flip")(_image(), corners, LABELS, random.Random(seed))
        assert (len(seen), labels.tolist()) == (1, [1])


def test_unknown_augment_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown augment 'sdd' of images with boxes\. Did you mean 'ssd'.*none"):
        BoxAugment("sdd")
