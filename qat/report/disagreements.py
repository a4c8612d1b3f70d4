"""The samples on which FP32 and INT8 decide differently: which they are, and their pictures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from PIL import Image, ImageOps

from qat.evaluation.evaluate import Evaluation

#: So many of them are reported at most.
MOST = 12

#: The strip of their pictures in `plots/`, in the order of `report.json`.
STRIP = "disagreements.png"

#: Pixels of the side of a picture in the strip.
SIDE = 96


def differing(fp32: Evaluation, int8: Evaluation) -> list[int]:
    """Positions of the first samples on which the two do not decide alike."""
    pairs = enumerate(zip(fp32.predictions, int8.predictions, strict=True))
    found = (i for i, (a, b) in pairs if not all((*fp32.alike(a, b), *fp32.alike(b, a))))
    return list(itertools.islice(found, MOST))


def strip(images: Sequence[Image.Image]) -> Image.Image:
    """The images side by side, each fitted into a square."""
    sheet = Image.new("RGB", (SIDE * len(images), SIDE))
    for place, image in enumerate(images):
        sheet.paste(ImageOps.pad(image.convert("RGB"), (SIDE, SIDE), color="white"), (SIDE * place, 0))
    return sheet


def squares(sheet: Image.Image) -> list[Image.Image]:
    """The pictures of a strip."""
    return [sheet.crop((left, 0, left + SIDE, SIDE)) for left in range(0, sheet.width, SIDE)]
