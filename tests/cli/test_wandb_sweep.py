"""The YAML of a W&B sweep, and the commands that W&B's own agent makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from qat.cli import main as cli
from qat.cli.recipes import folder, register
from qat.cli.wandb_sweep import describe
from qat.errors import ConfigError
from tests.runs import call, tiny_overrides, train

SPACE = [
    "qat.lr=tag(log,interval(1e-5,1e-3))",
    "quantization.observer=minmax,histogram",
    "qat.max_epochs=tag(int,interval(1,3))",
]


def agent_command(description: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """What `wandb agent` runs for these values: its own functions, and the loop of its `_command_run`."""
    macros = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    macros["env"] = ["/usr/bin/env"]
    command: list[str] = []
    for part in create_sweep_command(list(description["command"])):
        command += macros[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part]
    return command


def test_sweep_tries_what_has_several_values_and_maximizes_the_int8_metric() -> None:
    found = describe(
        ["recipe=sst2_minilm", "data.root=x", "model.path=y", "logger=wandb", "logger.project=mine", *SPACE], "bayes"
    )
    assert found["method"] == "bayes"
    assert found["project"] == "mine"
    assert found["metric"] == {"name": "int8/accuracy", "goal": "maximize"}
    assert found["parameters"] == {
        "qat.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
        "quantization.observer": {"values": ["minmax", "histogram"]},
        "qat.max_epochs": {"distribution": "int_uniform", "min": 1, "max": 3},
    }


def test_command_of_the_agent_composes_to_the_drawn_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    description = describe(["recipe=digits_resnet", "model.options.a=1", *SPACE], "random")
    assert yaml.safe_load(yaml.safe_dump(description)) == description
    values = {"qat.lr": 3.2e-05, "quantization.observer": "minmax", "qat.max_epochs": 2}
    env, program, *arguments = agent_command(description, values)
    assert (env, program) == ("/usr/bin/env", "qat-train")
    register()
    with hydra.initialize_config_dir(config_dir=str(folder("conf")), version_base="1.3"):
        config = hydra.compose("config", overrides=arguments)
    assert (config.qat.lr, config.quantization.observer, config.qat.max_epochs) == (3.2e-05, "minmax", 2)
    assert (config.logger.project, config.output, config.model.options) == ("qat", "runs/wandb/abc", {"a": 1})


@pytest.mark.parametrize(
    ("arguments", "method", "words"),
    [
        (["recipe=digits_resnet"], "bayes", "nothing to search"),
        (["data=digits", "qat.learning_rate=1,2"], "bayes", "learning_rate"),
        (["recipe=nope", "qat.lr=1,2"], "bayes", "digits_resnet"),
        (["data=digits", "qat.lr=interval(0,1)"], "grid", r"qat.lr spans an interval"),
        (["data=digits", "qat.lr=1,2"], "bayesian", r"unknown method 'bayesian'. Did you mean 'bayes'"),
        (["data=text", "data.root=x", "qat.lr=1,2"], "bayes", "task=NAME"),
        (["qat.lr=choice("], "bayes", "choice"),
    ],
    ids=str,
)
def test_sweep_that_cannot_be_is_refused(arguments: list[str], method: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        describe(arguments, method)


def test_verb_writes_the_file_and_its_command_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "drawn")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", "elsewhere")  # so that pytest takes back what the run sets
    small = [
        a for a in tiny_overrides(Path("x"), fp32__max_epochs=1, engines=["fbgemm"]) if not a.startswith(("output=", "qat.lr="))
    ]
    assert call(cli.wandb_sweep, ["recipe=digits_resnet", *small, "qat.lr=1e-3,1e-4"], monkeypatch) == 0
    description = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    assert train(agent_command(description, {"qat.lr": "1e-4"})[2:], monkeypatch) == 0
    run = tmp_path / "runs" / "wandb" / "drawn"
    assert yaml.safe_load((run / "config.yaml").read_text())["qat"]["lr"] == 1e-4
    assert (run / "wandb_id.txt").read_text() == "drawn"
    assert json.loads((run / "report.json").read_text())["metric"]["name"] == "top1"


def test_verb_ends_with_2_for_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(cli.wandb_sweep, ["recipe=digits_resnet"], monkeypatch) == 2
    assert "nothing to search" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
