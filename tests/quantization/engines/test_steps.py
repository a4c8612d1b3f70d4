"""Models bound step by step: a value stands in its slot as long as somebody reads it, and can be replayed."""

from __future__ import annotations

import pytest
import torch

from qat.quantization.engines import ENGINES
from tests.quantization.networks import CASES, converted
from tests.quantization.programs import bound

ENGINE = pytest.mark.parametrize("engine", ENGINES)


@ENGINE
def test_slots_hold_inputs_first_and_every_step_once(engine: str) -> None:
    model = bound(converted("conv", "any"), engine)
    assert [model._slots[spec.name] for spec in model.program.inputs] == [0]
    targets = [step.target for step in model._steps]
    assert len(targets) == len(set(targets))
    assert all(source < step.target for step in model._steps for source in step.sources), "in the order of execution"


@ENGINE
def test_what_is_watched_is_what_forward_computes(engine: str) -> None:
    model, x = bound(converted("squeeze_excite", "any"), engine), CASES["squeeze_excite"].inputs(3)
    result, seen = model.watch(x)
    assert torch.equal(result, model(x))
    assert {node.name for node in model.program.nodes if node.grid is not None} <= seen.keys()


def test_replayed_values_take_the_place_of_own_ones() -> None:
    model, x = bound(converted("conv", "any"), "reference"), CASES["conv"].inputs(2)
    other = model.watch(CASES["conv"].inputs(2, seed=5))[1]
    result, seen = model.watch(x, replay=other)
    assert torch.equal(result, model(CASES["conv"].inputs(2, seed=5))), "each node computes from the replayed inputs"
    assert seen.keys() == other.keys()
