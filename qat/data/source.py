"""What a source of images offers: tables of images by index, and their class names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from qat.errors import DataError


class ImageTable(Protocol):
    """One split: images and targets by index. Holds no decoded image."""

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """Class of every image, shape (N,)."""

    def name(self, index: int) -> str:
        """What a message calls this image: a path, or a row."""

    def size(self, index: int) -> int:
        """Bytes of the stored image."""

    def open(self, index: int) -> Image.Image:
        """The image, opened by Pillow and perhaps not decoded yet; Pillow's errors are for the caller."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSource:
    """The tables of one data set.

    Args:
        name: what messages and reports call it.
        labels: class names; targets index them.
        train, test: not empty.
        val: None when it is to be held out of `train`.
    """

    name: str
    labels: tuple[str, ...]
    train: ImageTable
    test: ImageTable
    val: ImageTable | None = None

    def __post_init__(self) -> None:
        for split, table in (("train", self.train), ("val", self.val), ("test", self.test)):
            if table is None:
                continue
            if len(table.targets) == 0:
                raise DataError(f"{self.name}: the split {split!r} has no images")
            low, high = int(table.targets.min()), int(table.targets.max())
            if low < 0 or high >= len(self.labels):
                raise DataError(
                    f"{self.name}: the split {split!r} has targets from {low} to {high}, but there are "
                    f"{len(self.labels)} labels, so targets must be 0 to {len(self.labels) - 1}"
                )
