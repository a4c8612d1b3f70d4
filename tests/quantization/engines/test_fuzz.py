"""Random layers at the bound on this machine's kernels; see `tests/fuzz.py` for many."""

from __future__ import annotations

import pytest

from qat.quantization.engines import ENGINES
from qat.quantization.engines.native_engine import NativeEngine
from tests.fuzz import differing


@pytest.mark.parametrize(("engine", "count"), [("fbgemm", 600), ("x86", 200)])
def test_random_layers_at_the_bound_are_exact(engine: str, count: int) -> None:
    assert differing(count, engine=engine) == []


def test_random_layers_without_the_bound_are_found_where_kernels_saturate() -> None:
    engine = ENGINES["fbgemm"]
    assert isinstance(engine, NativeEngine)
    assert any(engine.saturation().layouts.values())
    assert differing(300, bound=False)


@pytest.mark.slow
def test_twenty_thousand_random_layers_at_the_bound_are_exact() -> None:
    assert differing(20_000, seed=1) == []
