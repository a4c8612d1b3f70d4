"""Whole-graph engines: a runtime that compiles programs takes part in everything that engines do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qat.deploy.artifact import load, save_artifact, verify
from qat.errors import InputError
from qat.quantization.analysis.parity import engine_parity
from qat.quantization.engines import ENGINES, lower
from qat.quantization.engines.whole import Compiled, WholeGraphEngine
from qat.quantization.program.program import Int8Program
from tests.quantization.networks import CASES, converted


class Through(WholeGraphEngine):
    """Another runtime, as far as anybody can tell: it hands the program to `reference`."""

    name = "through"
    exact = True
    shift = 0.0

    def refusal(self, program: Int8Program) -> str | None:
        return None

    def compile(self, program: Int8Program) -> Compiled:
        model = lower(program, "reference")

        def run(*inputs: Tensor) -> object:
            return model(*(x + self.shift if x.is_floating_point() else x for x in inputs))

        return run


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Through:
    made = Through()
    monkeypatch.setitem(ENGINES, made.name, made)
    return made


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", CASES)
def test_program_gives_the_same_and_every_layer_is_compared(name: str) -> None:
    program, x = converted(name, "x86"), CASES[name].inputs(3)
    torch.testing.assert_close(lower(program, "through")(x), lower(program, "reference")(x), rtol=0, atol=0)
    rows = engine_parity(program, "through", (x,))
    expected = engine_parity(program, "fbgemm", (x,))
    computed = {row.name for row in expected if not row.name.startswith("getitem")}  # parts of a split compute nothing
    assert {row.name for row in rows} >= computed, "FBGEMM may quantize inside a layer"
    assert {row.max_steps for row in rows} == {0}
    assert [row.name for row in rows if row.outputs == 0] == []


def test_layer_that_deviates_is_seen(engine: Through) -> None:
    program, x = converted("conv", "x86"), CASES["conv"].inputs(3)
    engine.shift = 0.2
    rows = engine_parity(program, "through", (x,))
    assert any(row.max_steps > 0 for row in rows)
    assert any(row.sqnr_db < 60 for row in rows)


@pytest.mark.usefixtures("engine")
def test_artifact_loads_and_verifies_on_it(tmp_path: Path) -> None:
    x = CASES["conv"].inputs(2)
    save_artifact(converted("conv", "x86"), tmp_path / "artifact", golden_inputs=(x,))
    assert verify(tmp_path / "artifact", "through").equal
    assert torch.equal(load(tmp_path / "artifact", "through")(x), load(tmp_path / "artifact", "reference")(x))


@pytest.mark.usefixtures("engine")
def test_input_that_does_not_fit_is_refused_before_the_runtime_sees_it() -> None:
    with pytest.raises(InputError, match="takes 1 inputs"):
        lower(converted("conv", "x86"), "through")()
