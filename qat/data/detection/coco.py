"""COCO's format: a JSON file of images, categories and boxes per split, and folders of images.

What cannot be meant is refused, and what can be repaired without moving a label is repaired and said:

* refused: no JSON of that format; an id that is used twice; a box of an image or category that is not there; a box that is
  not four finite numbers; an image file that is missing; splits with other categories;
* cut at the edges of the image: a box that reaches over them;
* left out: a box without area, also after the cut. Too many of them are refused (`corrupt_budget`).

An image without boxes shows background, which is worth training on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from qat.data.budget import check_budget
from qat.data.detection.source import Boxes, BoxSource, no_boxes
from qat.errors import DataError, near

#: Where validation boxes usually stand; the only file that may be missing.
DEFAULT_VAL = "annotations/instances_val.json"

#: Boxes may reach so many pixels over the edge before it is worth a word: annotation tools round.
ROUNDING = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoTable:
    """The images of one annotation file.

    Args:
        root: names are relative to it.
        files: shape-less; in the order of the JSON.
        sizes: (width, height) as the JSON states them.
        found: the boxes of each image.
    """

    root: Path
    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    found: tuple[Boxes, ...]

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        return np.zeros(len(self.files), dtype=np.int64)

    def name(self, index: int) -> str:
        return self.files[index].relative_to(self.root).as_posix()

    def identity(self, index: int) -> str:
        """Name, stored bytes, and every box."""
        boxes = self.found[index]
        columns = (boxes.corners.tolist(), boxes.labels.tolist(), boxes.crowd.tolist())
        drawn = [[*corners, label, *["crowd"] * crowd] for corners, label, crowd in zip(*columns, strict=True)]
        return f"{self.name(index)}\t{self.files[index].stat().st_size}\t{drawn}"

    def open(self, index: int) -> Image.Image:
        return Image.open(BytesIO(self.files[index].read_bytes()))

    def boxes(self, index: int) -> Boxes:
        return self.found[index]

    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]


def coco_source(
    root: str | Path,
    *,
    train: str = "annotations/instances_train.json",
    val: str | None = DEFAULT_VAL,
    test: str = "annotations/instances_test.json",
    train_images: str = "images",
    val_images: str | None = None,
    test_images: str | None = None,
    box_budget: float = 0.01,
) -> BoxSource:
    """Read a data set in COCO's format.

    Args:
        root: everything else is relative to it.
        train, val, test: annotation files. `val` of None, or a default that is not there, holds some training images out; COCO
            itself has no annotated test images, so its recipes test on `val`.
        train_images, val_images, test_images: image folders; None takes that of `train`.
        box_budget: share of the boxes that may have no area.

    Raises:
        DataError: see the head of this file; the message names the file and the id.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"data.root: there is no folder {root}")
    repaired: list[str] = []
    read = [_read(root, "train", train, train_images, repaired)]
    if val is not None and val != test and (val != DEFAULT_VAL or (root / val).is_file()):
        read.append(_read(root, "val", val, val_images or train_images, repaired))
    read.append(_read(root, "test", test, test_images or train_images, repaired))
    labels = read[0].labels
    for other in read[1:]:
        if other.labels != labels:
            raise DataError(
                f"{root / other.file} has the categories {', '.join(other.labels.values())} under ids {list(other.labels)}, "
                f"{root / train} has {', '.join(labels.values())} under {list(labels)}; give them the same list"
            )
    left_out = [line for line in repaired if line.endswith("left out")]
    check_budget(left_out, sum(split.annotated for split in read), box_budget, what="boxes have no area", key="data.box_budget")
    return BoxSource(
        name=root.resolve().name,
        labels=tuple(labels.values()),
        train=read[0].table,
        val=read[1].table if len(read) == 3 else None,
        test=read[-1].table,
        notes=tuple(repaired),
    )


@dataclass(frozen=True, kw_only=True)
class _Split:
    file: str
    labels: dict[int, str]
    table: CocoTable
    annotated: int


def _read(root: Path, split: str, file: str, images: str, repaired: list[str]) -> _Split:
    path = root / file
    content = _content(path, split)
    labels = _labels(path, content["categories"])
    position = {category: i for i, category in enumerate(labels)}
    entries = _unique(path, "image", content["images"])
    _unique(path, "annotation", content["annotations"])
    drawn: dict[int, list[tuple[list[float], int, bool]]] = {image: [] for image in entries}
    for annotation in content["annotations"]:
        found = _box(path, annotation, entries, position, repaired)
        if found is not None:
            drawn[annotation["image_id"]].append(found)
    files, sizes = [], []
    for image, entry in entries.items():
        where = root / images / str(entry.get("file_name"))
        if not where.is_relative_to(root):
            raise DataError(f"{path}: image {image} has the file {entry.get('file_name')!r}, which lies outside of {root}")
        if not where.is_file():
            raise DataError(f"{path}: image {image} has the file {entry.get('file_name')!r}, but {where} is not there")
        files.append(where)
        sizes.append((int(entry["width"]), int(entry["height"])))
    table = CocoTable(root=root, files=tuple(files), sizes=tuple(sizes), found=tuple(_boxes(drawn[image]) for image in entries))
    return _Split(file=file, labels=labels, table=table, annotated=len(content["annotations"]))


def _content(path: Path, split: str) -> dict[str, list[dict[str, Any]]]:
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.json")] if path.parent.is_dir() else []
        raise DataError(f"there is no annotation file {path}.{near(path.name, siblings)} Name it as data.{split}=...")
    try:
        content = json.loads(path.read_text())
        lists = {key: content[key] for key in ("images", "annotations", "categories")}
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no COCO annotation file: {type(error).__name__}: {error}") from error
    for key, entries in lists.items():
        if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("id"), int) for e in entries):
            raise DataError(f"{path}: {key!r} must be a list of objects that have an integer as id each")
    for entry in lists["images"]:
        if not (_positive(entry.get("width")) and _positive(entry.get("height"))):
            raise DataError(f"{path}: image {entry['id']} needs a width and a height in pixels, got {entry}")
    return lists


def _labels(path: Path, categories: Sequence[Mapping[str, object]]) -> dict[int, str]:
    """Category id -> name, by ascending id: its position is the label."""
    labels = {int(c["id"]): str(c.get("name") or "") for c in _unique(path, "category", categories).values()}
    if not labels or "" in labels.values() or len(set(labels.values())) < len(labels):
        raise DataError(f"{path}: categories need names, and no name twice; got {list(labels.values())}")
    return dict(sorted(labels.items()))


def _unique(path: Path, what: str, entries: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    found: dict[int, Mapping[str, object]] = {}
    for entry in entries:
        if entry["id"] in found:
            raise DataError(f"{path}: the {what} id {entry['id']} is used twice; ids must be unique")
        found[entry["id"]] = entry
    return found


def _box(
    path: Path,
    annotation: Mapping[str, object],
    images: Mapping[int, Mapping[str, Any]],
    position: Mapping[int, int],
    repaired: list[str],
) -> tuple[list[float], int, bool] | None:
    """Corners, label and crowd of an annotation; None for a box without area."""
    where = f"{path}: annotation {annotation['id']}"
    image_id, category = annotation.get("image_id"), annotation.get("category_id")
    if not isinstance(image_id, int) or image_id not in images:
        raise DataError(f"{where} belongs to image {image_id!r}, which is not there")
    if not isinstance(category, int) or category not in position:
        raise DataError(f"{where} has category {category!r}, which is not in the list {list(position)}")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_finite(value) for value in box):
        raise DataError(f"{where} has the bbox {box}; it must be [x, y, width, height] in finite numbers")
    image = images[image_id]
    x, y, width, height = (float(value) for value in box)
    given = [x, y, x + width, y + height]
    limits = [float(image["width"]), float(image["height"])] * 2
    cut = [min(max(value, 0.0), limit) for value, limit in zip(given, limits, strict=True)]
    corners: list[float] = np.array(cut, np.float32).tolist()  # as `Boxes` holds them: a tiny box far from 0 has no area there
    if width <= 0 or height <= 0 or corners[2] <= corners[0] or corners[3] <= corners[1]:
        repaired.append(f"{where} of image {image.get('file_name')}: bbox {box} has no area inside the image, left out")
        return None
    if max(abs(a - b) for a, b in zip(given, corners, strict=True)) > ROUNDING:
        repaired.append(f"{where} of image {image.get('file_name')}: bbox {box} reaches over the edge, cut")
    return corners, position[category], bool(annotation.get("iscrowd", 0))


def _boxes(drawn: Sequence[tuple[list[float], int, bool]]) -> Boxes:
    if not drawn:
        return no_boxes()
    corners, labels, crowd = zip(*drawn, strict=True)
    return Boxes(corners=torch.tensor(corners), labels=torch.tensor(labels), crowd=torch.tensor(crowd))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
