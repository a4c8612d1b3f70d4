"""How much a reader has to hold in mind at once: the length of a file, the arguments of a class, what has no type."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FILES = sorted(path for folder in ("qat", "tests", "scripts", "hydra_plugins") for path in (ROOT / folder).rglob("*.py"))
PACKAGE = [path for path in FILES if path.is_relative_to(ROOT / "qat")]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_file_has_at_most_250_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250


@pytest.mark.parametrize("path", PACKAGE, ids=named)
def test_constructors_take_at_most_eight_arguments(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs][1:]
            assert len(given) <= 8, f"line {node.lineno}: {', '.join(argument.arg for argument in given)}"


def test_fewer_than_10_of_1000_lines_say_any() -> None:
    texts = [path.read_text() for path in PACKAGE]
    lines = sum(len(text.splitlines()) for text in texts)
    assert lines > 15_000, "the package was found"
    found = sum(isinstance(node, ast.Name) and node.id == "Any" for text in texts for node in ast.walk(ast.parse(text)))
    assert 1000 * found / lines < 10
