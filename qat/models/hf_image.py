"""Hugging Face image classifiers: a hub name, a local folder, or a fresh network from a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoModelForImageClassification

from qat.data.source import ImageSource
from qat.deploy.preprocess import ImagePreprocess
from qat.errors import ConfigError
from qat.models.float_model import FloatModel
from qat.models.hf_common import fresh_config, fresh_model, image_processor, load_pretrained, local_folder, model_name

#: Height and width where neither configuration nor processor states any.
DEFAULT_SIZE = 224

#: Below this size ConvNeXt's processor crops; from it on the whole image is squashed.
CONVNEXT_LARGE = 384


class ImageClassifier(nn.Module):
    """A Hugging Face classifier as tensors in, tensors out: pixels (N, 3, H, W) -> logits (N, classes)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=pixels).logits
        return logits


def build_hf_image(
    *,
    data: ImageSource,
    name: str | None = None,
    pretrained: bool = False,
    path: str | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_mode: str | None = None,
    interpolation: str | None = None,
    options: Mapping[str, object] | None = None,
) -> FloatModel:
    """Build a classifier for the classes of `data`.

    Args:
        name: on the hub when `pretrained`; a model type such as `vit` for a fresh network; with `path` what reports call it.
        path: local folder with config.json and weights; nothing is downloaded.
        image_size: height and width in pixels; None takes what the image processor states, or the configuration, or 224.
        mean, std, crop_mode, interpolation: preprocessing; None does as the image processor states.
        options: further arguments of the configuration.

    Raises:
        ConfigError: an unknown type or option, weights that do not fit, no network.
    """
    name = model_name(name, pretrained=pretrained, path=path, example="vit")
    labels = dict(enumerate(data.labels))
    settings = {**(options or {}), "id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    processor: Mapping[str, object] = {}
    if pretrained or path is not None:
        source = name if path is None else str(local_folder(path))
        processor = image_processor(source, local=path is not None)
        model = load_pretrained(AutoModelForImageClassification, source, local=path is not None, settings=settings)
    else:
        sized = settings if image_size is None else {**settings, **_sized(name, image_size)}
        config = fresh_config(name, sized)
        model = fresh_model(
            AutoModelForImageClassification, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, config, what="image classifier"
        )
    found = preprocessing(processor, model.config, image_size=image_size)
    found = replace(
        found,
        mean=found.mean if mean is None else tuple(mean),
        std=found.std if std is None else tuple(std),
        crop_mode=crop_mode or found.crop_mode,
        interpolation=interpolation or found.interpolation,
    )
    network = ImageClassifier(model.train())
    example = torch.randn(2, 3, found.height, found.width, generator=torch.Generator().manual_seed(0))
    _check_size(network, example, name)
    return FloatModel(name=name, module=network, example_inputs=(example,), preprocessing=found)


def preprocessing(processor: Mapping[str, Any], config: object, *, image_size: int | None = None) -> ImagePreprocess:
    """What an image processor would do.

    Args:
        processor: its configuration; empty for a fresh network, which takes 0.5 as mean and standard deviation.
        config: of the model; its `image_size` counts where the processor has none.
        image_size: another height and width; the share of the image that is cut off stays.
    """
    stated = _size(processor.get("size")) or _size(getattr(config, "image_size", None)) or (DEFAULT_SIZE, DEFAULT_SIZE)
    cropped = (_size(processor.get("crop_size")) or stated) if processor.get("do_center_crop") else stated
    by_edge = isinstance(processor.get("size"), Mapping) and "shortest_edge" in processor["size"]
    mode = "center" if by_edge else "squash"
    resize = stated
    if by_edge and "crop_pct" in processor:  # ConvNeXt: the size is that of the crop
        large = stated[0] >= CONVNEXT_LARGE
        mode, resize = ("squash", stated) if large else ("center", (int(stated[0] / processor["crop_pct"]),) * 2)
        cropped = stated
    height, width = cropped if image_size is None else (image_size, image_size)
    if image_size is not None:
        resize = (round(resize[0] * height / cropped[0]), round(resize[1] * width / cropped[1]))
    normalise = bool(processor.get("do_normalize", True))
    mean = (processor.get("image_mean") or [0.5] * 3) if normalise else [0.0] * 3
    std = (processor.get("image_std") or [0.5] * 3) if normalise else [1.0] * 3
    return ImagePreprocess(
        channels=3,
        height=height,
        width=width,
        resize=resize,
        crop_mode=mode,
        interpolation=Image.Resampling(processor.get("resample", Image.Resampling.BICUBIC)).name.lower(),
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
    )


def _size(stated: object) -> tuple[int, int] | None:
    """Height and width of a processor's or configuration's entry; None where there is none."""
    if isinstance(stated, Mapping):
        if "shortest_edge" in stated:
            return int(stated["shortest_edge"]), int(stated["shortest_edge"])
        return (int(stated["height"]), int(stated["width"])) if {"height", "width"} <= stated.keys() else None
    if isinstance(stated, Sequence) and len(stated) == 2:
        return int(stated[0]), int(stated[1])
    return (int(stated), int(stated)) if isinstance(stated, int) else None


def _sized(model_type: str, image_size: int) -> dict[str, int]:
    """What tells a fresh network its image size; nothing for those that take any."""
    return {"image_size": image_size} if hasattr(fresh_config(model_type, {}), "image_size") else {}


def _check_size(network: nn.Module, example: Tensor, name: str) -> None:
    was = network.training
    try:
        with torch.no_grad():
            network.eval()(example)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} cannot take images of {tuple(example.shape[-2:])} pixels: {str(error)[:300]}") from error
    finally:
        network.train(was)
