from __future__ import annotations

from dataclasses import replace

import pytest

from qat.report.figures import LONGEST_NAME, MOST_LAYERS, latency, layers, stages
from tests.report.reports import make_report

REPORT = make_report()


def test_stages_are_drawn_with_their_intervals() -> None:
    (axes,) = stages(REPORT).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["FP32", "PTQ", "QAT", "INT8"]
    assert [text.get_text() for text in axes.texts] == ["98.61", "97.50", "98.33", "98.06"]
    bars = axes.collections[0].get_segments()  # type: ignore[attr-defined]
    assert [tuple(segment[:, 1]) for segment in bars] == [pytest.approx((96.5, 99.5))] * 4


def test_layers_show_ranges_and_the_tensors_of_least_sqnr() -> None:
    left, right = layers(REPORT).axes
    assert [bar.get_width() for bar in left.patches] == [41.5, 41.5], "an equal tensor is as long as the best"  # type: ignore[attr-defined]
    assert [(bar.get_x(), bar.get_width()) for bar in right.patches] == [(0.0, 2.5), (-8.0, pytest.approx(15.9))]  # type: ignore[attr-defined]
    many = [replace(REPORT.layers[0], layer=f"l{i}", sqnr_db=float(100 - i)) for i in range(90)]
    left, _ = layers(replace(REPORT, layers=many)).axes
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == [f"l{i}" for i in range(90 - MOST_LAYERS, 90)]


def test_layers_are_named_by_the_end_of_long_names() -> None:
    long = ".".join(f"part{i}" for i in range(12))
    left, _ = layers(replace(REPORT, layers=[replace(REPORT.layers[0], layer=name) for name in ("fc", long)])).axes
    short, shown = (label.get_text() for label in left.get_yticklabels())
    assert short == "fc"
    assert len(shown) == LONGEST_NAME
    assert shown[0] == "…"
    assert long.endswith(shown[1:])


def test_latency_has_a_bar_for_fp32_and_every_engine() -> None:
    (axes,) = latency(REPORT).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["FP32 eager", "fbgemm", "x86"]
    assert [bar.get_width() for bar in axes.patches] == [8.0, 2.0, 4.0]  # type: ignore[attr-defined]
    written = [(text.get_text().strip(), text.xy[0]) for text in axes.texts]  # type: ignore[attr-defined]
    assert written == [("8.00 ms", 9.0), ("2.00 ms", 2.5), ("4.00 ms", 4.5)], "behind the whisker"
