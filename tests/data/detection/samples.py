"""Small inputs for the tests of images with boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 60, 40

#: What every image of `write_coco` shows: x, y, width, height of a white rectangle.
DRAWN = (12, 8, 24, 16)


def rectangles(width: int, height: int, *corners: tuple[int, int, int, int], ground: int = 0) -> Image.Image:
    """White rectangles on a plain ground; x2 and y2 are the first pixels behind them."""
    image = Image.new("RGB", (width, height), (ground,) * 3)
    pen = ImageDraw.Draw(image)
    for x1, y1, x2, y2 in corners:
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill="white")
    return image


def extent(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Corners x1, y1, x2, y2 of the box around all True of a mask of shape (height, width)."""
    ys, xs = np.nonzero(mask)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def contents(**counts: int) -> dict[str, dict[str, Any]]:
    """COCO's JSON per split, to be changed and written; image i has the id 100 + i and the annotation 500 + i.

    Categories are "cell" under id 9 and "blob" under id 4; annotations alternate between them.
    """
    return {
        split: {
            "images": [{"id": 100 + i, "file_name": f"{split}{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(count)],
            "annotations": [
                {"id": 500 + i, "image_id": 100 + i, "category_id": (9, 4)[i % 2], "bbox": [*DRAWN]} for i in range(count)
            ],
            "categories": [{"id": 9, "name": "cell"}, {"id": 4, "name": "blob"}],
        }
        for split, count in (counts or {"train": 4, "val": 2, "test": 3}).items()
    }


def write_coco(root: Path, splits: dict[str, dict[str, Any]] | None = None) -> Path:
    """`root/annotations/instances_{split}.json` and the files of its images; returns `root`."""
    x, y, width, height = DRAWN
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    for split, content in (splits or contents()).items():
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for entry in content["images"]:
            image = rectangles(WIDTH, HEIGHT, (x, y, x + width, y + height))
            image.save(root / "images" / entry["file_name"], quality=95)
    return root
