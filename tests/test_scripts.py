"""The pages under docs/ are those of their numbers, and what scripts build can be built."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of scripts/, which import each other as `make` runs them: from their folder."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    return importlib.import_module(request.param)


@pytest.mark.parametrize(
    "script",
    [
        *("speed", "text_speed", "detection_speed", "targets", "kernel_sweep"),
        *("timm_matrix", "torchvision_matrix", "auto_matrix", "layer_matrix", "encoder_matrix", "detector_matrix"),
    ],
    indirect=True,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_page_is_that_of_its_numbers(script: ModuleType) -> None:
    content = json.loads((ROOT / "docs" / f"{script.__name__}.json").read_text())
    assert (ROOT / "docs" / f"{script.__name__}.md").read_text() == script.page(content)


@pytest.mark.parametrize("script", ["layer_matrix"], indirect=True)
def test_every_layer_of_torch_is_in_the_table_or_left_out_with_a_reason(script: ModuleType) -> None:
    assert script.missing() == []
    rows = json.loads((ROOT / "docs" / "layer_matrix.json").read_text())["rows"]
    assert {row["layer"] for row in rows} == {*script.LAYERS, *script.FUNCTIONS}
    assert not [row["layer"] for row in rows if row["reason"] is not None and not row["refused"]], "nothing fails after prepare"


@pytest.mark.parametrize("script", ["detection_speed"], indirect=True)
def test_networks_whose_speed_is_measured_are_those_of_their_recipes(script: ModuleType) -> None:
    for name, overrides in script.MODELS.items():
        model, kept = script.build(overrides)
        assert model.example_inputs[0].shape[-2:] == (320, 320), name
        assert bool(kept) == name.startswith("D-FINE")
