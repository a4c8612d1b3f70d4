"""Layers beyond the usual: integers where there is a kernel, and float islands elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qat
from tests.quantization.networks import Inline

SEQUENCE, IMAGE = (4, 12, 16), (2, 3, 8, 8)


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.rnn, self.head = (
            kind(16, 16, batch_first=True, **options),
            nn.Linear(16 * (1 + options.get("bidirectional", 0)), 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x)[0][:, -1])
        return y


def between(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Inline(lambda m, x: m.b(function(m.a(x))), a=nn.Linear(16, 16), b=nn.Linear(16, 4))


def zero_first(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = 0
    return x


def convolved(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.Conv2d(8, 4, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LSTM": (lambda: Recurrent(nn.LSTM), SEQUENCE),
    "LSTM of two layers, both ways": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.2), SEQUENCE),
    "GRU": (lambda: Recurrent(nn.GRU), SEQUENCE),
    "RNN": (lambda: Recurrent(nn.RNN), SEQUENCE),
    "RNN with relu": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), SEQUENCE),
    "GLU": (lambda: between(lambda x: F.glu(torch.cat([x, x], -1))), SEQUENCE),
    "SELU": (lambda: between(F.selu), SEQUENCE),
    "CELU": (lambda: between(F.celu), SEQUENCE),
    "softsign": (lambda: between(F.softsign), SEQUENCE),
    "tanhshrink": (lambda: between(F.tanhshrink), SEQUENCE),
    "softmin": (lambda: between(lambda x: F.softmin(x, -1)), SEQUENCE),
    "hardshrink": (lambda: between(F.hardshrink), SEQUENCE),
    "threshold": (lambda: between(lambda x: F.threshold(x, 0.1, 0.0)), SEQUENCE),
    "RReLU": (lambda: between(F.rrelu), SEQUENCE),
    "std": (lambda: between(lambda x: x / x.std(1, keepdim=True)), SEQUENCE),
    "log1p": (lambda: between(lambda x: x.abs().log1p()), SEQUENCE),
    "logsumexp": (lambda: between(lambda x: x - x.logsumexp(1, keepdim=True)), SEQUENCE),
    "write into a slice": (lambda: between(zero_first), SEQUENCE),
    "cosine similarity": (lambda: between(lambda x: x * F.cosine_similarity(x, x.flip(1), dim=-1).unsqueeze(-1)), SEQUENCE),
    "normalize": (lambda: between(lambda x: F.normalize(x, dim=-1)), SEQUENCE),
    "cdist": (lambda: between(lambda x: torch.cdist(x, x)[..., :1] * x), SEQUENCE),
    "remainder": (lambda: between(lambda x: torch.remainder(x, 0.7)), SEQUENCE),
    "diagonal": (lambda: between(lambda x: x + x[:, :, :12].diagonal(dim1=1, dim2=2).unsqueeze(-1)), SEQUENCE),
    "ConvTranspose1d": (
        lambda: nn.Sequential(nn.Conv1d(12, 8, 3), nn.ConvTranspose1d(8, 8, 4, 2), nn.BatchNorm1d(8), nn.Conv1d(8, 4, 1)),
        SEQUENCE,
    ),
    "max pool 1d": (lambda: nn.Sequential(nn.Conv1d(12, 8, 3), nn.MaxPool1d(2), nn.Conv1d(8, 4, 1)), SEQUENCE),
    "local response norm": (lambda: convolved(nn.LocalResponseNorm(3)), IMAGE),
    "nearest-exact": (lambda: convolved(nn.Upsample(scale_factor=2, mode="nearest-exact")), IMAGE),
    "reflection pad": (lambda: convolved(nn.ReflectionPad2d(1)), IMAGE),
    "replication pad": (lambda: convolved(nn.ReplicationPad2d(1)), IMAGE),
    "circular pad": (lambda: convolved(nn.CircularPad2d(1)), IMAGE),
    "power average pool": (lambda: convolved(nn.LPPool2d(2.0, 2), nn.ZeroPad2d(1)), IMAGE),
    "softmax over channels": (lambda: convolved(nn.Softmax2d()), IMAGE),
    "instance norm": (lambda: convolved(nn.InstanceNorm2d(8)), IMAGE),
    "unfold and fold": (lambda: convolved(nn.Unfold(3, padding=1), nn.Fold((6, 6), 3, padding=1)), IMAGE),
    "conv of even kernel, same": (lambda: convolved(nn.Conv2d(8, 8, 4, padding="same")), IMAGE),
    "max pool 3d": (
        lambda: nn.Sequential(nn.Conv3d(3, 4, 1), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(4 * 8, 2)),
        (2, 3, 4, 4, 4),
    ),
    "average pool 3d": (
        lambda: nn.Sequential(nn.Conv3d(3, 4, 1), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(4 * 8, 2)),
        (2, 3, 4, 4, 4),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_is_prepared_trained_and_converted(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model, xs = make().eval(), [torch.randn(shape) for _ in range(2)]
    prepared = qat.prepare(model, (xs[0],))
    prepared.set_observing_(False)
    prepared.set_quantizing_(False)
    with torch.no_grad():
        torch.testing.assert_close(prepared(xs[1]), model(xs[1]), rtol=1e-4, atol=1e-4)
    qat.calibrate(prepared, xs)
    torch.autograd.backward(prepared(xs[0]).square().mean())
    program = qat.convert(prepared)
    with torch.no_grad():
        simulated = prepared(xs[1])
        reference, fast = (qat.lower(program, engine)(xs[1]) for engine in ("reference", "fbgemm"))
    assert torch.equal(reference, fast)
    noise = float((simulated - reference).square().mean() / simulated.square().mean())
    assert noise < 1e-3
