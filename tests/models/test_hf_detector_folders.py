"""Hugging Face detectors of local folders: their weights, and the preprocessing that their image processor states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qat.errors import ConfigError
from qat.models.hf_detector import DEFAULT_SIZE
from tests.models.detectors import DETECTORS
from tests.models.fresh_detectors import SIZE, data, fresh, inner


def _save(name: str, folder: Path, **processor: Any) -> dict[str, Tensor]:
    """A model folder for three classes as transformers writes it, and the model's tensors."""
    model = inner(fresh(name))
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return dict(model.state_dict())


@pytest.mark.parametrize("name", DETECTORS)
def test_folder_for_other_classes_gives_everything_but_the_class_layers(name: str, tmp_path: Path) -> None:
    weights = _save(name, tmp_path)
    model = inner(fresh(name, path=str(tmp_path), options=None, data=data("a", "b")))
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
    loaded = inner(fresh(name, path=str(tmp_path), options=None)).state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", DETECTORS)
def test_body_whose_weights_are_missing_is_refused(name: str, tmp_path: Path) -> None:
    _save(name, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    convolution = next(key for key, tensor in weights.items() if tensor.dim() == 4)
    del weights[convolution]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="do not fit: 1 tensors are missing"):
        fresh(name, path=str(tmp_path), options=None)


def test_folder_of_a_text_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        fresh("bert", path=str(tmp_path), options=None)


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
    built = fresh("yolos", path=str(tmp_path), options=None, image_size=None)
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
    record = fresh("yolos", path=str(tmp_path), options=None).preprocessing.to_record()
    assert (record["mean"], record["std"]) == (mean, std)
    record = fresh("yolos", path=str(tmp_path), options=None, mean=[0.5] * 3, std=[0.25] * 3).preprocessing.to_record()
    assert (record["mean"], record["std"]) == ([0.5] * 3, [0.25] * 3)


def test_fresh_detector_has_a_letterbox_and_pixels_from_0_to_1() -> None:
    record = fresh("yolos").preprocessing.to_record()
    assert (record["height"], record["crop_mode"], record["mean"], record["std"]) == (SIZE, "border", [0.0] * 3, [1.0] * 3)
    assert fresh("yolos", crop_mode="squash").preprocessing.to_record()["crop_mode"] == "squash"
