"""metrics.jsonl: one JSON object per line, flushed at once; the record of a run, whatever other logger is on."""

from __future__ import annotations

import json
from pathlib import Path

from pytorch_lightning.loggers import Logger


class JsonLinesLogger(Logger):
    """Appends every logged metric with its stage and step.

    Args:
        path: the file; a resumed run appends to it.
        stage: `fp32` or `qat`, written into every line.
    """

    def __init__(self, path: Path, *, stage: str) -> None:
        super().__init__()
        self.path = path
        self.stage = stage

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return self.stage

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        append(self.path, {"stage": self.stage, "step": step, **metrics})

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """The configuration has its own file."""


def append(path: Path, record: dict[str, object]) -> None:
    """Append one record."""
    with path.open("a") as handle:
        handle.write(json.dumps(record) + "\n")
