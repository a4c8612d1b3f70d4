"""The pages under docs/ that scripts write: numbers as JSON, and a Markdown page of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qat.environment import environment
from qat.files import write_json, write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"

Content = dict[str, Any]


def publish(name: str, content: Mapping[str, Any], page: Callable[[Content], str]) -> None:
    """Write docs/NAME.json, `content` with where it was measured, and docs/NAME.md."""
    whole = {"environment": asdict(environment()), **content}
    write_json(DOCS / f"{name}.json", whole)
    write_text(DOCS / f"{name}.md", page(whole))


def measured_on(content: Content, *libraries: str) -> str:
    """Where it was measured, and with which libraries beside torch, as a sentence."""
    env = content["environment"]
    versions = [f"{name} {env['packages'][name]}" for name in libraries]
    found = [env["cpu"], env["isa"], f"{env['threads']} threads", f"torch {env['torch']}", *versions, f"commit {env['commit']}"]
    return f"{', '.join(found)}."


def why_float(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """The section of reasons; `float_ops` of a result see `matrix.summary`."""
    reasons = sorted({f"`{n}`: {t.split(': ', 1)[1]}" for r in results for n, t in r.get("float_ops", {}).items()})
    return ["", "## Why ops stay float", "", *(f"* {reason}" for reason in reasons)]
