from __future__ import annotations

import json
import math
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from qat.errors import ConfigError
from qat.sweep.objective import MAXIMIZE, MEASURED, MINIMIZE, directions, finite, values
from tests.report.reports import make_report


@pytest.fixture(scope="module")
def report(finished: Path) -> dict[str, Any]:
    """Of a real run."""
    content: dict[str, Any] = json.loads((finished / "report.json").read_text())
    return content


def numbers(found: Any, path: str = "") -> dict[str, float]:
    """Every number in nested objects, by its dotted path."""
    if isinstance(found, dict):
        return {key: value for name, part in found.items() for key, value in numbers(part, f"{path}.{name}").items()}
    return {path[1:]: float(found)} if isinstance(found, int | float) and not isinstance(found, bool) else {}


def test_every_measured_path_of_a_real_report_yields_its_number(report: dict[str, Any]) -> None:
    every, engines = numbers(report), list(report["engines"])
    for pattern, way in MEASURED.items():
        paths = [path for path in every if fnmatchcase(path, pattern)]
        assert paths, f"no number of a report is a {pattern}"
        assert directions(paths, engines) == [way] * len(paths)
        assert values(paths, report) == [every[path] for path in paths]


def test_ways_are_those_of_better_and_worse() -> None:
    """Accuracy, agreement and speed-up up; loss of accuracy, milliseconds and bytes down."""
    small = ("drop", "latency", "bytes", "ratio")
    assert {path: any(word in path for word in small) for path in MEASURED} == {
        path: way == MINIMIZE for path, way in MEASURED.items()
    }
    assert set(MEASURED.values()) == {MAXIMIZE, MINIMIZE}


@pytest.mark.parametrize("stage", ["fp32", "ptq", "fake_quant"])
@pytest.mark.parametrize("path", ["stages.{}", "metrics.{}.top1"])
def test_what_is_not_shipped_is_no_objective(stage: str, path: str, report: dict[str, Any]) -> None:
    objective = path.format(stage)
    assert objective in numbers(report), "a report has the number; a search must not see it"
    with pytest.raises(ConfigError, match=r"nothing that a report measures on the INT8 model.*not what is shipped"):
        directions([objective], report["engines"])


def test_no_other_number_of_a_report_is_an_objective(report: dict[str, Any]) -> None:
    others = [path for path in numbers(report) if not any(fnmatchcase(path, pattern) for pattern in MEASURED)]
    assert {"simulation.agreement", "training.qat_step_ms", "engines.fbgemm.fp32_latency_ms.p50"} <= set(others)
    for path in others:
        with pytest.raises(ConfigError, match=r"stages\.int8"):
            directions([path], report["engines"])


@pytest.mark.parametrize("objectives", [[], ["accuracy"], ["int8"], ["stages"], [""], ["stages.int8.top1"]])
def test_objective_that_does_not_exist_is_refused_with_those_that_do(objectives: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"stages\.int8"):
        directions(objectives, ["fbgemm"])


@pytest.mark.parametrize("path", ["speedup", "int8", "agreement", "latency_ms.p50", "latency_ms.p95"])
def test_engine_that_does_not_run_is_refused_before_any_training(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"engines\.x86\.{path}.*engines=\['fbgemm', 'qnnpack'\]; name one of them"):
        directions(["stages.int8", f"engines.x86.{path}"], ["fbgemm", "qnnpack"])


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("metrics.int8.map", r"no 'metrics\.int8\.map'; there it has top1, top5"),
        ("engines.qnnpack.int8", r"no 'engines\.qnnpack'; there it has fbgemm, x86"),
        ("drops.f1.value", r"no 'drops\.f1'; there it has top1, top5"),
        ("stages.int8.top1", r"there it has nothing"),
        ("drop.ci95", r"no number in the report but list"),
    ],
)
def test_path_that_a_report_lacks_names_what_is_there(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        values([path], make_report().to_json())


def test_values_keep_their_order_and_what_is_no_number() -> None:
    content = make_report().to_json()
    content["stages"]["int8"] = math.nan
    reached = values(["artifact.bytes", "stages.int8", "agreement"], content)
    assert reached[0] == 250_000
    assert math.isnan(reached[1])
    assert reached[2] == 0.98
    assert not finite(reached)
    assert finite(reached[::2])
    assert not finite([math.inf])
