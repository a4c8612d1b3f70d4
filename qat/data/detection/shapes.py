"""Generated images of discs, squares and triangles on noisy ground: detection without a file, for demonstrations and tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from qat.data.detection.source import Boxes, BoxSource, no_boxes
from qat.data.options import check_at_least

LABELS = ("disc", "square", "triangle")

#: Width and height of an image in pixels.
SIDE = 96


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapeTable:
    """Images drawn when they are asked for; image `index` is a function of (seed, index)."""

    count: int
    seed: int

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        return np.zeros(self.count, dtype=np.int64)

    def name(self, index: int) -> str:
        return f"image {index}"

    def identity(self, index: int) -> str:
        return f"{self.seed}/{index}"

    def open(self, index: int) -> Image.Image:
        return _drawn(self.seed, index)[0].copy()

    def boxes(self, index: int) -> Boxes:
        return _drawn(self.seed, index)[1]

    def size(self, index: int) -> tuple[int, int]:
        return SIDE, SIDE


@lru_cache(maxsize=1024)
def _drawn(seed: int, index: int) -> tuple[Image.Image, Boxes]:
    """Up to five shapes of 12 to 40 pixels that do not overlap; one image in eight or so shows none."""
    rng = np.random.default_rng((seed, index))
    ground = rng.integers(60, 196, 3) + rng.normal(0, 12, (SIDE, SIDE, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    corners: list[list[float]] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(0, 8))):
        size = int(rng.integers(12, 41))
        x, y = (int(v) for v in rng.integers(0, SIDE - size, 2))
        box = [x, y, x + size, y + size]
        if len(corners) == 5 or any(_touch(box, other) for other in corners):
            continue
        label = int(rng.integers(len(LABELS)))
        _draw(pen, label, box, tuple(int(c) for c in (ground.mean((0, 1)) + rng.choice([-80, 80], 3)).clip(0, 255)))
        corners.append([float(v) for v in box])
        labels.append(label)
    if not corners:
        return image, no_boxes()
    crowd = torch.zeros(len(labels), dtype=torch.bool)
    return image, Boxes(corners=torch.tensor(corners), labels=torch.tensor(labels), crowd=crowd)


def shapes_source(*, train: int = 480, test: int = 120, seed: int = 0) -> BoxSource:
    """A data set of shapes.

    Args:
        train, test: number of images.
        seed: of both; no image is in both.
    """
    check_at_least(1, train=train, test=test)
    return BoxSource(
        name="shapes",
        labels=LABELS,
        train=ShapeTable(count=train, seed=2 * seed),
        test=ShapeTable(count=test, seed=2 * seed + 1),
    )


def _draw(pen: ImageDraw.ImageDraw, label: int, box: list[int], colour: tuple[int, ...]) -> None:
    x1, y1, x2, y2 = box[0], box[1], box[2] - 1, box[3] - 1  # Pillow draws the last pixel too
    if label == 0:
        pen.ellipse([x1, y1, x2, y2], fill=colour)
    elif label == 1:
        pen.rectangle([x1, y1, x2, y2], fill=colour)
    else:
        pen.polygon([(x1, y2), (x2, y2), ((x1 + x2) // 2, y1)], fill=colour)


def _touch(a: list[int], b: list[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
