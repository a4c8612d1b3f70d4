"""report.html: one page without a network, from report.json and the pictures of the run."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from qat.report.figures import latency, layers, stages
from qat.report.table import STAGES

TEMPLATE = Path(__file__).with_name("page.html.j2")

#: File suffix -> media type of the pictures that a page may hold.
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


def render(report: Mapping[str, Any], pictures: Sequence[Path] = ()) -> str:
    """The page of a run.

    Args:
        report: content of report.json.
        pictures: files of the run's plots; they become part of the page.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["points"] = lambda value: f"{value:.2f}"
    figures = {"stages": stages(report), "layers": layers(report), "latency": latency(report)}
    return environment.from_string(TEMPLATE.read_text()).render(
        report=report,
        stages=STAGES,
        islands=islands(report["coverage"]["float_ops"]),
        figures={name: _embedded(_svg(figure), ".svg") for name, figure in figures.items()},
        pictures=[(path.stem.replace("_", " "), _embedded(path.read_bytes(), path.suffix)) for path in pictures],
    )


def islands(float_ops: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Float ops by kind and reason: how many there are, and the layers of the first ones."""
    found: dict[tuple[str, str], list[str]] = {}
    for op in float_ops:
        found.setdefault((op["op"].removeprefix("aten.").split(".")[0], op["reason"]), []).append(op["layer"] or op["node"])
    return [
        {"op": name, "reason": reason, "count": len(places), "places": places[:4]}
        for (name, reason), places in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def _svg(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _embedded(content: bytes, suffix: str) -> str:
    return f"data:{MEDIA[suffix]};base64,{base64.b64encode(content).decode()}"
