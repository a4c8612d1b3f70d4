"""Every recipe that lies in `recipes/`: found, small, composed with the schema, and run end to end on stand-ins."""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import pytest
import timm
import yaml
from omegaconf import OmegaConf

import qat
from qat.cli.check import missing_keys
from qat.cli.recipes import folder, recipes, register
from qat.config import Config
from qat.config.data import (
    CocoConfig,
    DataConfig,
    DigitsConfig,
    GrammarConfig,
    HuggingFaceConfig,
    ShapesConfig,
    TextConfig,
    TextHubConfig,
)
from qat.config.models import HFDetectorConfig, HFTextConfig, ModelConfig, TimmConfig, TimmDetectorConfig
from qat.errors import ConfigError
from tests.contract import check_report
from tests.data.detection.stand_ins import coco_stand_in, small_detector
from tests.data.images.stand_ins import parquet
from tests.data.text.stand_ins import serve_hub, small_bert, text_stand_in
from tests.runs import train

FILES = sorted(folder("recipes").rglob("*.yaml"))
NAMES = [path.stem for path in FILES]


def _read(name: str) -> Config:
    """The configuration of a recipe, with what the user has to name."""
    register()
    with hydra.initialize_config_dir(config_dir=str(folder("conf")), version_base="1.3"):
        config = hydra.compose("config", overrides=[f"recipe={name}"])
    config.recipe = config.output = name
    for group in ("data", "model"):
        for key in missing_keys(config[group]):
            config[group][key] = "named"
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, Config)
    return typed


def _stand_in(name: str) -> str:
    """timm's small test model of the same model file, or of the most alike."""
    module = timm.models.model_entrypoint(name.partition(".")[0]).__module__
    tests = [test for test in timm.list_models("test_*") if timm.models.model_entrypoint(test).__module__ == module]
    return tests[0] if tests else "test_efficientnet"


def _data(root: Path, data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides that replace the recipe's data; those of the hub are served in its place."""
    if isinstance(data, CocoConfig):
        return coco_stand_in(root, data)
    if isinstance(data, TextHubConfig):
        serve_hub(monkeypatch, data)
        return []
    if isinstance(data, TextConfig):
        return text_stand_in(root, data)
    if isinstance(data, HuggingFaceConfig):
        return parquet(root, data)
    assert isinstance(data, DigitsConfig | GrammarConfig | ShapesConfig), f"no stand-in for {type(data)}"
    return []


def _model(root: Path, model: ModelConfig) -> list[str]:
    """Overrides that replace the recipe's model, where it does not come from nothing."""
    if isinstance(model, TimmConfig):
        detects = isinstance(model, TimmDetectorConfig)
        name, size = _stand_in(str(model.name)), 64 if detects else 32
        # oneDNN's bfloat16 gradient of a convolution on a map of one pixel holds memory that nobody wrote
        small = ["model.head_options.channels=16", "fp32.precision=32-true"] if detects else []
        return [f"model.name={name}", "model.pretrained=false", "model.path=null", f"model.image_size={size}", *small]
    if isinstance(model, HFDetectorConfig):
        return small_detector(root, model)
    assert isinstance(model, HFTextConfig)
    if model.path is None and not model.pretrained:
        return []
    return [f"model.path={small_bert(root)}", "model.pretrained=false", "model.max_length=48", "data.stride=8"]


def test_recipes_were_found() -> None:
    assert {"digits_resnet", "tiny_text", "tiny_shapes"} <= set(NAMES)
    assert set(recipes()) == set(NAMES)


def test_recipe_names_are_flat_and_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(path.parent == folder("recipes") for path in FILES), "Hydra finds flat files only"


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_short_and_says_what_it_is(name: str) -> None:
    lines = (folder("recipes") / f"{name}.yaml").read_text().splitlines()
    assert 4 <= len(lines) <= 15
    assert lines[0].startswith("# ")


#: They differ from bccd_dfine_nano in data and size; capturing them takes most of a minute.
LONG = ("coco_dfine", "coco_rtdetrv2")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in NAMES])
def test_recipe_trains_to_a_verified_artifact(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _read(name)
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"recipe={name}",
        "debug=smoke",
        *_model(tmp_path / "model", recipe.model),
        *_data(tmp_path / "data", recipe.data, monkeypatch),
        "trainer=cpu",
        "quantization.observer=moving_average",
        "progress=false",
        "output=run",
    ]
    assert train(arguments, monkeypatch) == 0
    report = json.loads(Path("run/report.json").read_text())
    check_report(report)
    assert report["recipe"] == name
    assert report["coverage"]["macs_int8"] > 0.5
    assert not report["gates"] or all(gate["passed"] for gate in report["gates"] if gate["name"].startswith("kernel/"))
    for engine in report["engines"]:
        assert qat.verify("run/artifact", engine).passed
    assert qat.read_manifest("run/artifact")["recipe"] == name
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["qat"]["lr"] == recipe.qat.lr, "a recipe's own values survive"


def test_installation_without_recipes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qat.cli.recipes._PACKAGE", tmp_path / "qat")
    with pytest.raises(ConfigError, match="'recipes' is missing"):
        recipes()
    (tmp_path / "recipes").mkdir()
    with pytest.raises(ConfigError, match="no recipe in"):
        recipes()


def test_wheel_recipes_come_before_those_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qat.cli.recipes._PACKAGE", tmp_path / "qat")
    for place in (tmp_path, tmp_path / "qat"):
        (place / "conf").mkdir(parents=True)
    assert folder("conf") == tmp_path / "qat" / "conf"
