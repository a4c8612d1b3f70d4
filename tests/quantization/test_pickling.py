"""A prepared model that was copied, pickled or saved whole is the one that it was."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch

import qat
from qat.quantization.prepared import PreparedModel
from tests.quantization.networks import CASES, calibrated


def _saved(prepared: PreparedModel) -> PreparedModel:
    file = io.BytesIO()
    torch.save(prepared, file)
    file.seek(0)
    found: PreparedModel = torch.load(file, weights_only=False)
    return found


WAYS: dict[str, Callable[[PreparedModel], PreparedModel]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda prepared: pickle.loads(pickle.dumps(prepared)),
    "torch.save": _saved,
    "pickle of a pickle": lambda prepared: _saved(_saved(prepared)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_copy_of_a_prepared_model_converts_to_the_same_program(name: str, way: str) -> None:
    prepared, x = calibrated(name), CASES[name].inputs(2)
    other = WAYS[way](prepared)
    before, after = qat.convert(prepared), qat.convert(other)
    assert {node.name: node for node in after.nodes} == {node.name: node for node in before.nodes}
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[key], value) for key, value in before.tensors.items())
    assert torch.equal(qat.lower(after, "fbgemm")(x), qat.lower(before, "fbgemm")(x))
    with torch.no_grad():
        torch.testing.assert_close(other(x), prepared(x))
    assert qat.coverage(other, (x,)) == qat.coverage(prepared, (x,))
    other.load_state_dict(prepared.state_dict())
    torch.autograd.backward(other(x).float().square().mean())
