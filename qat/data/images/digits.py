"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, 10 classes, no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from qat.data.source import ImageSource
from qat.data.split import hold_out

TEST_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayTable:
    """Grey images in memory.

    Args:
        pixels: shape (N, height, width), uint8.
        targets: shape (N,).
    """

    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.int64]

    def name(self, index: int) -> str:
        return f"image {index}"

    def identity(self, index: int) -> str:
        """Name and stored bytes."""
        return f"{self.name(index)}\t{self.pixels[index].nbytes}"

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


def digits_source() -> ImageSource:
    """The digits with a fixed stratified test split of `TEST_FRACTION`."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    targets = digits.target.astype(np.int64)
    train, test = hold_out(targets, TEST_FRACTION, seed=0)
    return ImageSource(
        name="digits",
        labels=tuple(str(name) for name in digits.target_names),
        train=ArrayTable(pixels=pixels[train], targets=targets[train]),
        test=ArrayTable(pixels=pixels[test], targets=targets[test]),
    )
