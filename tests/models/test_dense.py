"""Dense detectors: a timm backbone, a pyramid and torchvision's heads, held against torchvision's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import qat
from qat.errors import ConfigError
from qat.models.dense import HEADS, build_dense
from qat.models.float_model import FloatModel
from qat.models.pyramid import STRIDES
from tests.models.references import NAMES, torchvision_anchors, torchvision_detector

SIZE, CLASSES = 64, 3

#: One image with boxes of three sizes and one without.
CORNERS = [torch.tensor([[4.0, 6, 30, 40], [20, 20, 63, 60], [1, 1, 9, 9]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([0, 2, 1]), torch.zeros(0, dtype=torch.int64)]


def _build(**changes: Any) -> FloatModel:
    given = {"name": "test_resnet", "num_classes": CLASSES, "image_size": SIZE, "head_options": {"channels": 16}, **changes}
    return build_dense(**given)


@cache
def _built(head: str) -> FloatModel:
    """Read it only."""
    return _build(head=head)


def _outputs(built: FloatModel) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = built.module(*built.example_inputs)
    return outputs


@pytest.mark.parametrize("name", ["resnet10t", "test_efficientnet", "mobilenetv2_035", "test_convnext"])
def test_backbone_gives_feature_maps_of_the_strides_of_the_pyramid(name: str) -> None:
    built = _build(name=name)
    maps = built.module.get_submodule("features")(*built.example_inputs)
    assert [tuple(x.shape[-2:]) for x in maps] == [(SIZE // stride, SIZE // stride) for stride in STRIDES]


@pytest.mark.parametrize(("extra_levels", "positions"), [(True, 64 + 16 + 4 + 1 + 1), (False, 64 + 16 + 4)])
@pytest.mark.parametrize(("head", "anchors"), [("fcos", 1), ("retinanet", 9)])
def test_outputs_have_a_row_for_every_anchor(head: str, anchors: int, extra_levels: bool, positions: int) -> None:
    built = _build(head=head, head_options={"channels": 16, "extra_levels": extra_levels})
    record = built.task_options["postprocessing"]
    widths = [CLASSES, 4, 1] if head == "fcos" else [CLASSES, 4]
    assert [tuple(x.shape) for x in _outputs(built)] == [(2, positions * anchors, width) for width in widths]
    assert sum(level["grid"][0] * level["grid"][1] * len(level["anchors"]) for level in record["levels"]) == positions * anchors
    assert [level["stride"] for level in record["levels"]][:3] == [[stride, stride] for stride in STRIDES]


def test_head_has_the_width_and_depth_that_were_asked_for() -> None:
    layers = [
        layer
        for name, layer in _build(head_options={"channels": 24, "convs": 3}).module.named_modules()
        if isinstance(layer, torch.nn.Conv2d) and "classification_head.conv." in name
    ]
    assert [(layer.in_channels, layer.out_channels) for layer in layers] == [(24, 24)] * 3


@pytest.mark.parametrize("head", HEADS)
def test_criterion_is_the_sum_of_the_losses_of_torchvision(head: str) -> None:
    built, record = _built(head), _built(head).task_options["postprocessing"]
    reference = torchvision_detector(head, record, num_classes=CLASSES)
    anchors = torchvision_anchors(reference, record)
    outputs = _outputs(built)
    targets = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(CORNERS, LABELS, strict=True)]
    per_level = ([len(level) for level in anchors],) if head == "fcos" else ()
    named = dict(zip(NAMES, outputs, strict=False))
    expected = reference.compute_loss(targets, named, [torch.cat(anchors)] * 2, *per_level)
    assert len(expected) == len(outputs)
    torch.testing.assert_close(built.task_options["criterion"](outputs, CORNERS, LABELS), sum(expected.values()))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("images", [CORNERS, [CORNERS[1]] * 2], ids=["some_without_boxes", "none_with_boxes"])
def test_loss_is_finite_and_reaches_every_parameter(head: str, images: list[Tensor]) -> None:
    built = _build(head=head)
    labels = [LABELS[0][: len(boxes)] for boxes in images]
    loss = built.task_options["criterion"](_outputs(built), images, labels)
    loss.backward()
    assert bool(torch.isfinite(loss))
    for name, parameter in built.module.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.parametrize("head", HEADS)
def test_all_of_it_becomes_integers(head: str) -> None:
    built = _built(head)
    prepared = qat.prepare(built.module, built.example_inputs)
    assert qat.coverage(prepared, built.example_inputs).macs_int8 == 1.0


def test_whole_image_is_seen_in_a_letterbox() -> None:
    record = _built("fcos").preprocessing.to_record()
    assert (record["crop_mode"], record["resize"]) == ("border", {"height": SIZE, "width": SIZE})
    assert _build(crop_mode="squash", crop_pct=1.0).preprocessing.to_record()["crop_mode"] == "squash"


def test_local_weights_of_a_classifier_go_into_the_backbone(tmp_path: Path) -> None:
    weights = dict(timm.create_model("test_resnet", num_classes=7).state_dict())
    save_file(weights, tmp_path / "weights.safetensors")
    loaded = _build(path=str(tmp_path / "weights.safetensors")).module.get_submodule("features.model").state_dict()
    assert loaded.keys() == {key for key in weights if not key.startswith("fc.")}
    assert all(torch.equal(loaded[key], weights[key]) for key in loaded)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "fco"}, r"unknown model\.head 'fco'.*Did you mean 'fcos'"),
        ({"head_options": {"chanels": 8}}, r"the head 'fcos' has no option 'chanels'.*Did you mean 'channels'"),
        ({"head": "retinanet", "head_options": {"convs": 2}}, "the head 'retinanet' has no option 'convs'"),
        ({"image_size": 80}, "must be a multiple of 32, got 80x80"),
        ({"name": "test_vit"}, r"test_vit has no feature maps of strides \(8, 16, 32\) \(it has \[16\]\)"),
        ({"crop_mode": "center"}, "a detector sees the whole image"),
        ({"crop_pct": 0.9}, "a detector sees the whole image"),
    ],
)
def test_bad_configuration_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _build(**changes)
