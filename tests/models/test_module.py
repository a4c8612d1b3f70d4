"""A user's own network: called as it wants to be, fed as it says, and refused in words when it is something else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qat.errors import ConfigError
from qat.models.float_model import FloatModel
from qat.models.module import build_module
from tests.models.hf_images import DATA

HERE = __name__


class Net(nn.Module):
    def __init__(self, num_classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, width, 3), nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(images).mean((2, 3)))
        return out


class Boxes(Net):
    """Four queries, no more than it takes."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = super().forward(images)[:, None].repeat(1, 4, 1)
        return logits, logits.mean(-1, keepdim=True).repeat(1, 1, 4).sigmoid()

    def criterion(self, outputs: Any, corners: Any, labels: Any) -> Tensor:
        return torch.as_tensor(outputs[0].sum() * 0.0 + len(corners) + len(labels))


def fixed() -> nn.Module:
    return Net(3)


def wrong_classes(num_classes: int) -> nn.Module:
    return Net(num_classes + 1)


def no_module() -> int:
    return 3


def _build(target: str, task: str = "classification", **options: Any) -> FloatModel:
    return build_module(task=task, data=DATA, target=target if ":" in target else f"{HERE}:{target}", **options)


def test_function_is_given_the_number_of_classes_and_the_options() -> None:
    built = _build("Net", image_size=20, options={"width": 7})
    assert built.module.conv.weight.shape == (7, 3, 3, 3)  # type: ignore[union-attr]
    assert built.module(*built.example_inputs).shape == (2, 3)
    assert built.example_inputs[0].shape == (2, 3, 20, 20)
    assert built.name == "Net"
    assert built.module.training


def test_function_without_parameters_is_called_without() -> None:
    assert isinstance(_build("fixed", image_size=16).module, Net)


def test_preprocessing_is_that_of_imagenet_unless_said_otherwise() -> None:
    record = _build("Net", image_size=64, crop_pct=0.8).preprocessing.to_record()
    assert (record["resize"], record["crop_mode"]) == ({"height": 80, "width": 80}, "center")
    assert record["mean"] == [0.485, 0.456, 0.406]
    other = _build("Net", mean=[0, 0, 0], std=[1, 1, 1]).preprocessing.to_record()
    assert (other["mean"], other["std"]) == ([0.0] * 3, [1.0] * 3)


def test_torchvision_comes_for_free() -> None:
    built = _build("torchvision.models:shufflenet_v2_x0_5", image_size=64)
    assert built.module(*built.example_inputs).shape == (2, 3)


def test_weights_of_a_file_are_taken_whole(tmp_path: Path) -> None:
    network = Net()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    built = _build("Net", path=str(tmp_path / "weights.safetensors"))
    assert all(torch.equal(built.module.state_dict()[name], value) for name, value in network.state_dict().items())
    save_file(Net(5).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"head\.weight"):
        _build("Net", path=str(tmp_path / "other.safetensors"))


def test_file_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets_of_mine.py").write_text(
        f"from {HERE} import Net\n\n\ndef build(num_classes):\n    return Net(num_classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(_build("own_nets_of_mine:build").module, Net)


def test_detector_has_its_own_criterion_and_a_named_decoder() -> None:
    built = _build("Boxes", "detection", image_size=32, postprocessing={"kind": "queries", "activation": "softmax"})
    record = built.task_options["postprocessing"]
    assert record == {"kind": "queries", "activation": "softmax", "limit": 100, "height": 32, "width": 32}
    outputs = built.module(*built.example_inputs)
    assert (built.preprocessing.to_record()["crop_mode"], built.preprocessing.to_record()["resize"]) == (
        "border",
        {"height": 32, "width": 32},
    )
    assert float(built.task_options["criterion"](outputs, [1], [1, 2]).detach()) == 3.0


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("qat.nowhere:f", {}, "cannot be imported: ModuleNotFoundError"),
        (f"{HERE}:nothing", {}, "cannot be imported: AttributeError"),
        (f"{HERE}:HERE", {}, "is a str, not a function"),
        ("no_module", {}, "returns a int, not an nn.Module"),
        ("Net", {"options": {"widht": 3}}, r"Net\(widht=3, num_classes=3\) fails: .*widht"),
        ("Net", {"in_channels": 1}, r"cannot take images of shape \(2, 1, 224, 224\)"),
        ("wrong_classes", {}, r"returns \(2, 4\) for 2 images; a classifier of 3 classes returns a tensor of shape \(2, 3\)"),
        ("Boxes", {}, "returns tuple for 2 images"),
        ("Net", {"task": "detection"}, "has an attribute `criterion`"),
        ("Boxes", {"task": "detection"}, "postprocessing"),
        ("Boxes", {"task": "detection", "crop_mode": "center"}, "sees the whole image"),
        ("Boxes", {"task": "detection", "crop_pct": 0.9}, "sees the whole image"),
        ("Boxes", {"task": "detection", "postprocessing": {"kind": "dense"}}, "postprocessing"),
    ],
    ids=str,
)
def test_what_is_no_network_for_the_task_is_refused(target: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _build(target, **options)


def test_target_is_written_with_a_colon() -> None:
    with pytest.raises(ConfigError, match=r"write it as package\.module:function"):
        build_module(task="classification", data=DATA, target="a.b.c")
