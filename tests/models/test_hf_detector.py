"""Hugging Face detectors: fresh ones of every kind, their losses, their capture, and local folders."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qat
from qat.errors import ConfigError
from qat.models.float_model import FloatModel
from qat.models.hf_detector import SOFTMAX, as_targets
from qat.quantization.prepared import PreparedModel
from qat.tasks.detection import TrainsItself
from tests.models.detectors import DETECTORS
from tests.models.fresh_detectors import QUERIES, SIZE, fresh, inner

#: One image with boxes and one without.
CORNERS = [torch.tensor([[10.0, 12, 50, 40], [30, 30, 90, 80]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)]

#: Exporting the others takes longest.
CAPTURED = [pytest.param(name, marks=pytest.mark.slow if name not in ("d_fine", "detr", "yolos") else ()) for name in DETECTORS]


@cache
def _prepared(name: str) -> tuple[FloatModel, PreparedModel]:
    built = fresh(name)
    return built, qat.prepare(built.module, built.example_inputs)


def _without_gradient(module: nn.Module) -> set[str]:
    """Names of parameters that a loss did not reach; every other gradient is finite."""
    trained = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    assert all(bool(torch.isfinite(grad).all()) for grad in trained.values() if grad is not None)
    return {name for name, grad in trained.items() if grad is None}


# --- fresh -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETECTORS)
def test_outputs_are_logits_and_boxes_of_every_query(name: str) -> None:
    built = fresh(name)
    with torch.no_grad():
        logits, boxes, *rest = built.module.eval()(*built.example_inputs)
    softmax = built.task_options["postprocessing"]["activation"] == "softmax"
    assert softmax is (name in SOFTMAX)
    assert tuple(logits.shape) == (2, QUERIES, 4 if softmax else 3)
    assert tuple(boxes.shape) == (2, QUERIES, 4)
    assert all(bool(torch.isfinite(x).all()) for x in (logits, *rest))
    assert float(boxes.min()) >= 0
    assert float(boxes.max()) <= 1


@pytest.mark.parametrize("images", [CORNERS, [CORNERS[1]] * 2], ids=["some_without_boxes", "none_with_boxes"])
@pytest.mark.parametrize("name", DETECTORS)
def test_training_loss_is_finite_and_differentiable(name: str, images: list[Tensor]) -> None:
    built = fresh(name)
    labels = [LABELS[0][: len(boxes)] for boxes in images]
    assert isinstance(built.module, TrainsItself)
    loss = built.module.training_loss(built.example_inputs[0], images, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(loss))
    missing = _without_gradient(built.module)
    assert not [key for key in missing if "mask_token" not in key and "denoising" not in key]


@pytest.mark.parametrize("name", DETECTORS)
def test_criterion_is_the_own_loss_without_auxiliary_losses(name: str) -> None:
    built = fresh(name)
    criterion, model = built.task_options["criterion"], inner(built)
    outputs = built.module.eval()(*built.example_inputs)
    model.config.auxiliary_loss = False
    if name == "rf_detr":
        model.config.group_detr = 1  # the library divides by the number of groups, of which evaluation has one
    targets = as_targets(CORNERS, LABELS, height=SIZE, width=SIZE)
    expected = model(pixel_values=built.example_inputs[0], labels=targets).loss
    assert torch.equal(criterion(outputs, CORNERS, LABELS), expected)


def test_targets_are_centres_and_sizes_in_units_of_the_input() -> None:
    targets = as_targets([torch.tensor([[10.0, 20, 30, 80]])], [torch.tensor([1])], height=200, width=100)
    torch.testing.assert_close(targets[0]["boxes"], torch.tensor([[0.2, 0.25, 0.2, 0.3]]))
    assert targets[0]["class_labels"].tolist() == [1]


# --- capture ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAPTURED)
def test_captured_detector_computes_the_same_for_any_batch(name: str) -> None:
    built, prepared = _prepared(name)
    pixels = torch.randn(5, 3, SIZE, SIZE)
    prepared.eval().set_quantizing_(False)
    prepared.set_observing_(False)
    with torch.no_grad():
        for found, expected in zip(prepared(pixels), built.module.eval()(pixels), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("images", [CORNERS, [CORNERS[1]] * 2], ids=["some_without_boxes", "none_with_boxes"])
@pytest.mark.parametrize("name", CAPTURED)
def test_criterion_trains_the_captured_detector(name: str, images: list[Tensor]) -> None:
    built, prepared = _prepared(name)
    labels = [LABELS[0][: len(boxes)] for boxes in images]
    prepared.zero_grad()
    loss = built.task_options["criterion"](prepared(*built.example_inputs), images, labels)
    loss.backward()
    assert bool(torch.isfinite(loss))
    # Boxes are detached between layers, and scores choose queries only: these learn from the losses of inner layers alone.
    inner = ("enc_score_head", "enc_output", "enc_bbox_head", "pre_bbox_head")
    assert not [key for key in _without_gradient(prepared) if not any(part in key for part in inner)]


class Bare(nn.Module):
    """What a user writes around a detector of the library: nothing of ours helps it."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.detector(pixel_values=pixels)
        return found.logits, found.pred_boxes


@pytest.mark.parametrize("name", ["d_fine", pytest.param("rt_detr_v2", marks=pytest.mark.slow)])
def test_bare_detector_is_captured_with_a_free_batch(name: str) -> None:
    built = fresh(name)
    captured = qat.capture(Bare(inner(built)), built.example_inputs)
    logits, boxes = captured.module(torch.zeros(3, 3, SIZE, SIZE))
    assert (logits.shape[:2], boxes.shape) == ((3, QUERIES), (3, QUERIES, 4))


def test_forward_leaves_the_files_of_the_library_alone() -> None:
    built = fresh("d_fine")
    files = {type(part).__module__ for part in built.module.modules() if "transformers.models" in type(part).__module__}
    assert files
    seen: list[bool] = []
    inner(built).register_forward_pre_hook(lambda *_: seen.append(any("len" in vars(sys.modules[name]) for name in files)))
    built.module(torch.zeros(2, 3, SIZE, SIZE))
    assert seen == [False]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "detrr"}, r"'detrr' is no model type.*Did you mean 'detr'"),
        ({"name": "bert"}, r"'bert' is no detector of transformers.*Allowed: .*yolos"),
        ({"options": {"num_querys": 3}}, r"yolos has no option 'num_querys'"),
        ({"path": "nowhere"}, "no folder of a Hugging Face model"),
        ({"path": "nowhere", "pretrained": True}, "two sources of weights"),
        ({"name": None}, r"give model\.path=FOLDER, or model\.name"),
        ({"crop_mode": "center"}, "a detector sees the whole image"),
        (
            {"name": "d_fine", "options": {**DETECTORS["d_fine"], "num_queries": 46}},
            "d_fine chooses 46 queries among the positions of its feature maps, and 96x96 pixels have 45 only",
        ),
    ],
)
def test_bad_configuration_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fresh(**{"name": "yolos", **changes})


def test_as_many_queries_as_positions_are_enough() -> None:
    built = fresh("d_fine", options={**DETECTORS["d_fine"], "num_queries": 45})
    assert built.module.eval()(*built.example_inputs)[0].shape[1] == 45


def test_options_that_do_not_fit_each_other_are_named() -> None:
    """transformers ties the box heads of all decoder layers, and fails where there is one."""
    with pytest.raises(ConfigError, match=r"cannot build 'd_fine' with these model\.options: .*bbox_embed"):
        fresh("d_fine", options={**DETECTORS["d_fine"], "decoder_layers": 1})
