from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from qat.evaluation.benchmark import measure


def test_measure_calls_every_candidate_in_turn() -> None:
    calls: list[str] = []
    measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=2)
    assert calls == ["a", "b"] * 5


def test_measure_gives_median_and_95th_percentile_without_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    durations = iter([9.0, 9.0, *np.random.default_rng(0).random(40).tolist()])
    taken: list[float] = []

    def call() -> None:
        taken.append(next(durations))
        now[0] += taken[-1]

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    found = measure({"only": call}, repeats=40, warmup=2)["only"]
    assert (found.p50, found.p95) == pytest.approx(tuple(1e3 * np.percentile(taken[2:], [50, 95])))


def test_measure_charges_each_candidate_with_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def takes(seconds: float) -> Callable[[], None]:
        def call() -> None:
            now[0] += seconds

        return call

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    found = measure({"slow": takes(3.0), "quick": takes(0.5)}, repeats=4)
    assert found["slow"].p50 == pytest.approx(3000.0)
    assert found["quick"].p95 == pytest.approx(500.0)


def test_measure_builds_no_graph_and_reports_progress() -> None:
    grad: list[bool] = []
    rounds: list[int] = []
    measure({"a": lambda: grad.append(torch.is_grad_enabled())}, repeats=2, warmup=1, progress=lambda: rounds.append(1))
    assert grad == [False] * 3
    assert len(rounds) == 3
