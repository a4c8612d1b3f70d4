"""Hugging Face image classifiers: built, loaded, and fed as their own image processors would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTConfig, ViTForImageClassification
from transformers.models.convnext import ConvNextImageProcessor
from transformers.models.deit import DeiTImageProcessor
from transformers.models.vit import ViTImageProcessor

import qat
from qat.deploy.preprocess import ImagePreprocess
from qat.errors import ConfigError
from qat.models.float_model import FloatModel
from qat.models.hf_image import build_hf_image
from tests.models.hf_images import CONVNEXT, DATA, VIT


def _build(**options: Any) -> FloatModel:
    return build_hf_image(data=DATA, **options)


def _classes(count: int) -> dict[str, Any]:
    return {"num_labels": count}


def _image(width: int = 61, height: int = 45) -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("name", "options"), [("vit", VIT), ("convnext", CONVNEXT)])
def test_fresh_network_has_the_classes_of_the_data_and_is_captured(name: str, options: dict[str, Any]) -> None:
    built = _build(name=name, image_size=32, options=options)
    logits = built.module(*built.example_inputs)
    assert logits.shape == (2, 3)
    assert built.module.model.config.id2label == {0: "x", 1: "y", 2: "z"}  # type: ignore[union-attr]
    prepared = qat.prepare(built.module.eval(), built.example_inputs, dynamic_dims=built.dynamic_dims)
    qat.calibrate(prepared, [built.example_inputs])
    int8 = qat.lower(qat.convert(prepared), "reference")
    images = torch.randn(5, 3, 32, 32)
    assert int8(images).shape == (5, 3)
    assert float((int8(images) - built.module(images)).detach().abs().max()) < 0.5


def test_weights_of_a_folder_are_taken_and_another_head_starts_fresh(tmp_path: Path) -> None:
    model = ViTForImageClassification(ViTConfig(image_size=32, **VIT, **_classes(7)))
    model.save_pretrained(tmp_path)
    built = _build(path=str(tmp_path))
    ours, theirs = built.module.model.state_dict(), model.state_dict()  # type: ignore[union-attr]
    for name, value in theirs.items():
        if not name.startswith("classifier"):
            assert torch.equal(ours[name], value), name
    assert ours["classifier.weight"].shape == (3, 32)
    assert built.name == tmp_path.name
    assert (built.preprocessing.to_record()["height"], built.preprocessing.to_record()["width"]) == (32, 32)


PROCESSORS = {
    "squashed": ViTImageProcessor(size={"height": 32, "width": 32}),
    "edge_and_crop": DeiTImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, do_center_crop=True),
    "small_convnext": ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8),
    "large_convnext": ConvNextImageProcessor(size={"shortest_edge": 384}),
    "own_statistics": ViTImageProcessor(
        size={"height": 64, "width": 96}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=2
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_input_is_that_of_the_image_processor(name: str, tmp_path: Path) -> None:
    processor = PROCESSORS[name]
    ConvNextForImageClassification(ConvNextConfig(**CONVNEXT)).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    record = _build(path=str(tmp_path)).preprocessing.to_record()
    for image in (_image(), _image(45, 61), _image(400, 300)):
        theirs = torch.as_tensor(np.asarray(processor(image, return_tensors="np")["pixel_values"]))
        ours = ImagePreprocess.from_record(record)(image)
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().mean()) < 0.02, "but for the rounding of the resampling"


def test_what_is_asked_for_goes_before_the_image_processor(tmp_path: Path) -> None:
    ConvNextForImageClassification(ConvNextConfig(**CONVNEXT)).save_pretrained(tmp_path)
    PROCESSORS["edge_and_crop"].save_pretrained(tmp_path)
    record = _build(path=str(tmp_path), image_size=64, mean=[0.0] * 3, interpolation="bilinear").preprocessing.to_record()
    assert (record["height"], record["resize"]) == (64, {"height": 80, "width": 80})
    assert (record["mean"], record["interpolation"], record["crop_mode"]) == ([0.0] * 3, "bilinear", "center")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"give model\.path=FOLDER"),
        ({"name": "vitt"}, r"'vitt' is no model type of transformers.*vit"),
        ({"name": "bert"}, r"'bert' is no image classifier"),
        ({"name": "vit", "options": {"hidden_sise": 3}}, r"no option 'hidden_sise'.*Did you mean 'hidden_size'"),
        ({"path": "nowhere"}, "no folder of a Hugging Face model"),
        ({"name": "x", "pretrained": True, "path": "nowhere"}, "two sources of weights"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _build(**options)


def test_size_that_positions_do_not_fit_is_refused(tmp_path: Path) -> None:
    ViTForImageClassification(ViTConfig(image_size=32, **VIT, **_classes(3))).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot take images of \(48, 48\) pixels"):
        _build(path=str(tmp_path), image_size=48)
