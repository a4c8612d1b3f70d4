from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from qat.errors import ConfigError
from qat.report.report import Report
from tests.contract import check_report
from tests.report.reports import make_report


def test_report_json_is_complete_and_plain() -> None:
    content = make_report().to_json()
    check_report(content)
    assert json.loads(json.dumps(content)) == content


def test_report_comes_back_from_its_json_as_it_was_written() -> None:
    written = json.loads(json.dumps(make_report().to_json()))
    again = Report.from_json(written)
    assert again.to_json() == written
    assert again.environment == make_report().environment
    assert again.failed == ["accuracy"]
    assert again == Report.from_json({**written, "of_a_later_version": 1})


def test_nan_comes_back_as_nan() -> None:
    report = replace(make_report(), stages={**make_report().stages, "int8": math.nan})
    assert math.isnan(Report.from_json(json.loads(json.dumps(report.to_json()))).stages["int8"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "it: Input should be a dictionary"),
        (
            {**make_report().to_json(), "n_eval": "many", "drop": {"value": 1.0}},
            r"n_eval: .*valid integer.*; drop\.ci95: Field required",
        ),
        ({**make_report().to_json(), "engines": {}}, "engines: .*no engine was evaluated"),
    ],
    ids=["list", "types", "engines"],
)
def test_what_is_no_report_is_refused_by_key(content: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Report.from_json(content)


def test_report_json_keeps_the_numbers() -> None:
    report = make_report()
    content = report.to_json()
    assert content["stages"] == pytest.approx(report.stages, abs=5e-5)
    assert content["drop"] == {"value": pytest.approx(report.drop.value, abs=5e-5), "ci95": [-0.1, 1.2]}
    assert content["simulation"] == {"delta": 0.27777, "agreement": 0.9971}
    assert (content["n_eval"], content["seed"], content["metric"]["name"]) == (360, 3, "top1")
    assert content["coverage"]["float_ops"][0]["reason"] == "no kernel"
    assert [gate["passed"] for gate in content["gates"]] == [True, False]


def test_speed_up_is_fp32_over_int8() -> None:
    engines = make_report().to_json()["engines"]
    assert (engines["fbgemm"]["speedup"], engines["x86"]["speedup"]) == (8.0 / 2.0, 8.0 / 4.0)


def test_metrics_have_the_names_that_loggers_use() -> None:
    report = make_report()
    metrics = report.logged()
    assert {name: metrics[f"{name}/top1"] for name in report.stages} == report.stages
    assert metrics["int8/top5"] == 99.5
    assert metrics["int8/drop"] == report.drop.value
    assert metrics["int8/agreement"] == 1.0
    assert metrics["int8/speedup"] == 4.0
    assert metrics["simulation/agreement"] == report.simulation.agreement
    assert metrics["artifact/bytes"] == 250_000
