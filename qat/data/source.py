"""What a source of images offers: tables of images by index, and their class names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from qat.errors import DataError


class Table(Protocol):
    """One split: samples and targets by index."""

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """Class of every sample, shape (N,)."""

    def name(self, index: int) -> str:
        """What a message calls this sample: a path, a row, a line."""

    def identity(self, index: int) -> str:
        """What tells this sample from another version of it."""


class ImageTable(Table, Protocol):
    """Images. Holds no decoded image."""

    def open(self, index: int) -> Image.Image:
        """The image, opened by Pillow and perhaps not decoded yet; Pillow's errors are for the caller."""


AnyTable = TypeVar("AnyTable", bound=Table, covariant=True)


class Source(Protocol[AnyTable]):
    """What data of every kind need to know of a source."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def train(self) -> AnyTable: ...

    @property
    def test(self) -> AnyTable: ...

    @property
    def val(self) -> AnyTable | None: ...


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

    @property
    def kind(self) -> str:
        """What a task may read here."""
        return "images"

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            alone = ", ".join(self.labels) or "no class"
            raise DataError(
                f"{self.name}: a classifier tells classes apart, and there is {alone} alone. Folders of classes stand side "
                "by side in a split, or in data.root itself"
            )
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
