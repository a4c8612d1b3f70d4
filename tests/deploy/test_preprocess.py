from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from qat.deploy.preprocess import ImagePreprocess, Placement, to_8_bit
from qat.errors import ConfigError, DataError
from qat.models.timm import build_timm
from tests.data.detection.samples import extent, rectangles
from tests.data.samples import make_image, make_preprocess, make_record

SIZES = [(32, 32), (100, 60), (60, 100), (37, 51), (300, 20)]


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocess_equals_timm_evaluation_transform(crop_mode: str, crop_pct: float, interpolation: str) -> None:
    built = build_timm(
        name="test_resnet",
        num_classes=2,
        image_size=48,
        crop_mode=crop_mode,
        crop_pct=crop_pct,
        interpolation=interpolation,
    )
    record = built.preprocessing.to_record()
    keys = ("mean", "std", "crop_mode", "interpolation")
    reference = create_transform((3, 48, 48), crop_pct=crop_pct, **{key: record[key] for key in keys})
    preprocess = ImagePreprocess.from_record(record)
    for seed, (width, height) in enumerate(SIZES):
        image = make_image(width, height, seed=seed)
        assert torch.equal(preprocess(image)[0], reference(image))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", SIZES)
def test_preprocess_equals_timm_for_a_model_that_is_not_square(crop_mode: str, size: tuple[int, int]) -> None:
    record = make_record(crop_mode=crop_mode, height=32, width=48, resize={"height": 36, "width": 54}, mean=[0.2, 0.4, 0.6])
    reference = create_transform(
        (3, 32, 48), crop_pct=32 / 36, crop_mode=crop_mode, interpolation="bicubic", mean=(0.2, 0.4, 0.6), std=(0.5,) * 3
    )
    image = make_image(*size)
    assert torch.equal(ImagePreprocess.from_record(record)(image)[0], reference(image))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("resize", [(64, 64), (64, 96), (72, 80)])
@pytest.mark.parametrize("size", [(64, 64), (300, 200), (200, 300), (37, 51), (151, 80)])
def test_placement_says_where_an_image_stands(crop_mode: str, resize: tuple[int, int], size: tuple[int, int]) -> None:
    height, width = min(64, resize[0]), resize[1]
    to = {"height": resize[0], "width": resize[1]}
    record = make_record(crop_mode=crop_mode, height=height, width=width, resize=to, mean=[0.0] * 3)
    preprocess = ImagePreprocess.from_record(record)
    x, y = size
    drawn = (2 * x // 5, 3 * y // 7, 2 * x // 3, 2 * y // 3)  # near the middle, so that no crop cuts it, and off centre
    fitted = np.asarray(preprocess.fit(rectangles(x, y, drawn)))
    found = torch.tensor(extent(fitted[..., 0] > 127), dtype=torch.float32)
    torch.testing.assert_close(preprocess.placement(x, y).to_input(torch.tensor(drawn)), found, atol=1, rtol=0)


def test_placement_of_a_letterbox_is_its_formula() -> None:
    placement = (make_preprocess(50, crop_mode="border")).placement(200, 100)
    assert placement == Placement(scale_x=0.25, scale_y=0.25, left=0, top=12)
    assert placement.to_input(torch.tensor([[0.0, 0.0, 200.0, 100.0]])).tolist() == [[0, 12, 50, 37]]


def test_placement_to_image_inverts_to_input() -> None:
    placement = Placement(scale_x=0.3, scale_y=1.7, left=-5, top=12)
    boxes = torch.rand(3, 4, 4) * 100
    torch.testing.assert_close(placement.to_image(placement.to_input(boxes)), boxes)
    assert placement.to_input(torch.zeros(0, 4)).shape == (0, 4)


def test_normalise_is_the_formula() -> None:
    preprocess = make_preprocess(4, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    expected = (pixels / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.4, 0.5, 0.6])
    torch.testing.assert_close(preprocess.normalise(pixels), torch.tensor(expected.transpose(0, 3, 1, 2), dtype=torch.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "text"}, "not a preprocessing record of kind 'image'"),
        ({"crop_mode": "centre"}, "unknown crop_mode 'centre'.*Allowed: center"),
        ({"std": [0.5, 0.0, 0.5]}, "std positive"),
        ({"mean": [0.5]}, "must have 3 values"),
        ({"height": 0}, "sizes must be positive"),
    ],
)
def test_preprocess_refuses_a_record_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        (make_preprocess(**changes))


def test_preprocess_names_what_a_record_lacks() -> None:
    record = make_record()
    del record["std"]
    with pytest.raises(ConfigError, match="lacks 'std'"):
        ImagePreprocess.from_record(record)


def test_to_8_bit_keeps_the_high_byte_of_16_bit_pixels() -> None:
    wide = np.array([[0, 0x1234], [0x8000, 0xFFFF]], dtype=np.uint16)
    assert np.asarray(to_8_bit(Image.fromarray(wide), 1)).tolist() == [[0, 0x12], [0x80, 0xFF]]


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "holds NaN"), (0.5, "32-bit pixels")])
def test_to_8_bit_refuses_float_pixels(value: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_8_bit(Image.fromarray(np.full((2, 2), value, dtype=np.float32)), 3)


def test_to_8_bit_takes_palettes_with_transparency() -> None:
    image = make_image().quantize(16)
    image.info["transparency"] = bytes(range(16))
    assert to_8_bit(image, 3).mode == "RGB"
