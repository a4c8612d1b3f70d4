"""A prepared model that was copied, pickled or saved whole is the one that it was."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

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


class Constant(nn.Module):
    """Holds a tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x) + torch.tensor([1.0] * 8)
        return y


class Recurrent(nn.Module):
    """Makes its state from the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.cells(x)[0][:, -1])
        return y


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Constant(), (4, 8)),
        (Recurrent(), (4, 5, 8)),
        (nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))), (4, 8)),
        (nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)), (4, 8)),
    ],
    ids=["constant", "LSTM", "spectral norm", "dropout"],
)
def test_networks_that_trace_otherwise_a_second_time_are_the_same(model: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    prepared = qat.prepare(model.eval(), x)
    qat.calibrate(prepared, [x])
    other = pickle.loads(pickle.dumps(prepared))
    assert torch.equal(other(x), prepared(x))
    assert not other.training
    assert other.train().training
    assert [node.name for node in other.network.graph.nodes] == [node.name for node in prepared.network.graph.nodes]
    assert qat.convert(other).nodes == qat.convert(prepared).nodes


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_copy_of_a_prepared_model_converts_to_the_same_program(name: str, way: str) -> None:
    prepared, x = calibrated(name), CASES[name].inputs(2)
    other = WAYS[way](prepared)
    before, after = qat.convert(prepared), qat.convert(other)
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in prepared.named_parameters()]
    assert list(other.state_dict()) == list(prepared.state_dict())
    assert {node.name: node for node in after.nodes} == {node.name: node for node in before.nodes}
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[key], value) for key, value in before.tensors.items())
    assert torch.equal(qat.lower(after, "fbgemm")(x), qat.lower(before, "fbgemm")(x))
    with torch.no_grad():
        torch.testing.assert_close(other(x), prepared(x))
    assert qat.coverage(other, (x,)) == qat.coverage(prepared, (x,))
    other.load_state_dict(prepared.state_dict())
    torch.autograd.backward(other(x).float().square().mean())
