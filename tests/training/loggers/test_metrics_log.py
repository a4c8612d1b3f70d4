from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qat.training.loggers.metrics_log import JsonLinesLogger, append
from tests.trainings import quick_fit, small_module, small_network


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_logged_metric_is_a_line_with_its_stage_and_step(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    quick_fit(small_module(small_network()), tmp_path / "ckpt", epochs=2, loggers=[JsonLinesLogger(file, stage="fp32")])
    lines = _lines(file)
    assert {line["stage"] for line in lines} == {"fp32"}
    validated = [line for line in lines if "val/top1" in line]
    assert [line["step"] for line in validated] == [5, 11]
    assert all(0 <= line["val/top1"] <= 100 and line["val/loss"] > 0 for line in validated)
    assert [line["step"] for line in lines if "train/loss" in line] == [9]


def test_two_stages_share_the_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    JsonLinesLogger(file, stage="fp32").log_metrics({"a": 1.0}, step=3)
    JsonLinesLogger(file, stage="qat").log_metrics({"a": 2.0}, step=0)
    append(file, {"stage": "summary", "step": None, "int8/top1": 90.0})
    assert _lines(file) == [
        {"stage": "fp32", "step": 3, "a": 1.0},
        {"stage": "qat", "step": 0, "a": 2.0},
        {"stage": "summary", "step": None, "int8/top1": 90.0},
    ]


def test_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    logger = JsonLinesLogger(tmp_path / "metrics.jsonl", stage="qat")
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step=step)
        assert len(_lines(logger.path)) == step + 1


def test_logger_names_itself_and_leaves_the_configuration_to_its_file(tmp_path: Path) -> None:
    logger = JsonLinesLogger(tmp_path / "metrics.jsonl", stage="qat")
    logger.log_hyperparams({"lr": 1.0})
    assert (logger.name, logger.version) == ("metrics", "qat")
    assert not logger.path.exists()
