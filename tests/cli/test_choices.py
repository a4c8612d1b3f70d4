"""Every choice of every group: found, composed with the rest, and trained for a few steps to an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from torch import nn

import qat
from qat.cli.recipes import folder, recipes, register
from qat.config.data import HuggingFaceConfig, TextConfig, TextHubConfig
from tests.data.images.stand_ins import parquet
from tests.data.samples import write_folder
from tests.data.text.stand_ins import serve_hub, text_stand_in
from tests.models.detectors import DETECTORS
from tests.runs import TINY, TINY_SHAPES, TINY_TEXT, tiny_overrides, train


def _choices() -> list[tuple[str, str]]:
    register()
    with hydra.initialize_config_dir(config_dir=str(folder("conf")), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = [group for group in loader.list_groups("") if group not in ("hydra", "recipe")]
        return [(group, choice) for group in groups for choice in loader.get_group_options(group)]


def _of_recipes() -> set[tuple[str, str]]:
    """What a recipe takes, and the test of all recipes trains."""
    lines = [line for content in recipes().values() for line in content.get("defaults", [])]
    return {(key.removeprefix("override /"), str(choice)) for line in lines for key, choice in line.items()}


CHOICES = _choices()


class SmallNet(nn.Module):
    """What a user might bring: it takes the number of classes, and a width."""

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.norm(self.conv(images))).mean((2, 3)))
        return out


def _digits(**changes: Any) -> list[str]:
    return tiny_overrides(Path("run"), base={**TINY, **changes})


def _of_model(base: dict[str, Any], **model: Any) -> list[str]:
    """The base with another model in the place of its own."""
    kept = {key: value for key, value in base.items() if not key.startswith("model")}
    return tiny_overrides(Path("run"), base={**kept, **{f"model.{key}": value for key, value in model.items()}})


def _folder(root: Path) -> list[str]:
    for split in ("train", "test"):
        write_folder(root / split, per_class=20)
    return [f"data.root={root}"]


FILES = TextConfig(train="a.tsv", test="b.tsv")

HUB = TextHubConfig(name="someone/sentences")

VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}


def _nothing(_: Path) -> list[str]:
    return []


#: What a choice needs beside its name: overrides that take the place of the small run's own.
NEEDS: dict[tuple[str, str], Callable[[Path], list[str]]] = {
    ("task", "detection"): lambda _: tiny_overrides(Path("run"), base=TINY_SHAPES),
    ("task", "text_classification"): lambda _: tiny_overrides(Path("run"), base=TINY_TEXT),
    ("task", "token_classification"): lambda _: [*tiny_overrides(Path("run"), base=TINY_TEXT), "data.kind=tags"],
    ("task", "question_answering"): lambda _: [
        *tiny_overrides(Path("run"), base=TINY_TEXT),
        "data.kind=questions",
        "data.stride=4",
    ],
    ("model", "hf_text"): lambda _: tiny_overrides(Path("run"), base=TINY_TEXT),
    ("model", "timm_detector"): lambda _: tiny_overrides(Path("run"), base=TINY_SHAPES),
    ("model", "hf_image"): lambda _: _of_model(TINY, name="vit", image_size=32, options=VIT),
    ("model", "hf_detector"): lambda _: _of_model(TINY_SHAPES, name="d_fine", image_size=96, options=DETECTORS["d_fine"]),
    ("model", "module"): lambda _: _of_model(TINY, target=f"{__name__}:SmallNet", image_size=32, options={"width": 4}),
    ("data", "folder"): _folder,
    ("data", "huggingface"): lambda root: parquet(root, HuggingFaceConfig()),
    ("data", "text"): lambda root: [
        *tiny_overrides(Path("run"), base=_texts()),
        *text_stand_in(root, FILES),
        "data.train=a.tsv",
        "data.test=b.tsv",
    ],
    ("data", "text_hub"): lambda _: [*tiny_overrides(Path("run"), base=_texts()), f"data.name={HUB.name}"],
    ("optimizer", "timm"): lambda _: ["optimizer.name=lamb"],
    ("quantization", "arm"): lambda _: ["engines=[qnnpack]"],
    ("quantization", "any"): lambda _: ["engines=[qnnpack]"],
    ("quantization", "x86_vnni"): lambda _: ["engines=[reference]"],
    ("launch", "torchrun"): lambda _: ["launch.nproc=1"],
}


def _texts() -> dict[str, Any]:
    return {key: value for key, value in TINY_TEXT.items() if key not in ("data.train", "data.test")}


#: Choices that a machine without a GPU only composes.
COMPOSED = {("trainer", "gpu")}


def test_choices_were_found() -> None:
    assert {group for group, _ in CHOICES} == {
        *("task", "model", "data", "optimizer", "trainer", "callbacks", "quantization", "logger", "launch", "debug")
    }
    assert NEEDS.keys() <= {*CHOICES}
    assert {*CHOICES} >= COMPOSED


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_choice_composes_and_says_what_it_is(group: str, choice: str) -> None:
    data = [] if group == "data" else ["data=digits"]
    with hydra.initialize_config_dir(config_dir=str(folder("conf")), version_base="1.3"):
        assert hydra.compose("config", overrides=[*data, f"{group}={choice}"])
    file = folder("conf") / group / f"{choice}.yaml"
    if file.is_file():
        assert any(line.startswith("# ") and "@package" not in line for line in file.read_text().splitlines()[:2])


#: Groups whose choices need a run of their own every time; the others differ in little that other tests do not train.
OFTEN = ("model", "data", "callbacks")


def _trained() -> list[Any]:
    found = sorted({*CHOICES} - _of_recipes() - COMPOSED)
    return [pytest.param(*pair, marks=[] if pair[0] in OFTEN else pytest.mark.slow) for pair in found]


@pytest.mark.parametrize(("group", "choice"), _trained())
def test_choice_trains_to_an_artifact(group: str, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if choice == "tensorboard":
        pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", "elsewhere")  # so that pytest takes back what the run sets
    serve_hub(monkeypatch, HUB)
    given = NEEDS.get((group, choice), _nothing)(tmp_path / "stand-in")
    base = given if any(argument.startswith("output=") for argument in given) else [*_digits(), *given]
    arguments = [argument for argument in base if argument.partition("=")[0] not in (group, "debug")]
    debug = [] if group == "debug" else ["debug=smoke"]
    short = ["fp32.max_epochs=1", "qat.max_epochs=1", "gate.enforce=false"]
    assert train([*arguments, *debug, *short, f"{group}={choice}"], monkeypatch) == 0
    engine = "qnnpack" if "engines=[qnnpack]" in arguments else "reference" if "engines=[reference]" in arguments else "fbgemm"
    assert qat.verify("run/artifact", engine).passed
    record = yaml.safe_load(Path("run/config.yaml").read_text())
    assert group in ("callbacks", "debug") or group in record["choices"]
