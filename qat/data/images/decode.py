"""From stored bytes to an 8-bit image, and the scan that finds what cannot be decoded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from qat.data.source import ImageTable
from qat.deploy.preprocess import to_8_bit
from qat.errors import DataError


def decode(table: ImageTable, index: int, channels: int) -> Image.Image:
    """Decode one image to mode "L" (1 channel) or "RGB" (3 channels).

    Raises:
        DataError: the image is damaged, holds NaN, or has pixels without an agreed range; it is named.
    """
    try:
        image = table.open(index)
        image.load()
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, zlib.error and others
        raise DataError(f"{table.name(index)} cannot be decoded: {error}") from error
    try:
        return to_8_bit(image, channels)
    except DataError as error:
        raise type(error)(f"{table.name(index)} {error}") from error


def find_corrupt(table: ImageTable, indices: npt.NDArray[np.int64]) -> dict[int, str]:
    """Decode every image once, JPEG at an eighth of its size, and say which ones fail.

    Returns:
        Index in the table → name and reason.

    Raises:
        DataError: an image holds NaN, or has pixels without an agreed range.
    """
    corrupt: dict[int, str] = {}
    for index in indices.tolist():
        try:
            image = table.open(index)
            image.draft("L", (1, 1))
            image.load()
        except Exception as error:  # as in `decode`
            corrupt[index] = f"{table.name(index)}: {error}"
            continue
        if image.mode in ("F", "I"):
            decode(table, index, 1)
    return corrupt
