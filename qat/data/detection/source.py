"""What a source of images with boxes offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qat.data.source import ImageTable
from qat.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The boxes of one image, in pixels of the stored image.

    Args:
        corners: shape (M, 4), float32, x1, y1, x2, y2; every box has an area and lies in the image.
        labels: shape (M,), int64.
        crowd: shape (M,), bool: stands for several objects; not trained on, and detections in it are not counted.
    """

    corners: Tensor
    labels: Tensor
    crowd: Tensor


class BoxTable(ImageTable, Protocol):
    """Images with boxes. Its `targets` are all 0: images have no class of their own."""

    def boxes(self, index: int) -> Boxes:
        """The boxes of an image; none is legal."""

    def size(self, index: int) -> tuple[int, int]:
        """Width and height that the boxes were drawn for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxSource:
    """The tables of one data set.

    Args:
        name: what messages and reports call it.
        labels: class names; labels of boxes index them.
        train, test: not empty.
        val: None when it is to be held out of `train`.
        notes: what was repaired, in words.
    """

    name: str
    labels: tuple[str, ...]
    train: BoxTable
    test: BoxTable
    val: BoxTable | None = None
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What a task may read here."""
        return "images with boxes"

    def __post_init__(self) -> None:
        for split, table in (("train", self.train), ("val", self.val), ("test", self.test)):
            if table is not None and len(table.targets) == 0:
                raise DataError(f"{self.name}: the split {split!r} has no images")
        if not any(len(self.train.boxes(index).labels) for index in range(len(self.train.targets))):
            raise DataError(f"{self.name}: no training image has a box")


def no_boxes() -> Boxes:
    """The boxes of an image that shows nothing but background."""
    return Boxes(corners=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), crowd=torch.zeros(0, dtype=torch.bool))
