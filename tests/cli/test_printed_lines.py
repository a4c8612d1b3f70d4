"""Every command line that README, the pages, `--help` and messages print is one: it composes, and every key in it exists."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from omegaconf import OmegaConf

from qat.cli.check import opened
from qat.cli.recipes import folder, register
from qat.config import Config
from qat.config.choices import CHOICES

ROOT = Path(__file__).parents[2]

#: What stands for a value in a message, by the key.
VALUES = {"quantization": "x86", "recipe": "digits_resnet", "task": "auto", "engines": "[fbgemm]"}

GROUPS = "|".join([*CHOICES, "fp32", "qat", "gate", "benchmark", "trial"])
KEY = re.compile(rf"(?<![\w.])((?:{GROUPS})(?:\.[a-z_0-9]+)+)=")
COMMAND = re.compile(r"qat-(?:train|evaluate|inspect|benchmark|export)((?:\s+(?:-m|'[^']*=[^']*'|[\w./@+~-]+=\S+))+)")


def pages() -> Iterator[tuple[str, str]]:
    """(where, command line) of everything that is written down in code blocks."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "conf" / "config.yaml"]:
        text = path.read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if found := COMMAND.match(line.strip().removeprefix("#").strip()):
                yield path.name, found[1].strip()


def strings() -> Iterator[tuple[str, str]]:
    """(where, text) of every string in the code; what is filled in stands as `X`."""
    for path in sorted((ROOT / "qat").rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
                yield path.name, "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value


def messages() -> Iterator[tuple[str, str]]:
    """(where, command line) of the messages that name one."""
    for where, text in strings():
        for found in COMMAND.finditer(" ".join(text.split())):
            yield where, found[1].strip()


LINES = sorted({*pages(), *messages()})


def plain_overrides(line: str) -> list[str]:
    """The overrides of a line, of a sweep with the first of its values, with something in every place that is left open."""
    tokens = [_trimmed(token) for token in shlex.split(line, comments=True) if "=" in token]
    found = []
    for override in OverridesParser.create().parse_overrides([_filled(token) for token in tokens]):
        value = override.value()
        if isinstance(value, ChoiceSweep):
            first = str(value.list[0])
        elif isinstance(value, IntervalSweep | RangeSweep):
            first = str(value.start)
        elif override.is_sweep_override():  # glob(...): of names
            first = VALUES[override.key_or_group]
        else:
            first = override.get_value_element_as_str()
        if not override.key_or_group.startswith("hydra"):
            found.append(f"{override.get_key_element()}={first}")
    return found


def _trimmed(token: str) -> str:
    """Without the punctuation of the sentence around it."""
    while token[-1] in ".,;)" and not token.endswith("...") and token.count("(") < token.count(")") + (token[-1] != ")"):
        token = token[:-1]
    return token


def _filled(token: str) -> str:
    key, _, value = token.partition("=")
    if key in VALUES and (value in ("...", "X", "NAME") or value.startswith("X,")):
        return f"{key}={VALUES[key]}"
    return f"{key}={value.replace('....', '_.')}" if "..." in value else token


@pytest.mark.parametrize(("where", "line"), LINES, ids=[f"{where}: {line}"[:90] for where, line in LINES])
def test_printed_command_line_composes(where: str, line: str) -> None:
    register()
    with hydra.initialize_config_dir(config_dir=str(folder("conf")), version_base="1.3"):
        overrides = [opened(override) for override in plain_overrides(line)]
        if not {"recipe", "data"} & {override.partition("=")[0] for override in overrides}:
            overrides = ["recipe=digits_resnet", *overrides]  # the settings of an earlier run
        config = hydra.compose("config", overrides=overrides)
    config.recipe = config.output = "named"
    for group in ("data", "model", "launch"):
        for key in OmegaConf.missing_keys(config[group]):
            config[group][key] = "named"
    assert isinstance(OmegaConf.to_object(config), Config)


def known_keys() -> set[str]:
    """Every dotted key of every choice."""
    found: set[str] = set()

    def add(prefix: str, value: object) -> None:
        if is_dataclass(value):
            for field in fields(value):
                found.add(f"{prefix}{field.name}")
                add(f"{prefix}{field.name}.", getattr(value, field.name))

    add("", Config())
    for group, choices in CHOICES.items():
        for choice in choices.values():
            add(f"{group}.", choice)
    return found


def test_keys_that_messages_name_exist() -> None:
    known = known_keys()
    named = {(where, key) for where, text in strings() for key in KEY.findall(text)}
    assert len(named) >= 20, "the messages name many keys"
    free = {key for key in known if key.endswith(("options", "arguments", "callbacks"))}
    wrong = [
        (where, key)
        for where, key in sorted(named)
        if key not in known and not any(key.startswith(f"{name}.") for name in free)
    ]
    assert not wrong


def test_lines_are_found() -> None:
    assert {"README.md", "sweeps.md", "distributed.md", "own_models.md", "config.yaml"} <= {where for where, _ in LINES}
    assert {"native_engine.py", "storage.py"} <= {where for where, _ in LINES}
    assert len(LINES) > 35
