"""report.html: one page without a network, from report.json and the pictures of the run."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from qat.quantization.analysis.coverage import FloatOp
from qat.report.disagreements import STRIP, squares
from qat.report.figures import latency, layers, stages
from qat.report.report import Drop, Report
from qat.report.table import PREDICTIONS, STAGES

#: File suffix -> media type of the pictures that a page may hold.
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True, kw_only=True)
class Island:
    """Float ops of one kind for one reason: how many, and the layers of the first ones."""

    op: str
    reason: str
    count: int
    places: tuple[str, ...]


def render(report: Report, pictures: Sequence[Path] = ()) -> str:
    """The page of a run.

    Args:
        pictures: files of the run's plots; they become part of the page, the strip of disagreements piece by piece.
    """
    return page(
        "page.html.j2",
        {"stages": stages(report), "layers": layers(report), "latency": latency(report)},
        report=report,
        environment=asdict(report.environment),
        predictions=PREDICTIONS.get(report.task, "cases"),
        islands=islands(report.coverage.float_ops),
        pictures=[
            (path.stem.replace("_", " "), _embedded(path.read_bytes(), path.suffix)) for path in pictures if path.name != STRIP
        ],
        thumbnails=[thumbnail for path in pictures if path.name == STRIP for thumbnail in _thumbnails(path)],
    )


def page(template: str, figures: Mapping[str, Figure], **values: object) -> str:
    """A page of a template beside this file; figures become part of it, and what users wrote is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = lambda value: f"{value:.2f}"
    environment.filters["drop"] = _drop
    embedded = {name: _embedded(_svg(figure), ".svg") for name, figure in figures.items()}
    return environment.get_template(template).render(stages=STAGES, figures=embedded, **values)


def islands(float_ops: Sequence[FloatOp]) -> list[Island]:
    """Float ops by kind and reason: how many there are, and the layers of the first ones."""
    found: dict[tuple[str, str], list[str]] = {}
    for op in float_ops:
        found.setdefault((op.op.removeprefix("aten.").split(".")[0], op.reason), []).append(op.layer or op.node)
    return [
        Island(op=name, reason=reason, count=len(places), places=tuple(places[:4]))
        for (name, reason), places in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def _drop(drop: Drop) -> str:
    """Points with their interval; a line may end between the two only."""
    low, high = drop.ci95
    return f"{drop.value:+.2f} [{low:+.2f},\N{NO-BREAK SPACE}{high:+.2f}]"


def _thumbnails(path: Path) -> list[str]:
    """Every picture of a strip by itself."""
    with Image.open(path) as sheet:
        return [_embedded(_png(square), ".png") for square in squares(sheet)]


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _svg(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _embedded(content: bytes, suffix: str) -> str:
    return f"data:{MEDIA[suffix]};base64,{base64.b64encode(content).decode()}"
