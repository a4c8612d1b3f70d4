"""Hugging Face detectors: a hub name, a local folder, or a fresh network from a configuration.

The captured network goes from pixels to the logits and boxes of all queries; matching and loss are the library's own, and
decoding is described by a record and done by `qat.deploy.postprocess`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_OBJECT_DETECTION_MAPPING, AutoModelForObjectDetection, PretrainedConfig

from qat.data.detection.source import BoxSource
from qat.deploy.preprocess import ImagePreprocess
from qat.errors import ConfigError
from qat.models.float_model import FloatModel
from qat.models.hf_common import fresh_config, fresh_model, image_processor, load_pretrained, local_folder, model_name

#: Fields of the output that the loss reads, for types that need more than logits and boxes.
FIELDS = {"rf_detr": ("logits", "pred_boxes", "enc_outputs_class", "enc_outputs_coord_logits")}
DEFAULT_FIELDS = ("logits", "pred_boxes")

#: Types whose last logit stands for no object; the others let every class of every query compete.
SOFTMAX = ("detr", "yolos", "table-transformer")

#: Height and width where neither configuration nor processor states any.
DEFAULT_SIZE = 640

#: Boxes per image that postprocessing keeps.
LIMIT = 100


class DetectorModel(nn.Module):
    """A Hugging Face detector as tensors in, tensors out: pixels (N, 3, H, W) -> logits (N, Q, C), boxes (N, Q, 4), ...

    Args:
        model: with a detection head.
        fields: of its output that are returned, in order.
    """

    def __init__(self, model: nn.Module, fields: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.fields = tuple(fields)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixel_values=pixels)
        return tuple(outputs[field] for field in self.fields)

    def training_loss(self, pixels: Tensor, corners: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """The loss of the library's own training: denoising queries, losses of every decoder layer.

        Args:
            corners: per image (M, 4), x1, y1, x2, y2 in pixels of the input.
            labels: per image (M,).
        """
        targets = as_targets(corners, labels, height=pixels.shape[-2], width=pixels.shape[-1])
        loss: Tensor = self.model(pixel_values=pixels, labels=targets).loss
        return loss


class QueryCriterion:
    """The library's loss on the outputs of the last layer, without auxiliary losses and denoising.

    Args:
        model: gives loss function and configuration.
        fields: names of the outputs.
        height, width: of the input.
    """

    def __init__(self, model: Any, fields: Sequence[str], *, height: int, width: int) -> None:
        self._loss = model.loss_function
        self.config = copy.deepcopy(model.config)
        self.config.auxiliary_loss = False
        if hasattr(self.config, "group_detr"):
            self.config.group_detr = 1  # groups of queries exist in the library's own training only
        self.extra = fields[2:]
        self.height, self.width = height, width

    def __call__(self, outputs: Sequence[Tensor], corners: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        logits, boxes, *rest = (x.float() for x in outputs)
        named = dict(zip(("enc_outputs_class", "enc_outputs_coord"), rest, strict=False))
        targets = as_targets(corners, labels, height=self.height, width=self.width)
        loss: Tensor = self._loss(logits, targets, logits.device, boxes, self.config, None, None, **named)[0]
        return loss


def build_hf_detector(
    *,
    data: BoxSource,
    name: str | None = None,
    pretrained: bool = False,
    path: str | None = None,
    image_size: int | None = None,
    crop_mode: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
) -> FloatModel:
    """Build a detector for the classes of `data`.

    Args:
        name: on the hub when `pretrained`; a model type such as `d_fine` for a fresh network; with `path` what reports call it.
        path: local folder with config.json and weights; nothing is downloaded.
        image_size: height and width in pixels; None takes what the folder's preprocessor states, or 640.
        crop_mode: "border" letterboxes, "squash" ignores the aspect ratio; None does as the preprocessor states.
        mean, std: of pixels in [0, 1]; None takes the preprocessor's own, or 0 and 1.
        options: further arguments of the configuration.

    Raises:
        ConfigError: an unknown type or option, weights that do not fit, no network.
    """
    name = model_name(name, pretrained=pretrained, path=path, example="d_fine")
    labels = dict(enumerate(data.labels))
    settings = {**(options or {}), "id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    processor: Mapping[str, object] = {}
    if pretrained or path is not None:
        source = name if path is None else str(local_folder(path))
        processor = image_processor(source, local=path is not None)
        model = load_pretrained(
            AutoModelForObjectDetection, source, local=path is not None, settings=settings, classes_inside=True
        )
    else:
        config = fresh_config(name, settings)
        model = fresh_model(AutoModelForObjectDetection, MODEL_FOR_OBJECT_DETECTION_MAPPING, config, what="detector")
    preprocessing = _preprocessing(processor, image_size=image_size, crop_mode=crop_mode, mean=mean, std=std)
    height, width = preprocessing.height, preprocessing.width
    _check_queries(model.config, height, width, name)
    fields = FIELDS.get(model.config.model_type, DEFAULT_FIELDS)
    activation = "softmax" if model.config.model_type in SOFTMAX else "sigmoid"
    return FloatModel(
        name=name,
        module=DetectorModel(model.train(), fields),
        example_inputs=(torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)),),
        preprocessing=preprocessing,
        task_options={
            "criterion": QueryCriterion(model, fields, height=height, width=width),
            "postprocessing": {
                "kind": "queries",
                "activation": activation,
                "height": height,
                "width": width,
                "limit": LIMIT,
            },
        },
    )


def as_targets(corners: Sequence[Tensor], labels: Sequence[Tensor], *, height: int, width: int) -> list[dict[str, Tensor]]:
    """Boxes as the library's losses take them: centre, width and height in [0, 1]."""
    targets = []
    for boxes, classes in zip(corners, labels, strict=True):
        unit = boxes / torch.tensor([width, height] * 2, device=boxes.device)
        centred = torch.cat([(unit[:, :2] + unit[:, 2:]) / 2, unit[:, 2:] - unit[:, :2]], 1)
        targets.append({"class_labels": classes, "boxes": centred})
    return targets


def _preprocessing(
    processor: Mapping[str, Any],
    *,
    image_size: int | None,
    crop_mode: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> ImagePreprocess:
    """The processor's own values where nothing else is asked for."""
    size = processor.get("size") or {}
    fixed = isinstance(size, Mapping) and {"height", "width"} <= size.keys()
    own = (int(size["height"]), int(size["width"])) if fixed else (DEFAULT_SIZE, DEFAULT_SIZE)
    height, width = own if image_size is None else (image_size, image_size)
    normalise = bool(processor.get("do_normalize", False))
    mean = mean if mean is not None else (processor.get("image_mean") if normalise else None) or [0.0] * 3
    std = std if std is not None else (processor.get("image_std") if normalise else None) or [1.0] * 3
    if crop_mode not in (None, "border", "squash"):
        raise ConfigError(f"a detector sees the whole image: model.crop_mode is border or squash, got {crop_mode!r}")
    return ImagePreprocess(
        channels=3,
        height=height,
        width=width,
        resize=(height, width),
        crop_mode=crop_mode or ("squash" if fixed else "border"),
        interpolation="bilinear",
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
    )


def _check_queries(config: PretrainedConfig, height: int, width: int, name: str) -> None:
    """Detectors that choose their queries among the positions of the feature maps need enough of them."""
    strides, queries = getattr(config, "feat_strides", None), getattr(config, "num_queries", None)
    if strides is None or queries is None:
        return
    positions = sum((height // stride) * (width // stride) for stride in strides)
    if positions < queries:
        raise ConfigError(
            f"{name} chooses {queries} queries among the positions of its feature maps, and {height}x{width} pixels have "
            f"{positions} only; enlarge model.image_size or lower model.options.num_queries"
        )
