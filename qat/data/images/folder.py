"""Images in folders named after their class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from qat.data.source import ImageSource
from qat.data.split import hold_out
from qat.errors import ConfigError, DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, kw_only=True, eq=False)
class FileTable:
    """Image files below a root folder.

    Args:
        root: names are relative to it.
        files: sorted.
        targets: shape (N,).
    """

    root: Path
    files: tuple[Path, ...]
    targets: npt.NDArray[np.int64]

    def name(self, index: int) -> str:
        return self.files[index].relative_to(self.root).as_posix()

    def identity(self, index: int) -> str:
        """Name and stored bytes."""
        return f"{self.name(index)}\t{self.files[index].stat().st_size}"

    def open(self, index: int) -> Image.Image:
        return Image.open(BytesIO(self.files[index].read_bytes()))  # of a path, Pillow may keep the file open

    def part(self, indices: npt.NDArray[np.int64]) -> FileTable:
        """Some of them."""
        files = tuple(self.files[index] for index in indices.tolist())
        return FileTable(root=self.root, files=files, targets=self.targets[indices])


def folder_source(
    root: str | Path,
    *,
    train_split: str = "train",
    val_split: str = "val",
    test_split: str = "test",
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> ImageSource:
    """Read `root/{train,val,test}/{class}/*`, or `root/{class}/*` of which a test split is held out.

    Args:
        root: where `train_split` is a folder in it, the splits are folders; else its folders are the classes.
        train_split, val_split, test_split: folder names; without a validation folder some training images are held
            out later.
        test_fraction: share of the images held out for the test when the folders are the classes.
        split_seed: of that choice.

    Raises:
        DataError: no images, an empty class, or splits with other classes.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"data.root: there is no folder {root}")
    if not (root / train_split).is_dir():
        if not 0 < test_fraction < 1:
            raise ConfigError(f"data.test_fraction must lie between 0 and 1, got {test_fraction}")
        labels, table = _read(root, root)
        train, test = hold_out(table.targets, test_fraction, seed=split_seed)
        return ImageSource(name=root.resolve().name, labels=labels, train=table.part(train), test=table.part(test))
    if not (root / test_split).is_dir():
        raise DataError(
            f"{root} has no folder {test_split!r} beside {train_split!r}. Found: {_names(_folders(root))}. "
            "Name the one to test on as data.test_split."
        )
    labels, train_table = _read(root, root / train_split)
    test_table = _read_same(root, test_split, labels)
    has_val = val_split != test_split and (root / val_split).is_dir()
    val_table = _read_same(root, val_split, labels) if has_val else None
    return ImageSource(name=root.resolve().name, labels=labels, train=train_table, val=val_table, test=test_table)


def _read(root: Path, base: Path) -> tuple[tuple[str, ...], FileTable]:
    """Class names and files of the class folders in `base`; classes and files are sorted by name."""
    labels = tuple(_folders(base))
    files: list[Path] = []
    targets: list[int] = []
    for target, label in enumerate(labels):
        own = sorted(path for path in (base / label).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not own:
            raise DataError(f"the class folder {base / label} has no images. Accepted: {', '.join(IMAGE_SUFFIXES)}")
        files += own
        targets += [target] * len(own)
    if not files:
        raise DataError(
            f"{base} has no class folders with images: expected {base}/<class>/<image>. Accepted: {', '.join(IMAGE_SUFFIXES)}"
        )
    return labels, FileTable(root=root, files=tuple(files), targets=np.array(targets, dtype=np.int64))


def _read_same(root: Path, split: str, labels: tuple[str, ...]) -> FileTable:
    """The files of a split that must have the classes `labels`."""
    own, table = _read(root, root / split)
    if own != labels:
        raise DataError(
            f"{root}: {split!r} has other classes than the training images. Only in {split!r}: "
            f"{_names(set(own) - set(labels))}; missing in it: {_names(set(labels) - set(own))}"
        )
    return table


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
