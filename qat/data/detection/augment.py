"""Training transforms of images with boxes, by torchvision's transforms v2; all randomness comes from a seed.

They work at the image's own resolution and are followed by the evaluation transform, so that training and evaluation see the
same resampling and the same letterbox.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from qat.data.images.augment import seeded
from qat.errors import ConfigError, near

#: Boxes of which less than so many pixels remain are no longer trained on.
MIN_SIDE = 2.0


def _flips() -> object:
    return v2.RandomHorizontalFlip(0.5)


def _scale() -> object:
    """Colour, zooming out and in as in SSD (Liu et al. 2016, arXiv:1512.02325, section 3.6), mirrored."""
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(p=0.5),
            v2.RandomZoomOut(fill=114, side_range=(1.0, 1.5), p=0.3),
            v2.RandomIoUCrop(min_scale=0.5),
            v2.RandomHorizontalFlip(0.5),
        ]
    )


def _scale_any_side_up() -> object:
    """The same for images without an upside, such as those of a microscope."""
    return v2.Compose([_scale(), v2.RandomVerticalFlip(0.5)])


#: Name -> the transform.
AUGMENTS: dict[str, Callable[[], object]] = {"flip": _flips, "ssd": _scale, "ssd_any_side_up": _scale_any_side_up}


class BoxAugment:
    """An image with its boxes -> another view of them.

    Args:
        name: a key of `AUGMENTS`, or "none".

    Raises:
        ConfigError: an unknown name.
    """

    def __init__(self, name: str) -> None:
        if name != "none" and name not in AUGMENTS:
            raise ConfigError(f"unknown augment {name!r} of images with boxes.{near(name, ['none', *AUGMENTS])}")
        self._transform = None if name == "none" else v2.Compose([AUGMENTS[name](), v2.SanitizeBoundingBoxes(MIN_SIDE)])

    def __call__(
        self, image: Image.Image, corners: Tensor, labels: Tensor, rng: random.Random
    ) -> tuple[Image.Image, Tensor, Tensor]:
        if self._transform is None:
            return image, corners, labels
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(image.height, image.width))
        with seeded(rng.getrandbits(32)):
            seen: dict[str, Any] = self._transform({"image": image, "boxes": boxes, "labels": labels})
        return seen["image"], seen["boxes"].as_subclass(torch.Tensor), seen["labels"]
