"""A W&B run, read back from its file with W&B's own messages; and W&B that fails, which nobody notices but the log."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from qat.errors import DivergedError
from qat.training.loggers.build import closed_on_error
from qat.training.loggers.wandb_run import RUN_ID, WandbRun, has_key
from tests.report.reports import make_report
from tests.training.loggers.wandb_records import records_of, values_of
from tests.training.loggers.wandb_server import serving

REPORT = make_report()

#: Where W&B notes the address of its process.
SERVICE = "WANDB_SERVICE"


@pytest.fixture(autouse=True)
def environment_without_wandb() -> Iterator[None]:
    before = dict(os.environ)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR", "WANDB_RUN_ID", "WANDB_BASE_URL"):
        os.environ.pop(name, None)
    os.environ["NETRC"] = "/nonexistent/netrc"
    yield
    service = {name: os.environ[name] for name in (SERVICE,) if name in os.environ}
    before.pop(SERVICE, None)  # a test may have ended the one that was there
    os.environ.clear()
    os.environ.update({**before, **service})


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """W&B remembers the environment of the first run of a process, its server among it."""
    wandb.teardown()
    yield
    wandb.teardown()


def _folder(root: Path) -> Path:
    (root / "artifact").mkdir(parents=True)
    (root / "artifact" / "manifest.json").write_text(json.dumps({"schema_version": 1, "labels": ["a"]}))
    (root / "plots").mkdir()
    (root / "plots" / "curve.svg").write_text("<svg></svg>")
    return root


def _logger(folder: Path, **options: Any) -> WandbRun:
    return WandbRun(folder, project="p", run_name="r", config={"qat": {"lr": 0.5}}, tags=["t"], group="g", **options)


def test_offline_run_holds_configuration_metrics_tables_and_artifact(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "run")
    logger = _logger(folder)
    logger.log_metrics({"train/loss": 2.0}, step=0)
    logger.stage = "qat"
    logger.log_metrics({"train/loss": 1.0}, step=0)
    logger.log_report(REPORT)
    logger.finish()
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    found = records_of(moved)
    (run,) = found["run"]
    assert (run.project, run.display_name, run.run_group, list(run.tags)) == ("p", "r", "g", ["t"])
    assert values_of(run.config.update)["qat"] == {"lr": 0.5}
    history = [values_of(entry.item) for entry in found["history"]]
    assert {"fp32/train/loss": 2.0, "fp32/step": 0}.items() <= history[0].items()
    assert {"qat/train/loss": 1.0, "qat/step": 0}.items() <= history[1].items()
    keys = [key for entry in history for key in entry]
    for name in ("stages", "layers", "plots/curve"):
        assert any(key.startswith(f"{name}/") or key == name for key in keys), name
    summary: dict[str, Any] = {}
    for entry in found["summary"]:
        summary |= values_of(entry.update)
    assert summary["int8/drop"] == pytest.approx(REPORT.drop.value)
    assert summary["int8/speedup"] == 4.0
    (artifact,) = [a for a in found["artifact"] if a.type == "model"]
    assert (artifact.name, set(artifact.aliases)) == ("test-int8", {"latest", "int8"}), "a gate failed: it is not the best"
    assert json.loads(artifact.metadata) == {"schema_version": 1, "labels": ["a"]}
    paths = [moved / entry.local_path for a in found["artifact"] for entry in a.manifest.contents]
    assert len(paths) == 3, "two tables and the manifest"
    assert all(path.is_file() and path.is_relative_to(moved) for path in paths), "they travelled along"


def test_resumed_training_continues_the_same_run(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    for _ in range(2):
        logger = _logger(folder)
        logger.log_metrics({"train/loss": 1.0}, step=0)
        logger.finish()
    identifier = (folder / RUN_ID).read_text()
    assert {run.run_id for run in records_of(folder)["run"]} == {identifier}


def test_wandb_that_fails_is_logged_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("wandb.init", full)
    logger = _logger(_folder(tmp_path))
    with caplog.at_level(logging.WARNING):
        logger.log_metrics({"train/loss": 1.0}, step=0)
        logger.log_report(REPORT)
        logger.finish()
    assert [record.message for record in caplog.records] == [
        "Weights & Biases failed and is left aside: OSError: No space left on device"
    ]


@pytest.mark.parametrize(
    ("variables", "offline"),
    [
        ({}, True),
        ({"WANDB_API_KEY": "k"}, False),
        ({"WANDB_MODE": "online"}, False),
        ({"WANDB_MODE": "offline"}, True),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "k"}, True),
    ],
)
def test_run_is_offline_unless_there_is_a_key(variables: dict[str, str], offline: bool, tmp_path: Path) -> None:
    os.environ.update(variables)
    assert _logger(tmp_path).offline is offline


def test_key_is_found_where_login_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine wandb.example login user password secret\n")
    os.environ["NETRC"] = str(path)
    assert not has_key()
    os.environ["WANDB_BASE_URL"] = "https://wandb.example:8080"
    assert has_key()
    path.write_text("machin wandb.example")
    assert not has_key(), "a damaged file is no key"


@pytest.mark.usefixtures("fresh_wandb")
def test_server_that_is_not_reached_leaves_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing listens on port 9."""
    os.environ.update(WANDB_API_KEY="a" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    monkeypatch.setattr("qat.training.loggers.wandb_run.INIT_TIMEOUT", 1.0)
    logger = _logger(_folder(tmp_path))
    with caplog.at_level(logging.WARNING):
        logger.log_metrics({"train/loss": 1.0}, step=0)
        logger.log_report(REPORT)
        logger.finish()
    assert [record.message.partition(":")[0] for record in caplog.records if record.name.startswith("qat")] == [
        "Weights & Biases is not reached, the run is written offline"
    ]
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    found = records_of(offline)
    assert {run.run_id for run in found["run"]} == {(tmp_path / RUN_ID).read_text()}
    assert found["artifact"]


def test_offline_run_that_was_copied_elsewhere_is_uploaded_whole(tmp_path: Path) -> None:
    """By `wandb sync`, to a server that keeps what comes; the folder where the run was made is gone."""
    folder = _folder(tmp_path / "run")
    logger = _logger(folder)
    logger.log_metrics({"train/loss": 2.0}, step=0)
    logger.log_report(REPORT)
    logger.finish()
    manifest = (folder / "artifact" / "manifest.json").read_bytes()
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    wandb.teardown()  # else `wandb sync` is done by this process's service, from this working folder
    with serving() as server:
        command = [str(Path(sys.executable).parent / "wandb"), "sync", "--yes", *map(str, moved.glob("wandb/offline-run-*"))]
        environment = {**os.environ, "WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.url}
        done = subprocess.run(command, cwd=moved, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert server.files["art/manifest.json"] == manifest
    assert {
        "art/stages.table.json",
        "art/layers.table.json",
        "file/config.yaml",
        "file/wandb-summary.json",
    } <= server.files.keys()
    assert any(name.startswith("file/media/html/plots/curve") for name in server.files)
    assert len(server.asked_for("CommitArtifact")) == 3
    assert server.asked_for("UpsertBucket")[0]["name"] == (moved / RUN_ID).read_text()


@pytest.mark.usefixtures("fresh_wandb")
def test_online_run_uploads_the_artifact_even_if_there_is_no_registry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        os.environ.update(WANDB_API_KEY="a" * 40, WANDB_BASE_URL=server.url)
        logger = _logger(_folder(tmp_path))
        with caplog.at_level(logging.WARNING):
            logger.log_metrics({"train/loss": 1.0}, step=0)
            logger.log_report(REPORT)
            logger.finish()
    assert not logger.failed
    ours = [record.message for record in caplog.records if record.name.startswith("qat")]
    assert len(ours) == 1
    assert ours[0].startswith("the artifact is logged but not in the registry wandb-registry-model")
    created = [asked["input"] for asked in server.asked_for("CreateArtifact")]
    (model,) = [artifact for artifact in created if artifact["artifactTypeName"] == "model"]
    assert {alias["alias"] for alias in model["aliases"]} == {"latest", "int8"}
    assert json.loads(model["metadata"]) == {"schema_version": 1, "labels": ["a"]}
    assert server.files["art/manifest.json"] == (tmp_path / "artifact" / "manifest.json").read_bytes()


def test_run_of_a_sweep_takes_the_id_that_the_agent_has_chosen(tmp_path: Path) -> None:
    os.environ["WANDB_RUN_ID"] = "chosen"
    logger = _logger(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, step=0)
    logger.finish()
    assert (tmp_path / RUN_ID).read_text() == "chosen"


def test_run_that_an_error_ended_is_closed_as_failed(tmp_path: Path) -> None:
    logger = _logger(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, step=0)
    with pytest.raises(DivergedError), closed_on_error([logger]):
        raise DivergedError("nan")
    (end,) = records_of(tmp_path)["exit"]
    assert end.exit_code == 3


def test_second_run_of_a_process_keeps_its_files_in_its_own_folder(tmp_path: Path) -> None:
    for name in ("first", "second"):
        logger = _logger(_folder(tmp_path / name))
        logger.log_metrics({"train/loss": 1.0}, step=0)
        logger.finish()
    assert [len(records_of(tmp_path / name)["run"]) for name in ("first", "second")] == [1, 1]
