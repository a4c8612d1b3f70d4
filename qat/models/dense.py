"""Dense detectors: a timm backbone, a feature pyramid and torchvision's FCOS or RetinaNet head, convolutional end to end.

The network goes from the image to the head's raw outputs; anchors, decoding and suppression are described by a record and done
by `qat.deploy.postprocess`.

Heads have no norm: torchvision's group norm has no INT8 kernel, and a batch norm that all levels of the
pyramid share can neither be folded nor does it know which level's statistics to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from qat.errors import ConfigError, near
from qat.models.float_model import FloatModel
from qat.models.pyramid import STRIDES, backbone_features, level_anchors, nominal_strides
from qat.models.timm import build_timm

#: What postprocessing keeps; see `qat.deploy.postprocess.DenseDecoder`.
KEPT = {"min_score": 0.05, "candidates": 300, "limit": 100}


class DenseDetector(nn.Module):
    """Images (N, C, H, W) -> logits (N, L, classes), offsets (N, L, 4) and, of FCOS, centerness (N, L, 1).

    Args:
        features: images -> feature maps.
        pyramid: named feature maps -> named feature maps of one width.
        head: feature maps -> a dictionary of outputs.
        names: the outputs that are returned, in order.
    """

    def __init__(self, features: nn.Module, pyramid: nn.Module, head: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.features = features
        self.pyramid = pyramid
        self.head = head
        self.names = tuple(names)

    def levels(self, images: Tensor) -> list[Tensor]:
        """The feature maps that the head reads."""
        maps = {str(i): x for i, x in enumerate(self.features(images))}
        return list(self.pyramid(maps).values())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.head(self.levels(images))
        return tuple(outputs[name] for name in self.names)


class DenseCriterion:
    """torchvision's own loss, the sum of its parts.

    Args:
        detector: gives `compute_loss`; none of its layers is used.
        names: of the outputs.
        anchors: per level (L_i, 4).
        per_level: whether `compute_loss` wants to know how many anchors each level has (FCOS).
    """

    def __init__(self, detector: Any, names: Sequence[str], anchors: Sequence[Tensor], *, per_level: bool) -> None:
        self._compute: Callable[..., Mapping[str, Tensor]] = detector.compute_loss
        self.names = tuple(names)
        self.anchors = torch.cat(list(anchors))
        self.extra = ([len(level) for level in anchors],) if per_level else ()

    def __call__(self, outputs: Sequence[Tensor], corners: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        targets = [{"boxes": boxes, "labels": classes} for boxes, classes in zip(corners, labels, strict=True)]
        anchors = [self.anchors.to(outputs[0].device)] * len(targets)
        named = dict(zip(self.names, (x.float() for x in outputs), strict=True))
        losses = self._compute(targets, named, anchors, *self.extra)
        return torch.stack(list(losses.values())).sum()


def build_dense(
    *,
    name: str,
    num_classes: int,
    head: str = "fcos",
    head_options: Mapping[str, object] | None = None,
    crop_mode: str | None = None,
    crop_pct: float | None = None,
    **backbone: Any,
) -> FloatModel:
    """Build a dense detector.

    Args:
        name: of a timm model; its classifier is left out.
        head: a key of `HEADS`.
        head_options: `channels` of pyramid and head, `convs` before each output (FCOS), `extra_levels` (whether strides 64 and
            128 are added).
        crop_mode: "border" (default) letterboxes, "squash" ignores the aspect ratio.
        backbone: see `build_timm`.

    Raises:
        ConfigError: an unknown head or option, a backbone without feature maps, an image size that its strides do not divide.
    """
    if head not in HEADS:
        raise ConfigError(f"unknown model.head {head!r}.{near(head, HEADS)}")
    if crop_mode not in (None, "border", "squash") or crop_pct not in (None, 1.0):
        raise ConfigError("a detector sees the whole image: model.crop_mode is border or squash, and model.crop_pct is 1")
    built = build_timm(name=name, num_classes=num_classes, crop_mode=crop_mode or "border", crop_pct=1.0, **backbone)
    height, width = built.example_inputs[0].shape[-2:]
    if height % STRIDES[-1] or width % STRIDES[-1]:
        raise ConfigError(f"model.image_size of a dense detector must be a multiple of {STRIDES[-1]}, got {height}x{width}")
    features, widths = backbone_features(built.module, name)
    module, criterion, record = HEADS[head](
        features, widths, num_classes=num_classes, example=built.example_inputs[0], **_checked(head, head_options)
    )
    return FloatModel(
        name=f"{head}_{name}",
        module=module,
        example_inputs=built.example_inputs,
        preprocessing=built.preprocessing,
        task_options={
            "criterion": criterion,
            "postprocessing": {"kind": "dense", "height": height, "width": width, **KEPT, **record},
        },
    )


Built = tuple[nn.Module, DenseCriterion, dict[str, object]]


def _fcos(
    features: nn.Module,
    widths: Sequence[int],
    *,
    num_classes: int,
    example: Tensor,
    channels: int = 128,
    convs: int = 2,
    extra_levels: bool = True,
) -> Built:
    """Tian et al. 2019, arXiv:1904.01355, with centre sampling; one anchor of the stride's size at every position."""
    names = ("cls_logits", "bbox_regression", "bbox_ctrness")
    head = FCOSHead(channels, 1, num_classes, 0)
    head.classification_head = FCOSClassificationHead(channels, 1, num_classes, convs, norm_layer=nn.Identity)
    head.regression_head = FCOSRegressionHead(channels, 1, convs, norm_layer=nn.Identity)
    network = _network(features, widths, head, names, channels, extra_levels)
    levels = _levels(network, example)
    generator = AnchorGenerator(tuple((stride,) for stride in nominal_strides(levels)), ((1.0,),) * len(levels))
    described, anchors = level_anchors(generator, example, levels)
    detector = FCOS(_Named(channels), num_classes, anchor_generator=generator, head=head)
    criterion = DenseCriterion(detector, names, anchors, per_level=True)
    return network, criterion, {"coding": "linear", "max_overlap": 0.6, "levels": described}


def _retinanet(
    features: nn.Module,
    widths: Sequence[int],
    *,
    num_classes: int,
    example: Tensor,
    channels: int = 128,
    extra_levels: bool = True,
) -> Built:
    """Lin et al. 2017, arXiv:1708.02002: nine anchors at every position, three sizes from 4 times the stride, three shapes."""
    names = ("cls_logits", "bbox_regression")
    head = RetinaNetHead(channels, 9, num_classes)
    network = _network(features, widths, head, names, channels, extra_levels)
    levels = _levels(network, example)
    sizes = tuple(tuple(int(4 * stride * 2 ** (i / 3)) for i in range(3)) for stride in nominal_strides(levels))
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(levels))
    described, anchors = level_anchors(generator, example, levels)
    detector = RetinaNet(_Named(channels), num_classes, anchor_generator=generator, head=head)
    criterion = DenseCriterion(detector, names, anchors, per_level=False)
    return network, criterion, {"coding": "exponential", "max_overlap": 0.5, "levels": described}


#: Head -> network, loss and postprocessing record.
HEADS: dict[str, Callable[..., Built]] = {"fcos": _fcos, "retinanet": _retinanet}


class _Named(nn.Module):
    """What torchvision's detectors ask of a backbone that they are not going to use."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels


def _network(
    features: nn.Module, widths: Sequence[int], head: nn.Module, names: Sequence[str], channels: int, extra_levels: bool
) -> DenseDetector:
    """Pyramid and head in front of `features`; convolutions before a relu start as He et al. 2015 (arXiv:1502.01852)."""
    extra = LastLevelP6P7(channels, channels) if extra_levels else None
    pyramid = FeaturePyramidNetwork(list(widths), channels, extra, norm_layer=partial(nn.BatchNorm2d, momentum=0.03))
    for name, layer in head.named_modules():
        if isinstance(layer, nn.Conv2d) and ".conv." in name:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return DenseDetector(features, pyramid, head, names)


def _levels(network: DenseDetector, example: Tensor) -> list[Tensor]:
    was = network.training
    try:
        with torch.no_grad():
            return network.eval().levels(example)
    except RuntimeError as error:
        raise ConfigError(f"the backbone cannot take images of {tuple(example.shape[-2:])} pixels: {error}") from error
    finally:
        network.train(was)


def _checked(head: str, options: Mapping[str, object] | None) -> dict[str, object]:
    allowed = {"fcos": ("channels", "convs", "extra_levels"), "retinanet": ("channels", "extra_levels")}[head]
    for option in options or {}:
        if option not in allowed:
            raise ConfigError(f"the head {head!r} has no option {option!r}.{near(option, allowed)}")
    return dict(options or {})
