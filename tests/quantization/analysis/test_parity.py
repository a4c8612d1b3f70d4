"""Parity: charges every deviation to the layer that makes it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.quantization.analysis.parity import engine_parity, first_bad, simulation_parity
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import ENGINES, lower
from qat.quantization.prepare import prepare
from qat.quantization.program.program import Int8Program
from tests.quantization.layers import LAYERS
from tests.quantization.networks import CASES, Inline, calibrated, converted

NAME = pytest.mark.parametrize("name", CASES)


@NAME
def test_engine_parity_of_fbgemm_is_exact(name: str) -> None:
    rows = engine_parity(converted(name), "fbgemm", (CASES[name].inputs(4, seed=5),))
    assert rows
    assert all((row.max_steps, row.differing, row.sqnr_db) == (0, 0.0, math.inf) for row in rows)


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_parity_has_a_row_for_every_integer_tensor_that_the_engine_makes(engine: str) -> None:
    program = converted("residual", "any")
    x = CASES["residual"].inputs(2)
    rows = engine_parity(program, engine, (x,))
    assert [row.name for row in rows] == list(program.grids())
    assert all(row.max_steps <= 1 for row in rows)
    assert {row.layer for row in rows} >= {node.layer for node in program.layers()}


@NAME
def test_simulation_parity_is_within_one_step(name: str) -> None:
    prepared, program = calibrated(name), converted(name)
    rows = simulation_parity(prepared, program, (CASES[name].inputs(4, seed=6),))
    assert {row.name for row in rows} >= {node.name for node in program.layers() if node.grid is not None}
    assert first_bad(rows, max_steps=1, max_differing=0.01) is None
    assert all(row.sqnr_db > 25 for row in rows)


def test_simulation_parity_leaves_the_prepared_model_alone() -> None:
    prepared = calibrated("conv")
    x = CASES["conv"].inputs()
    before = prepared(x)
    simulation_parity(prepared, converted("conv"), (x,))
    assert torch.equal(prepared(x), before)


def damaged(program: Int8Program, layer: int) -> Int8Program:
    """The same program with the weights of one layer negated."""
    name = list(program.layers())[layer].args[1].name
    return dataclasses.replace(program, tensors={**program.tensors, name: -program.tensors[name]})


def test_simulation_parity_names_the_layer_that_is_wrong_and_not_those_behind_it() -> None:
    prepared, program = calibrated("conv"), converted("conv")
    wrong = damaged(program, 0)
    rows = simulation_parity(prepared, wrong, (CASES["conv"].inputs(),))
    bad = first_bad(rows, max_steps=1)
    assert bad is not None
    first, second = list(program.layers())[:2]
    assert bad.name == first.name
    assert bad.layer == first.layer
    (behind,) = [row for row in rows if row.name == second.name]
    assert behind.max_steps <= 1
    assert behind.sqnr_db < 20  # end to end it suffers


def test_parity_counts_steps_share_and_noise_by_the_formula() -> None:
    layer = LAYERS["depthwise 3x3"]
    program = layer.program(bound=False)  # saturates on FBGEMM
    rows = engine_parity(program, "qnnpack", (layer.inputs(),))
    assert [row.max_steps <= 1 for row in rows] == [True] * len(rows)
    for row in rows:
        assert 0 <= row.differing <= 1
        assert (row.differing == 0) == (row.max_steps == 0)


def test_first_bad_is_the_first_beyond_either_bound() -> None:
    rows = simulation_parity(calibrated("conv"), converted("conv"), (CASES["conv"].inputs(),))
    steps = dataclasses.replace(rows[1], max_steps=3)
    share = dataclasses.replace(rows[2], max_steps=1, differing=0.5)
    assert first_bad([rows[0], steps, share], max_steps=1) is steps
    assert first_bad([rows[0], share, steps], max_steps=1, max_differing=0.1) is share
    assert first_bad(rows[:1], max_steps=1) is None
    assert first_bad([], max_steps=0) is None


def test_simulation_parity_compares_the_same_choices() -> None:
    """Rows of the same sum in another order: exact integers rank them equal, sums of floats do not. Whatever is chosen, the
    layers behind it are compared on the program's choice."""

    def chosen(m: Any, x: Tensor) -> Tensor:
        best = m.score(x).squeeze(-1).topk(6, dim=1).indices
        y: Tensor = m.head(x.gather(1, best.unsqueeze(-1).expand(-1, -1, 24)))
        return y

    values = torch.linspace(-1.0, 1.7, 24)
    x = torch.stack([values[torch.randperm(24)] for _ in range(2 * 40)]).reshape(2, 40, 24)
    score = nn.Linear(24, 1)
    nn.init.constant_(score.weight, 0.3)
    prepared = prepare(Inline(chosen, score=score, head=nn.Linear(24, 5)).eval(), (x,))
    calibrate(prepared, [(x,)])
    program = convert(prepared)
    assert float((prepared(x) - lower(program, "reference")(x)).detach().abs().max()) > 0.1, (
        "they choose alike: the case is none"
    )
    rows = simulation_parity(prepared, program, (x,))
    assert len(rows) > 0
    assert first_bad(rows, max_steps=1) is None
