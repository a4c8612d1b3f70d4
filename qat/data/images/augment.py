"""Training transforms: an image and a seeded source of randomness → an image of the model's size.

Ours work at the image's own resolution and are followed by the evaluation transform, so that training and evaluation
see the same resampling. All randomness comes from the `random.Random` that is passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from qat.deploy.preprocess import ImagePreprocess
from qat.errors import ConfigError, near

Transform = Callable[[Image.Image, random.Random], Image.Image]

#: Share of width and height by which "flip_crop" moves the image: 4 pixels of 32, as He et al. 2015 (arXiv:1512.03385).
CROP_PADDING = 0.125
#: "shift" turns by up to this many degrees and moves by up to this share; a digit stays the same digit.
SHIFT_DEGREES, SHIFT_SHARE = 10.0, 0.1


def none(image: Image.Image, rng: random.Random) -> Image.Image:
    """The image as it is."""
    return image


def flip(image: Image.Image, rng: random.Random) -> Image.Image:
    """Mirror left and right, half of the time."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def flip_crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """Pad by `CROP_PADDING` with black, crop at random back to the same size, mirror half of the time."""
    width, height = image.size
    pad_x, pad_y = round(CROP_PADDING * width), round(CROP_PADDING * height)
    left, top = rng.randint(-pad_x, pad_x), rng.randint(-pad_y, pad_y)
    return flip(image.crop((left, top, left + width, top + height)), rng)


def shift(image: Image.Image, rng: random.Random) -> Image.Image:
    """Turn and move a little, and do not mirror."""
    angle = rng.uniform(-SHIFT_DEGREES, SHIFT_DEGREES)
    x, y = (rng.uniform(-SHIFT_SHARE, SHIFT_SHARE) * side for side in image.size)
    # Pillow moves by parts of a pixel too; only its annotation says int.
    return image.rotate(angle, resample=Image.Resampling.BILINEAR, translate=(x, y))  # type: ignore[arg-type]


AUGMENTS: dict[str, Transform] = {"none": none, "flip": flip, "flip_crop": flip_crop, "shift": shift}


def train_transform(name: str, preprocess: ImagePreprocess, options: Mapping[str, Any] | None = None) -> Transform:
    """The training transform called `name`.

    Args:
        name: a key of `AUGMENTS`, or "timm" for `timm.data.create_transform`.
        preprocess: gives the model's size and the evaluation transform.
        options: for "timm" only: arguments of `create_transform`, such as `scale`, `auto_augment`, `color_jitter`.

    Raises:
        ConfigError: an unknown name or option.
    """
    if name != "timm":
        if name not in AUGMENTS:
            raise ConfigError(f"unknown augment {name!r}.{near(name, [*AUGMENTS, 'timm'])}")
        if options:
            raise ConfigError(f"augment_options {sorted(options)} belong to augment=timm; augment is {name!r}")
        return partial(_augment_then_fit, AUGMENTS[name], preprocess)
    arguments = {"interpolation": preprocess.interpolation, "mean": preprocess.mean, **(options or {})}
    if arguments.get("re_prob"):
        raise ConfigError("augment_options.re_prob: random erasing works on normalised tensors and is not offered")
    size = (preprocess.channels, preprocess.height, preprocess.width)
    try:
        # The third stage only makes a tensor of the image, which the data set does for the whole batch.
        geometry, colour, _ = create_transform(size, is_training=True, separate=True, **arguments)
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"timm.data.create_transform refuses augment_options {dict(options or {})}: {error}") from error
    return partial(_timm, geometry, colour)


def _augment_then_fit(augment: Transform, preprocess: ImagePreprocess, image: Image.Image, rng: random.Random) -> Image.Image:
    return preprocess.fit(augment(image, rng))


def _timm(
    geometry: Callable[[Image.Image], Image.Image],
    colour: Callable[[Image.Image], Image.Image],
    image: Image.Image,
    rng: random.Random,
) -> Image.Image:
    with seeded(rng.getrandbits(32)):
        return colour(geometry(image))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the three global generators that timm and torchvision draw from, and put them back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
