"""The group `model`: one dataclass per kind of float model, with the keys that this kind has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qat.config.fields import MISSING, between, one_of


@dataclass
class ModelConfig:
    """What every model has.

    Args:
        name: what its library calls it; with `path` what reports call it.
        path: a local folder or file of weights; null starts from random ones.
        options: further arguments of its constructor or configuration.
    """

    name: str | None = None
    path: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Pretrained(ModelConfig):
    """Models of a hub.

    Args:
        pretrained: download the hub's weights.
    """

    pretrained: bool = False


@dataclass
class TimmConfig(Pretrained):
    """`model=timm`: any classifier of timm.

    Args:
        image_size: height and width of the input in pixels; null takes the model's own.
        in_channels: 3, or 1 for grey images.
        mean, std, crop_pct, crop_mode, interpolation: preprocessing; null takes the model's own.
    """

    name: str | None = "resnet18"
    image_size: int | None = between(None, 1)
    in_channels: int = between(3, 1)
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_pct: float | None = None
    crop_mode: str | None = one_of(None, "center", "squash", "border")
    interpolation: str | None = one_of(None, "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass
class TimmDetectorConfig(TimmConfig):
    """`model=timm_detector`: a dense detector on a timm backbone. It sees the whole image: crop_mode is `border` or `squash`.

    Args:
        head: `fcos` or `retinanet`.
        head_options: `channels` of pyramid and head, `convs` before each output (FCOS), `extra_levels`.
    """

    head: str = one_of("fcos", "fcos", "retinanet")
    head_options: dict[str, Any] = field(default_factory=dict)
    crop_mode: str | None = one_of(None, "squash", "border")


@dataclass
class HFTextConfig(Pretrained):
    """`model=hf_text`: a Hugging Face encoder with a head for the task; the name of a fresh one is its type, such as `bert`.

    Args:
        tokenizer: folder or hub name of another tokenizer than the model's own.
        max_length: tokens that a text may have; null takes as many as the model has positions for.
    """

    tokenizer: str | None = None
    max_length: int | None = between(None, 1)


@dataclass
class HFImageConfig(Pretrained):
    """`model=hf_image`: a Hugging Face image classifier; the name of a fresh network is its type, such as `vit`.

    Args:
        image_size: height and width of the input in pixels; null takes the image processor's own.
        mean, std, crop_mode, interpolation: preprocessing; null takes the image processor's own.
    """

    image_size: int | None = between(None, 1)
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_mode: str | None = one_of(None, "center", "squash", "border")
    interpolation: str | None = one_of(None, "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass
class HFDetectorConfig(Pretrained):
    """`model=hf_detector`: a Hugging Face detector; the name of a fresh network is its type, such as `d_fine`.

    Args:
        image_size: height and width of the input in pixels; null takes the image processor's own, or 640.
        mean, std: of pixels in [0, 1]; null takes the image processor's own.
        crop_mode: `border` (letterbox) or `squash`; null does as the image processor states.
    """

    image_size: int | None = between(None, 1)
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_mode: str | None = one_of(None, "squash", "border")


@dataclass
class ModuleConfig(ModelConfig):
    """`model=module`: your own network, or one of torchvision.

    Args:
        target: `package.module:function`, which returns an `nn.Module` from images to logits (N, classes), or for detection to
            the raw outputs that its decoder reads. It is called with `options`, and with `num_classes` when it takes that.
        image_size, in_channels: of the input.
        mean, std: of pixels in [0, 1]; null takes those of ImageNet, or 0.5 for grey images.
        crop_pct: share of the resized image that the input shows; null takes 0.875, and for detectors 1, which see all of it.
        crop_mode: null takes `center`, and for detectors `border` (letterbox).
        interpolation: of the preprocessing.
        postprocessing: for detection the decoder, `{kind: queries, activation: sigmoid}` or a whole record, see
            `qat.deploy.postprocess`.
    """

    target: str = MISSING
    image_size: int = between(224, 1)
    in_channels: int = between(3, 1)
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_pct: float | None = between(None, 0.01, 1)
    crop_mode: str | None = one_of(None, "center", "squash", "border")
    interpolation: str = one_of("bilinear", "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
    postprocessing: dict[str, Any] = field(default_factory=dict)
