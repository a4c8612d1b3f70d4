"""What is typed: mistakes said together, open keys, jobs of a sweep, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qat.cli import main as cli
from qat.config import CHOICES, empty_config
from tests.runs import TINY, train

BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write into the current folder."""
    monkeypatch.chdir(tmp_path)


def test_tiny_run_is_made_of_keys_of_the_configuration() -> None:
    assert all("." in key or key == "progress" or key in CHOICES for key in TINY)


def test_all_mistakes_of_a_command_are_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["data=folder", "data.image_column=a", "fp32.max_epoch=3", "qat.lr=x", "quantization.observer=histo"]
    assert train([*wrong, "model.options.drop_rate=0.1"], monkeypatch) == 2
    lines = capsys.readouterr().err.splitlines()
    words = ["data.image_column=a", "fp32.max_epoch=3", "qat.lr=x", "data.root is missing", "quantization.observer=histo"]
    assert len(lines) == len(words)
    for word in words:
        assert sum(word in line for line in lines) == 1, word


def test_key_that_the_schema_leaves_open_needs_no_plus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("qat.cli.main._train", lambda config, _: (tmp_path / "seen").write_text(repr(config.model.options)))
    assert train(["recipe=digits_resnet", "model.options.drop_rate=0.1", "model.options.layers=[1,1]"], monkeypatch) == 0
    assert (tmp_path / "seen").read_text() == "{'drop_rate': 0.1, 'layers': [1, 1]}"


@pytest.mark.parametrize("logger", ["wandb", "csv"])
def test_jobs_of_a_sweep_lie_in_its_folder_and_share_a_group(logger: str) -> None:
    config = OmegaConf.structured(empty_config({"logger": logger}))
    cli.place_in_sweep_(config, ["qat.lr=1"], output="multirun/x/3", sweep="multirun/x")
    assert config.output == "multirun/x/3"
    assert config.logger == ({"project": "qat", "group": "x", "tags": []} if logger == "wandb" else {})
    named = OmegaConf.structured(empty_config({"logger": "wandb"}))
    named.output, named.logger.group = "own", "mine"
    cli.place_in_sweep_(named, ["+output=own"], output="multirun/x/3", sweep="multirun/x")
    assert (named.output, named.logger.group) == ("own", "mine")


def test_completion_offers_groups_choices_and_keys() -> None:
    """As bash asks for it."""
    for line, offered in (
        ("qat-train da", "data="),
        ("qat-train data=fol", "data=folder"),
        ("qat-train data=folder data.ro", "data.root="),
    ):
        environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
        found = subprocess.run(
            [str(BIN / "qat-train"), "-sc", "query=bash"], env=environment, capture_output=True, text=True, check=False
        )
        assert offered in found.stdout.split(), (line, found.stdout, found.stderr)
