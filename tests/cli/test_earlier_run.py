"""Commands on what a run has made take its settings, and what they name themselves counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qat.cli import main as cli
from qat.cli.earlier_run import OVERRIDES, with_settings_of_run
from qat.errors import ConfigError
from tests.runs import call

KEYS = ("artifact", "checkpoint")

SETTINGS = [
    "data=folder",
    "data.root=imgs",
    "model.name=resnet10t",
    "model.image_size=48",
    "qat.lr=1e-5",
    "output=x",
    "logger=csv",
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "artifact").mkdir(parents=True)
    (folder / "checkpoints" / "qat").mkdir(parents=True)
    (folder / "checkpoints" / "qat" / "a.ckpt").touch()
    (folder / OVERRIDES).write_text(yaml.safe_dump(SETTINGS))
    return folder


@pytest.mark.parametrize("place", ["artifact=artifact", "checkpoint=checkpoints/qat/a.ckpt"])
def test_settings_of_the_run_come_first_without_its_own_affairs(run: Path, place: str) -> None:
    key, _, inside = place.partition("=")
    given = [f"{key}={run / inside}", "engines=[fbgemm]"]
    assert with_settings_of_run(given, KEYS) == [*SETTINGS[:5], *given]


@pytest.mark.parametrize(
    ("own", "left"),
    [
        ("model.name=resnet18", ["data=folder", "data.root=imgs", "model.image_size=48", "qat.lr=1e-5"]),
        ("data=cifar10", ["model.name=resnet10t", "model.image_size=48", "qat.lr=1e-5"]),
        ("recipe=digits_resnet", []),
    ],
)
def test_what_the_command_names_counts(run: Path, own: str, left: list[str]) -> None:
    given = [f"artifact={run / 'artifact'}", own]
    assert with_settings_of_run(given, KEYS) == [*left, *given]


def test_artifact_that_lies_in_no_run_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    given = [f"artifact={tmp_path / 'artifact'}"]
    assert with_settings_of_run(given, KEYS) == given


@pytest.mark.parametrize(("given", "words"), [([], "give artifact=PATH or"), (["artifact=gone/artifact"], "there is no gone")])
def test_command_without_anything_to_work_on_is_refused(given: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_settings_of_run(given, KEYS)


@pytest.mark.parametrize("verb", [cli.evaluate, cli.inspect, cli.benchmark])
def test_commands_need_no_more_than_the_artifact(
    verb: object, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(verb, [f"artifact={finished / 'artifact'}", "output=o"], monkeypatch) == 0  # type: ignore[arg-type]


def test_missing_data_is_asked_for_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(cli.train, ["quantization=any"], monkeypatch) == 2
    assert "name the data: data=NAME, or a recipe" in capsys.readouterr().err
