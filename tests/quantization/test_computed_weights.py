"""Weights that are computed from parameters run as integers, and train through what they are computed from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import qat
from qat.quantization.targets import TARGETS
from tests.quantization.networks import randomize_


class Standardized(nn.Conv1d):
    """Qiao et al. 2019, arXiv:1903.10520."""

    def forward(self, input: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2), keepdim=True)) / (w.var((1, 2), keepdim=True, unbiased=False) + 1e-6).sqrt()
        return F.conv1d(input, w, self.bias, self.stride, self.padding)


class Adapted(nn.Module):
    """A frozen layer with an adapter of low rank, merged in forward (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(4, 64) * 0.1), nn.Parameter(torch.randn(64, 4) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight + self.up @ self.down, self.layer.bias)


def _conv() -> nn.Conv1d:
    return nn.Conv1d(8, 8, 3, padding=1)


def _pruned() -> nn.Module:
    layer = _conv()
    prune.l1_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    return layer


MADE: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(_conv()),
    "weight norm by a hook": lambda: weight_norm(_conv()),
    "spectral norm": lambda: parametrizations.spectral_norm(_conv()),
    "spectral norm by a hook": lambda: spectral_norm(_conv()),
    "pruning mask": _pruned,
    "weight standardization": lambda: Standardized(8, 8, 3, padding=1),
    "low-rank adapter": Adapted,
}


def _network(name: str, *, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [_conv(), nn.ReLU()]
    for _ in range(2):
        layers += [MADE[name](), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU()]
    return randomize_(nn.Sequential(*layers, nn.Conv1d(8, 4, 1))).eval()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the hooks are deprecated, and people have them
@pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name in MADE for norm in (False, True) if not norm or name != "low-rank adapter"]
)
def test_computed_weight_is_an_integer_weight_and_trains_through_its_parameters(name: str, norm: bool) -> None:
    model = _network(name, norm=norm)
    xs = [torch.randn(4, 8, 64) for _ in range(3)]
    prepared = qat.prepare(model, (xs[0],))
    qat.calibrate(prepared, xs)
    found = qat.coverage(prepared, (xs[0],))
    assert found.macs_int8 == 1.0
    assert not [op.op for op in found.float_ops if "norm" in op.op]
    optimizer = torch.optim.SGD([p for p in prepared.parameters() if p.requires_grad], lr=0.01)
    before = qat.convert(prepared).tensors
    for x in xs:
        optimizer.zero_grad()
        torch.autograd.backward(prepared(x).square().mean())
        optimizer.step()
    trained = {parameter for parameter, value in prepared.named_parameters() if value.requires_grad}
    assert all(dict(prepared.named_parameters())[p].grad is not None for p in trained)
    program = qat.convert(prepared)
    assert len(list(program.layers())) == 4
    assert any(not torch.equal(before[key], value) for key, value in program.tensors.items() if value.dtype == torch.int8)
    with torch.no_grad():
        simulated, reference = prepared.eval()(xs[0]), qat.lower(program, "reference")(xs[0])
    assert torch.equal(qat.lower(program, "fbgemm")(xs[0]), reference)
    assert float((simulated - reference).abs().max() / simulated.abs().max()) < 0.02


@pytest.mark.parametrize("target", TARGETS)
def test_projections_of_attention_are_integers_in_encoder_and_decoder(target: str) -> None:
    """They are slices of one parameter."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            y: Tensor = self.layer(x, memory)
            return y

    inputs = (torch.randn(2, 7, 32), torch.randn(2, 9, 32))
    prepared = qat.prepare(Decoder().eval(), inputs, target=target)
    qat.calibrate(prepared, [inputs])
    found = qat.coverage(prepared, inputs)
    assert not [op for op in found.float_ops if "linear" in op.op]
    assert "aten.linear.default" not in {node.op for node in qat.convert(prepared).nodes}


def test_weight_of_a_layer_that_an_input_computes_stays_float_in_words() -> None:
    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(F.linear(self.layer(x), self.layer.weight * x.mean()))
            return y

    x = torch.randn(4, 8)
    prepared = qat.prepare(Dynamic().eval(), (x,))
    (reason,) = {op.reason for op in qat.coverage(prepared, (x,)).float_ops if "linear" in op.op}
    assert reason == "its weight is computed from an input, not stored"
