"""report.html says what report.json says, needs no network, and opens in a real browser without a complaint."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from qat.quantization.analysis.coverage import FloatOp
from qat.report.disagreements import SIDE, STRIP, strip
from qat.report.html import Island, islands, render
from qat.report.report import Disagreement
from tests.report.reports import make_report

REPORT = make_report()


def test_page_holds_the_numbers_of_the_report_and_escapes_what_users_wrote() -> None:
    page = render(REPORT)
    for number in (
        "98.61",
        "98.06",
        "+0.56",
        "4.00×",
        "0.25×",
        "[-0.10,\N{NO-BREAK SPACE}+1.20]",
        "+0.12 [-0.50,\N{NO-BREAK SPACE}+0.50]",
    ):
        assert number in page, number
    assert "image &lt;7&gt;" in page
    assert "drop +0.556 points, budget 0.5" in page
    assert page.count('class="failed"') == 1
    assert "gelu" in page
    assert "no kernel" in page


def test_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "boxes.png").write_bytes(b"not looked at")
    page = render(REPORT, [tmp_path / "boxes.png"])
    assert page.count("<img") == 4
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert not re.findall(r"<script|@import|url\(", page)


def test_page_shows_every_disagreement_with_its_picture_and_truth(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 0, 200)]
    strip([Image.new("RGB", (8, 8), colour) for colour in colours]).save(tmp_path / STRIP)
    samples = [
        Disagreement(sample=f"<script>{name}</script>", truth="a & b", fp32="cat", int8="") for name in ("first", "second")
    ]
    page = render(replace(REPORT, disagreements=samples), [tmp_path / STRIP])
    shown = page.partition('<div class="samples">')[2]
    found = re.findall(
        r'src="data:image/png;base64,([^"]+)".*?<p>(.*?)</p>.*?<dd>(.*?)</dd>.*?<dd>(.*?)</dd>.*?<dd>(.*?)</dd>', shown, re.S
    )
    assert [row[1:] for row in found] == [
        (f"&lt;script&gt;{name}&lt;/script&gt;", "a &amp; b", "cat", "—") for name in ("first", "second")
    ]
    pictures = [Image.open(BytesIO(base64.b64decode(row[0]))) for row in found]
    assert [picture.getcolors() for picture in pictures] == [[(SIDE * SIDE, colour)] for colour in colours]
    assert page.count("<img") == 3 + 2, "the strip itself is not shown"
    assert "<script" not in page


def test_page_says_that_boxes_differ_where_their_counts_do_not() -> None:
    sample = Disagreement(sample="a.jpg", truth="1 cell", fp32="1 cell", int8="1 cell")
    page = render(replace(REPORT, disagreements=[sample]))
    assert page.count("<dd>1 cell</dd>") == 2
    assert page.count("<dd>1 cell, other boxes</dd>") == 1


def test_page_of_a_run_in_which_nothing_differs(tmp_path: Path) -> None:
    coverage = replace(REPORT.coverage, float_ops=())
    page = render(replace(REPORT, disagreements=[], layers=[], coverage=coverage))
    assert "In none of the cases." in page


def test_islands_group_ops_by_kind_and_reason() -> None:
    ops = [FloatOp(op="aten.gelu.default", node="g", layer=f"l{i}", reason="no kernel", macs=0) for i in range(6)]
    ops.append(FloatOp(op="aten.add.Tensor", node="a", layer="", reason="an input is float", macs=0))
    assert islands(ops) == [
        Island(op="gelu", reason="no kernel", count=6, places=("l0", "l1", "l2", "l3")),
        Island(op="add", reason="an input is float", count=1, places=("a",)),
    ]


def _chromium() -> str:
    """A Chromium of this machine; without one the test is skipped, and says so."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


@pytest.mark.parametrize("width", [1280, 390])
def test_page_opens_in_a_browser_without_a_complaint_and_fits(width: int, finished_shapes: Path, tmp_path: Path) -> None:
    command = [_chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    page = (finished_shapes / "report.html").resolve()
    probe = page.read_text().replace(
        "</body>",
        "<script>document.title = [document.documentElement.scrollWidth <= window.innerWidth,"
        "[...document.images].every(image => image.complete && image.naturalWidth > 0),"
        "document.getElementById('int8').textContent].join(' ')</script></body>",
    )
    (tmp_path / "page.html").write_text(probe)
    done = subprocess.run(
        [*command, "--enable-logging=stderr", "--virtual-time-budget=5000", f"--window-size={width},900", "--dump-dom",
         str(tmp_path / "page.html")],
        capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    shown = re.search(r'id="int8">([\d.]+)<', page.read_text())
    assert shown is not None
    assert title.group(1) == f"true true {shown.group(1)}"
