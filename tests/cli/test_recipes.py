"""Every recipe that lies in `recipes/`: found, small, composed with the schema, and run end to end on stand-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import timm
import yaml
from PIL import Image

import qat
from qat.cli.recipes import folder, recipes
from qat.errors import ConfigError
from tests.contract import check_report
from tests.data.detection.stand_ins import coco_stand_in, small_detector
from tests.data.samples import encode, write_folder
from tests.data.text.stand_ins import small_bert, text_stand_in
from tests.runs import train

FILES = sorted(folder("recipes").rglob("*.yaml"))
NAMES = [path.stem for path in FILES]


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder("recipes") / f"{name}.yaml").read_text())
    return content


def _stand_in(name: str) -> str:
    """timm's small test model of the same model file, or of the most alike."""
    module = timm.models.model_entrypoint(name.partition(".")[0]).__module__
    tests = [test for test in timm.list_models("test_*") if timm.models.model_entrypoint(test).__module__ == module]
    return tests[0] if tests else "test_efficientnet"


def _parquet(root: Path, data: dict[str, Any]) -> Path:
    """Noise in the hub's layout, under the columns and splits that the recipe reads."""
    root.mkdir()
    options = data.get("options", {})
    rng = np.random.default_rng(0)
    splits = {options.get("train_split", "train"): 60, options.get("test_split", "test"): 24}
    if options.get("val_split"):
        splits[options["val_split"]] = 24
    for split, count in splits.items():
        pixels = rng.integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
        images = [{"bytes": encode(Image.fromarray(image)), "path": None} for image in pixels]
        columns = {
            options.get("image_column", "image"): images,
            options.get("label_column", "label"): [i % 3 for i in range(count)],
        }
        pq.write_table(pa.table(columns), root / f"{split}.parquet")
    return root


def _data(root: Path, recipe: dict[str, Any]) -> list[str]:
    """Overrides that replace the recipe's data."""
    data = recipe["data"]
    if data["source"] in ("digits", "grammar", "shapes"):
        return []
    if data["source"] == "coco":
        return coco_stand_in(root, recipe)
    if data["source"] in ("text", "text_hub"):
        return text_stand_in(root, recipe)
    if data["source"] == "folder":
        for split in ("train", "test"):
            write_folder(root / split, per_class=20)
        return [f"data.root={root}"]
    assert data["source"] == "huggingface", f"no stand-in for data.source={data['source']}"
    hub = ["~data.options.name"] if "name" in data.get("options", {}) else []
    return [f"data.root={_parquet(root, data)}", *hub]


def _model(root: Path, recipe: dict[str, Any]) -> list[str]:
    """Overrides that replace the recipe's model, where it does not come from nothing."""
    model = recipe["model"]
    if model.get("source") != "huggingface":
        size = 128 if recipe.get("task") == "detection" else 32
        name = _stand_in(model["name"])
        return [f"model.name={name}", "model.pretrained=false", "model.path=null", f"model.image_size={size}"]
    if recipe["task"] == "detection":
        return small_detector(root, recipe)
    if "path" not in model and "pretrained" not in model:
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
    assert len(lines) <= 30
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_recipe_trains_to_a_verified_artifact(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _read(name)
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"recipe={name}",
        "debug=smoke",
        *_model(tmp_path / "model", recipe),
        *_data(tmp_path / "data", recipe),
        "accelerator=cpu",
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
    assert config["qat"]["lr"] == recipe["qat"]["lr"], "a recipe's own values survive"


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
