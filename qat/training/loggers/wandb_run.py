"""Weights & Biases: one run per training, and never a reason for a training to stop."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
from pytorch_lightning.loggers import Logger

from qat.report.report import Report
from qat.training.loggers.wandb_file import make_portable_

_log = logging.getLogger(__name__)

#: Where the id of a run stands in its folder, so that a resumed training continues it.
RUN_ID = "wandb_id.txt"

#: Seconds after which a server that does not answer counts as not reached.
INIT_TIMEOUT = 30.0

#: W&B's registry of models, which every organization has.
REGISTRY = "wandb-registry-model"

STAGES = ("fp32", "qat")  # those that train; each has its own step


class WandbRun(Logger):
    """A run of W&B; its files stay in the run folder. WANDB_MODE says whether it is online, else whether there is a key.

    When the server cannot be reached the run is written offline instead, for a later `wandb sync`. Whatever else W&B raises (a
    full disk, ...) is written to the log once, and from then on nothing is sent.

    Args:
        folder: the run folder.
        project, run_name, tags, group: as W&B shows them.
        config: plain nested values.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: str,
        run_name: str,
        config: Mapping[str, object],
        tags: Sequence[str] = (),
        group: str | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder.resolve()  # the process of W&B that writes the files may have another working folder
        self.offline = os.environ.get("WANDB_MODE", "online" if has_key() else "offline") in ("offline", "dryrun")
        self.failed = False
        #: What trains at the moment; names and steps of what is logged belong to it.
        self.stage = STAGES[0]
        self._arguments: dict[str, Any] = {
            "project": project,
            "name": run_name,
            "config": dict(config),
            "tags": list(tags),
            "group": group,
        }
        self._run: wandb.Run | None = None

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str | None:
        return None if self._run is None else str(self._run.id)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._sending() as run:
            run.log({**{f"{self.stage}/{name}": value for name, value in metrics.items()}, f"{self.stage}/step": step})

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """The configuration is given at the start."""

    def log_report(self, report: Report) -> None:
        """The end of a training: summary, tables, pictures, and the INT8 artifact.

        Pictures and artifact are those in the run folder.
        """
        with self._sending() as run:
            run.summary.update(report.logged())
            run.log({"stages": stage_table(report), "layers": layer_table(report)})
            for path in sorted((self.folder / "plots").glob("*")):
                picture = wandb.Image(str(path)) if path.suffix == ".png" else wandb.Html(path.read_text(), inject=False)
                run.log({f"plots/{path.stem}": picture})
        with self._sending() as run:
            self._log_artifact(run, report)

    def finish(self, *, exit_code: int = 0) -> None:
        """Close the run, also one that has failed: left open it would take the metrics of a sweep's next run.

        Args:
            exit_code: W&B shows a run with another one than 0 as failed.
        """
        run, self._run = self._run, None
        if run is None:
            return
        try:
            run.finish(exit_code=exit_code)
            if self.offline and not self.failed:
                make_portable_(self.folder)
                _log.info("W&B run is offline; to upload it: cd %s && wandb sync wandb/offline-run-*", self.folder)
        except Exception as error:  # as in _sending
            self._leave_aside(error)

    def _log_artifact(self, run: wandb.Run, report: Report) -> None:
        folder = self.folder / "artifact"
        manifest = json.loads((folder / "manifest.json").read_text())
        name = re.sub(r"[^\w.-]", "-", f"{report.recipe}-int8")
        artifact = wandb.Artifact(name, type="model", metadata=manifest)
        artifact.add_dir(str(folder))
        best = [] if report.failed else ["best"]
        logged = run.log_artifact(artifact, aliases=["latest", "int8", *best])
        if self.offline:
            return
        try:
            run.link_artifact(logged, f"{REGISTRY}/{name}")
        except Exception as error:  # not every server has a registry, and not everybody may write there
            _log.warning("the artifact is logged but not in the registry %s: %s: %s", REGISTRY, type(error).__name__, error)

    @contextmanager
    def _sending(self) -> Iterator[Any]:
        """The open run for a block of calls; what fails in it is logged, and ends all further sending."""
        try:
            if self._run is None and not self.failed:
                self._run = self._start()
        except Exception as error:
            self._leave_aside(error)
        try:
            yield _Nothing() if self.failed else self._run
        except Exception as error:  # wandb raises its own types, requests', OSError and others
            self._leave_aside(error)

    def _leave_aside(self, error: Exception) -> None:
        if not self.failed:
            _log.warning("Weights & Biases failed and is left aside: %s: %s", type(error).__name__, error)
        self.failed = True

    def _start(self) -> wandb.Run:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ["WANDB_DATA_DIR"] = str(self.folder)  # not setdefault: a sweep has several runs in one process
        marker = self.folder / RUN_ID
        fresh = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)  # the agent of a W&B sweep has chosen one
        identifier = marker.read_text().strip() if marker.is_file() else fresh
        try:
            run = self._init(identifier)
        except Exception as error:  # as in _sending
            if self.offline:
                raise
            _log.warning("Weights & Biases is not reached, the run is written offline: %s: %s", type(error).__name__, error)
            self.offline = True
            wandb.teardown()  # its process holds the id for the run that has not begun
            run = self._init(identifier)
        marker.write_text(str(run.id))
        for stage in STAGES:
            run.define_metric(f"{stage}/step", hidden=True)
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        return run

    def _init(self, identifier: str) -> wandb.Run:
        return wandb.init(
            id=identifier,
            dir=str(self.folder),
            mode="offline" if self.offline else "online",
            resume=None if self.offline else "allow",
            settings=wandb.Settings(console="off", silent=True, init_timeout=INIT_TIMEOUT),
            **self._arguments,
        )


def has_key() -> bool:
    """Whether W&B would find a key without asking for one: in WANDB_API_KEY, or in netrc, where `wandb login` leaves it."""
    if "WANDB_API_KEY" in os.environ:
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, NetrcParseError):
        return False


class _Nothing:
    """Takes every call that a run takes."""

    def __getattr__(self, name: str) -> object:
        return self

    def __call__(self, *_: object, **__: object) -> object:
        return self


def stage_table(report: Report) -> wandb.Table:
    """FP32, PTQ, QAT and INT8 per engine."""
    stages = report.stages
    columns: list[str | int] = [
        "engine",
        "metric",
        "FP32",
        "PTQ",
        "QAT",
        "INT8",
        "drop",
        "agreement",
        "speed-up",
        "FP32 ms",
        "INT8 ms",
    ]
    rows = [
        [
            name,
            report.metric.name,
            stages["fp32"],
            stages["ptq"],
            stages["fake_quant"],
            engine.int8,
            stages["fp32"] - engine.int8,
            engine.agreement,
            engine.speedup,
            engine.fp32_latency_ms.p50,
            engine.latency_ms.p50,
        ]
        for name, engine in report.engines.items()
    ]
    return wandb.Table(columns=columns, data=rows)


def layer_table(report: Report) -> wandb.Table:
    """Every tensor on a grid with its range and SQNR, and every op that stays float with its reason."""
    columns: list[str | int] = ["layer", "tensor", "runs as", "low", "high", "max steps", "SQNR dB", "float dB", "why float"]
    rows: list[list[object]] = [
        [row.layer, row.tensor, "INT8", row.low, row.high, row.max_steps, row.sqnr_db, row.float_db, None]
        for row in report.layers
    ]
    rows += [[op.layer, op.node, "float", None, None, None, None, None, op.reason] for op in report.coverage.float_ops]
    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
