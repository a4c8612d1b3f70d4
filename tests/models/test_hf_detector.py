"""Hugging Face detectors: fresh ones of every kind, their losses, their capture, and local folders."""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import qat
from qat.data.detection.shapes import shapes_source
from qat.data.detection.source import BoxSource
from qat.errors import ConfigError
from qat.models.float_model import FloatModel
from qat.models.hf_detector import DEFAULT_SIZE, SOFTMAX, as_targets, build_hf_detector
from qat.quantization.prepared import PreparedModel
from qat.tasks.detection import TrainsItself
from tests.models.detectors import DETECTORS

SIZE, QUERIES = 96, 20

#: One image with boxes and one without.
CORNERS = [torch.tensor([[10.0, 12, 50, 40], [30, 30, 90, 80]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)]

#: Exporting the others takes longest.
CAPTURED = [pytest.param(name, marks=pytest.mark.slow if name not in ("d_fine", "detr", "yolos") else ()) for name in DETECTORS]


def _data(*labels: str) -> BoxSource:
    source = shapes_source(train=4, test=2)
    return dataclasses.replace(source, labels=labels) if labels else source


def _inner(built: FloatModel) -> Any:
    """The library's model."""
    return built.module.get_submodule("model")


def _build(name: str, **changes: Any) -> FloatModel:
    torch.manual_seed(0)
    given = {"data": _data(), "name": name, "image_size": SIZE, "options": DETECTORS.get(name), **changes}
    return build_hf_detector(**given)


@cache
def _prepared(name: str) -> tuple[FloatModel, PreparedModel]:
    built = _build(name)
    return built, qat.prepare(built.module, built.example_inputs)


def _without_gradient(module: nn.Module) -> set[str]:
    """Names of parameters that a loss did not reach; every other gradient is finite."""
    trained = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    assert all(bool(torch.isfinite(grad).all()) for grad in trained.values() if grad is not None)
    return {name for name, grad in trained.items() if grad is None}


# --- fresh -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETECTORS)
def test_outputs_are_logits_and_boxes_of_every_query(name: str) -> None:
    built = _build(name)
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
    built = _build(name)
    labels = [LABELS[0][: len(boxes)] for boxes in images]
    assert isinstance(built.module, TrainsItself)
    loss = built.module.training_loss(built.example_inputs[0], images, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(loss))
    missing = _without_gradient(built.module)
    assert not [key for key in missing if "mask_token" not in key and "denoising" not in key]


@pytest.mark.parametrize("name", DETECTORS)
def test_criterion_is_the_own_loss_without_auxiliary_losses(name: str) -> None:
    built = _build(name)
    criterion, model = built.task_options["criterion"], _inner(built)
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
    prepared.set_quantizing_(False)
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
    built = _build(name)
    captured = qat.capture(Bare(_inner(built)), built.example_inputs)
    logits, boxes = captured.module(torch.zeros(3, 3, SIZE, SIZE))
    assert (logits.shape[:2], boxes.shape) == ((3, QUERIES), (3, QUERIES, 4))


def test_forward_leaves_the_files_of_the_library_alone() -> None:
    built = _build("d_fine")
    files = {type(part).__module__ for part in built.module.modules() if "transformers.models" in type(part).__module__}
    assert files
    seen: list[bool] = []
    _inner(built).register_forward_pre_hook(lambda *_: seen.append(any("len" in vars(sys.modules[name]) for name in files)))
    built.module(torch.zeros(2, 3, SIZE, SIZE))
    assert seen == [False]


# --- folders ---------------------------------------------------------------------------------------------------------


def _save(name: str, folder: Path, **processor: Any) -> dict[str, Tensor]:
    """A model folder for three classes as transformers writes it, and the model's tensors."""
    model = _inner(_build(name))
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return dict(model.state_dict())


@pytest.mark.parametrize("name", DETECTORS)
def test_folder_for_other_classes_gives_everything_but_the_class_layers(name: str, tmp_path: Path) -> None:
    weights = _save(name, tmp_path)
    model = _inner(_build(name, path=str(tmp_path), options=None, data=_data("a", "b")))
    loaded = model.state_dict()
    other = {key for key in weights if loaded[key].shape != weights[key].shape}
    assert other
    assert all("class" in key or "score" in key for key in other)
    assert all(loaded[key].shape[0] == weights[key].shape[0] - 1 for key in other)
    assert all(torch.equal(loaded[key], weights[key]) for key in weights.keys() - other)
    assert model.config.id2label == {0: "a", 1: "b"}


@pytest.mark.parametrize("name", DETECTORS)
def test_folder_for_the_same_classes_gives_the_same_network(name: str, tmp_path: Path) -> None:
    weights = _save(name, tmp_path)
    loaded = _inner(_build(name, path=str(tmp_path), options=None)).state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", DETECTORS)
def test_body_whose_weights_are_missing_is_refused(name: str, tmp_path: Path) -> None:
    _save(name, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    convolution = next(key for key, tensor in weights.items() if tensor.dim() == 4)
    del weights[convolution]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="do not fit: 1 tensors are missing"):
        _build(name, path=str(tmp_path), options=None)


def test_folder_of_a_text_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        _build("bert", path=str(tmp_path), options=None)


# --- preprocessing ---------------------------------------------------------------------------------------------------

STATISTICS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"height": 64, "width": 128}, (64, 128, "squash")),
        ({"shortest_edge": 800, "longest_edge": 1333}, (DEFAULT_SIZE, DEFAULT_SIZE, "border")),
    ],
)
def test_size_of_the_processor_is_squashed_into_and_edges_are_letterboxed(
    size: dict[str, int], expected: tuple[int, int, str], tmp_path: Path
) -> None:
    _save("yolos", tmp_path, size=size)
    built = _build("yolos", path=str(tmp_path), options=None, image_size=None)
    record = built.preprocessing.to_record()
    assert (record["height"], record["width"], record["crop_mode"]) == expected
    assert record["resize"] == {"height": expected[0], "width": expected[1]}
    assert tuple(built.example_inputs[0].shape) == (2, 3, *expected[:2])
    postprocessing = built.task_options["postprocessing"]
    assert (postprocessing["height"], postprocessing["width"]) == expected[:2]
    assert json.loads(json.dumps([record, postprocessing])) == [record, postprocessing]


@pytest.mark.parametrize(("normalises", "mean", "std"), [(True, *STATISTICS.values()), (False, [0.0] * 3, [1.0] * 3)])
def test_statistics_of_the_processor_are_taken_when_it_normalises(
    normalises: bool, mean: list[float], std: list[float], tmp_path: Path
) -> None:
    _save("yolos", tmp_path, do_normalize=normalises, **STATISTICS)
    record = _build("yolos", path=str(tmp_path), options=None).preprocessing.to_record()
    assert (record["mean"], record["std"]) == (mean, std)
    record = _build("yolos", path=str(tmp_path), options=None, mean=[0.5] * 3, std=[0.25] * 3).preprocessing.to_record()
    assert (record["mean"], record["std"]) == ([0.5] * 3, [0.25] * 3)


def test_fresh_detector_has_a_letterbox_and_pixels_from_0_to_1() -> None:
    record = _build("yolos").preprocessing.to_record()
    assert (record["height"], record["crop_mode"], record["mean"], record["std"]) == (SIZE, "border", [0.0] * 3, [1.0] * 3)
    assert _build("yolos", crop_mode="squash").preprocessing.to_record()["crop_mode"] == "squash"


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
        _build(**{"name": "yolos", **changes})


def test_as_many_queries_as_positions_are_enough() -> None:
    built = _build("d_fine", options={**DETECTORS["d_fine"], "num_queries": 45})
    assert built.module.eval()(*built.example_inputs)[0].shape[1] == 45


def test_options_that_do_not_fit_each_other_are_named() -> None:
    """transformers ties the box heads of all decoder layers, and fails where there is one."""
    with pytest.raises(ConfigError, match=r"cannot build 'd_fine' with these model\.options: .*bbox_embed"):
        _build("d_fine", options={**DETECTORS["d_fine"], "decoder_layers": 1})
