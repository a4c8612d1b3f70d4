from __future__ import annotations

import json

import pytest

from tests.contract import check_report
from tests.report.reports import make_report


def test_report_json_is_complete_and_plain() -> None:
    content = make_report().to_json()
    check_report(content)
    assert json.loads(json.dumps(content)) == content


def test_report_json_keeps_the_numbers() -> None:
    report = make_report()
    content = report.to_json()
    assert content["stages"] == pytest.approx(report.stages, abs=5e-5)
    assert content["drop"] == {"value": pytest.approx(report.drop.value, abs=5e-5), "ci95": [-0.1, 1.2]}
    assert content["simulation"] == pytest.approx({"delta": 0.27777, "agreement": 0.9971}, abs=5e-5)
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
    assert metrics["simulation/agreement"] == report.simulation_agreement
    assert metrics["artifact/bytes"] == 250_000
