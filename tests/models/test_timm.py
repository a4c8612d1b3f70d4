from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data.config import resolve_model_data_config

from qat.errors import ConfigError
from qat.models.timm import build_timm


def _save_folder(path: Path, name: str, num_classes: int, image_size: int) -> dict[str, torch.Tensor]:
    """A model folder as `timm.models.save_for_hf` writes it, and its weights."""
    model = timm.create_model(name, num_classes=num_classes)
    own: dict[str, Any] = vars(model)["pretrained_cfg"]
    config = {
        "architecture": name,
        "num_classes": num_classes,
        "pretrained_cfg": {
            "input_size": [3, image_size, image_size],
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "num_classes": num_classes,
            "classifier": own["classifier"],
            "first_conv": own["first_conv"],
        },
    }
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    weights = dict(model.state_dict())
    save_file(weights, path / "model.safetensors")
    return weights


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_build_timm_makes_a_model_of_the_given_size(name: str) -> None:
    built = build_timm(name=name, num_classes=5, image_size=64)
    assert built.example_inputs[0].shape == (2, 3, 64, 64)
    assert built.module(*built.example_inputs).shape == (2, 5)


def test_build_timm_takes_size_and_statistics_from_timm() -> None:
    built = build_timm(name="test_resnet", num_classes=5)
    expected = resolve_model_data_config(built.module)  # type: ignore[no-untyped-call]
    record = built.preprocessing.to_record()
    assert (record["channels"], record["height"], record["width"]) == expected["input_size"]
    assert record["resize"]["height"] == math.floor(record["height"] / expected["crop_pct"])
    for key in ("mean", "std", "crop_mode", "interpolation"):
        assert record[key] == (list(expected[key]) if key in ("mean", "std") else expected[key])


def test_build_timm_preprocessing_is_plain_json_and_can_be_overridden() -> None:
    record = build_timm(
        name="test_resnet", num_classes=5, image_size=96, mean=[0.5] * 3, std=(0.25,) * 3, crop_pct=1.0
    ).preprocessing.to_record()
    assert json.loads(json.dumps(record)) == record
    assert record["mean"] == [0.5] * 3
    assert record["std"] == [0.25] * 3
    assert record["resize"] == {"height": 96, "width": 96}


def test_build_timm_grey_model_averages_the_statistics() -> None:
    built = build_timm(name="test_resnet", num_classes=5, in_channels=1)
    colour = build_timm(name="test_resnet", num_classes=5).preprocessing.to_record()
    assert built.example_inputs[0].shape[1] == 1
    assert built.preprocessing.to_record()["mean"] == [sum(colour["mean"]) / 3]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_build_timm_loads_a_checkpoint_with_the_same_classes_completely(suffix: str, tmp_path: Path) -> None:
    weights = dict(timm.create_model("test_resnet", num_classes=5).state_dict())
    file = tmp_path / f"weights{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    loaded = build_timm(name="test_resnet", num_classes=5, path=str(file)).module.state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


def test_build_timm_loads_all_but_a_classifier_with_other_classes(tmp_path: Path) -> None:
    weights = dict(timm.create_model("test_resnet", num_classes=7).state_dict())
    save_file(weights, tmp_path / "weights.safetensors")
    built = build_timm(name="test_resnet", num_classes=5, path=str(tmp_path / "weights.safetensors"))
    loaded = built.module.state_dict()
    assert loaded["fc.weight"].shape[0] == 5
    assert all(torch.equal(loaded[key], weights[key]) for key in weights if not key.startswith("fc."))


def test_build_timm_refuses_weights_with_missing_and_unexpected_tensors(tmp_path: Path) -> None:
    weights = dict(timm.create_model("test_resnet", num_classes=5).state_dict())
    weights["conv9.weight"] = weights.pop("conv1.0.weight")
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match=r"Missing: conv1\.0\.weight\. Unexpected: conv9\.weight"):
        build_timm(name="test_resnet", num_classes=5, path=str(tmp_path / "weights.safetensors"))


def test_build_timm_refuses_weights_of_another_shape(tmp_path: Path) -> None:
    weights = dict(timm.create_model("test_resnet", num_classes=5, in_chans=1).state_dict())
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match=r"conv1\.0\.weight is .* in the file and .* in the model"):
        build_timm(name="test_resnet", num_classes=5, path=str(tmp_path / "weights.safetensors"))


def test_build_timm_refuses_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        build_timm(name="test_resnet", num_classes=5, path=str(tmp_path / "weights.safetensors"))


def test_build_timm_refuses_a_pickle_that_runs_code(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "run": print}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        build_timm(name="test_resnet", num_classes=5, path=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("num_classes", [5, 7])
def test_build_timm_loads_a_model_folder(num_classes: int, tmp_path: Path) -> None:
    weights = _save_folder(tmp_path / "model", "test_resnet", 7, image_size=48)
    built = build_timm(name="test_resnet", num_classes=num_classes, path=str(tmp_path / "model"))
    loaded = built.module.state_dict()
    same = [key for key in weights if num_classes == 7 or not key.startswith("fc.")]
    assert all(torch.equal(loaded[key], weights[key]) for key in same)
    assert built.preprocessing.to_record()["mean"] == [0.1, 0.2, 0.3]
    assert built.preprocessing.to_record()["height"] == 48


def test_build_timm_fits_position_embeddings_to_another_size(tmp_path: Path) -> None:
    weights = _save_folder(tmp_path / "model", "test_vit", 5, image_size=160)
    built = build_timm(name="test_vit", num_classes=5, path=str(tmp_path / "model"), image_size=96)
    loaded = built.module.state_dict()
    assert loaded["pos_embed"].shape[1] < weights["pos_embed"].shape[1]
    assert built.module(*built.example_inputs).shape == (2, 5)


def test_build_timm_refuses_a_folder_of_another_architecture(tmp_path: Path) -> None:
    _save_folder(tmp_path / "model", "test_resnet", 5, image_size=48)
    with pytest.raises(ConfigError, match=r"holds a 'test_resnet', but model.name is 'test_vit'"):
        build_timm(name="test_vit", num_classes=5, path=str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "unknown timm model 'resnet19'. Nearest: .*resnet18"),
        ({"name": "resnet18.no_such_tag"}, "Tags: .*resnet18.a1_in1k"),
        ({"name": "test_resnet", "options": {"pad_typ": "same"}}, "pad_typ"),
        ({"name": "test_resnet", "path": "/no/such/file"}, "no file or folder /no/such/file"),
        ({"name": "test_resnet", "path": __file__}, "not a weights file. Allowed: .safetensors"),
        ({"name": "test_resnet", "path": str(Path(__file__).parent)}, "holds no weights. Looked for model.safetensors"),
        ({"name": "test_resnet", "path": __file__, "pretrained": True}, "two sources"),
    ],
)
def test_build_timm_says_what_is_wrong(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_timm(num_classes=5, **arguments)  # type: ignore[arg-type]


def test_build_timm_without_hub_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError("network is unreachable")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", offline)
    with pytest.raises(ConfigError, match=r"network is unreachable\n.*model\.path"):
        build_timm(name="test_resnet", num_classes=5, pretrained=True)


def test_build_timm_loads_the_real_mobilenet_for_other_classes(shared_data: Path) -> None:
    file = shared_data / "weights" / "mobilenetv2_100_imagenet.safetensors"
    built = build_timm(
        name="mobilenetv2_100",
        num_classes=10,
        path=str(file),
        image_size=96,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        options={"pad_type": "same"},
    )
    assert built.module.eval()(*built.example_inputs).shape == (2, 10)
