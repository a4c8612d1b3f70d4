"""The detector that docs/own_models.md shows, trained by the command that it shows, to an artifact that finds boxes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import qat
from tests.contract import check_report
from tests.runs import train

PAGE = (Path(__file__).parents[1] / "docs" / "own_models.md").read_text()


def test_detector_of_the_page_trains_to_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (command,) = re.findall(r"```\nqat-train (data=shapes .*?)\n```", PAGE)
    (tmp_path / "nets.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    short = ["fp32.max_epochs=4", "fp32.lr=3e-3", "qat.max_epochs=1", "data.train=160", "data.test=40", "data.batch_size=16"]
    gates = [
        "gate.max_drop=null",
        "gate.enforce=false",
        "engines=[fbgemm]",
        "benchmark.repeats=2",
        "progress=false",
        "output=run",
    ]
    try:
        assert train([*command.split(), *short, *gates], monkeypatch) == 0
    finally:
        sys.modules.pop("nets", None)
    report = json.loads(Path("run/report.json").read_text())
    check_report(report)
    assert (report["task"], report["n_eval"]) == ("detection", 40)
    assert report["coverage"]["macs_int8"] == 1.0
    assert all(gate["passed"] for gate in report["gates"] if gate["name"].startswith("kernel/"))
    logged = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [line["val/loss"] for line in logged if line["stage"] == "fp32" and "val/loss" in line]
    assert losses[-1] < 0.8 * losses[0], "its own criterion is what is trained"
    assert qat.verify("run/artifact").passed
    assert qat.load_detector("run/artifact").labels == ("disc", "square", "triangle")
