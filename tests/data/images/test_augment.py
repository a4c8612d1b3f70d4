from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from qat.data.images.augment import AUGMENTS, flip, flip_crop, shift, train_transform
from qat.errors import ConfigError
from tests.data.samples import make_image, make_preprocess

PREPROCESS = make_preprocess(24)


@pytest.mark.parametrize("name", [*AUGMENTS, "timm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transform_repeats_with_its_seed_and_leaves_global_randomness_alone(name: str, channels: int) -> None:
    transform = train_transform(name, (make_preprocess(24, channels=channels)))
    image = make_image(32, 20).convert("L" if channels == 1 else "RGB")
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    first = transform(image, random.Random(7))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(99)
    torch.manual_seed(99)
    assert first.size == (24, 24)
    assert transform(image, random.Random(7)).tobytes() == first.tobytes()
    differ = [transform(image, random.Random(seed)).tobytes() != first.tobytes() for seed in range(20)]
    assert any(differ) == (name != "none")


def test_flip_mirrors_or_keeps() -> None:
    image = make_image()
    seen = {flip(image, random.Random(seed)).tobytes() for seed in range(20)}
    assert seen == {image.tobytes(), np.asarray(image)[:, ::-1].tobytes()}


def test_flip_crop_moves_at_most_an_eighth() -> None:
    image = make_image(32, 32, level=200)
    for seed in range(50):
        pixels = np.asarray(flip_crop(image, random.Random(seed)))
        assert pixels.shape == (32, 32, 3)
        assert (pixels[4:28, 4:28] == 200).all()


def test_shift_keeps_the_middle() -> None:
    image = make_image(40, 40, level=200)
    assert all((np.asarray(shift(image, random.Random(seed)))[12:28, 12:28] == 200).all() for seed in range(20))


def test_timm_options_reach_timm() -> None:
    options = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": None}
    transform = train_transform("timm", PREPROCESS, options)
    image = make_image(24, 24)
    assert transform(image, random.Random(0)).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flipcrop", None, "unknown augment 'flipcrop'.*Did you mean 'flip_crop'"),
        ("flip", {"scale": (0.5, 1)}, "belong to augment=timm"),
        ("timm", {"re_prob": 0.5}, "random erasing"),
        ("timm", {"scal": (0.5, 1)}, "refuses augment_options.*scal"),
    ],
)
def test_train_transform_says_what_is_wrong(name: str, options: dict[str, object] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_transform(name, PREPROCESS, options)
