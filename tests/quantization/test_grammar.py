"""Random networks from a grammar of layers, structures and dtypes: what holds for every network that `prepare` takes.

* without rounding, the prepared network is the captured one up to rounding;
* every tensor of the deployed network is within one step of the simulation, given the same input;
* `fbgemm` equals `reference` bit for bit;
* what is refused is refused by `prepare`, in words.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.errors import QatError
from qat.quantization.analysis.parity import simulation_parity
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.graph.forms import undressed
from qat.quantization.prepare import prepare

CHANNELS = 8

#: (N, 8, H, W) -> (N, 8, H, W).
IMAGE_LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv2d(8, 8, 3, padding=1),
    lambda: nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=8),
    lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False),
    lambda: nn.Conv2d(8, 8, 4, padding="same"),
    lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
    lambda: nn.ConvTranspose2d(8, 8, 3, padding=1),
    lambda: nn.BatchNorm2d(8),
    lambda: nn.GroupNorm(2, 8),
    lambda: nn.MaxPool2d(3, 1, 1),
    lambda: nn.AvgPool2d(3, 1, 1),
    lambda: nn.Dropout(0.2),
    *(lambda kind=kind: kind() for kind in (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.SELU, nn.Tanh)),
]

#: (N, L, 8) -> (N, L, 8).
SEQUENCE_LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(8, 8),
    lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)),
    lambda: nn.LayerNorm(8),
    lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
    lambda: First(nn.LSTM(8, 8, batch_first=True)),
    lambda: First(nn.GRU(8, 4, batch_first=True, bidirectional=True)),
    lambda: Product(),
    lambda: nn.Softmax(-1),
    lambda: nn.SiLU(),
]


class First(nn.Module):
    """The first thing that a layer returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)[0]


class Product(nn.Module):
    """A linear layer in other words."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.randn(8, 8) / 3), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.shift


class Joined(nn.Module):
    """Two branches, joined in one of the ways of networks."""

    def __init__(self, kind: str, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.kind, self.left, self.right = kind, left, right

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        dim = 1 if x.dim() == 4 else -1
        if self.kind == "residual":
            added: Tensor = x + a
            return added
        if self.kind == "gate":
            gated: Tensor = a * torch.sigmoid(b)
            return gated
        if self.kind == "concatenate":
            joined = torch.cat([a, b], dim)
            half: Tensor = joined.chunk(2, dim)[0] - joined.chunk(2, dim)[1]
            return half
        return torch.where(a > b, a, b) if self.kind == "where" else a + b


class Network(nn.Module):
    """Inputs of some dtype and structure, a random body, outputs in some structure."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.images = draw.random() < 0.6
        self.dtype = draw.choice([torch.float32, torch.float32, torch.uint8, torch.float16])
        self.structure = draw.choice(["tensor", "pair", "dict"])
        self.output = draw.choice(["tensor", "tuple", "dict", "none"])
        self.stem: nn.Module = nn.Conv2d(3, 8, 3, stride=2) if self.images else nn.Linear(5, 8)
        self.body = nn.Sequential(*(self._part(draw, 2) for _ in range(draw.randint(2, 5))))
        self.head = nn.Linear(8, 3)

    def _part(self, draw: random.Random, depth: int) -> nn.Module:
        if depth and draw.random() < 0.4:
            kind = draw.choice(["residual", "gate", "concatenate", "where", "sum"])
            return Joined(kind, self._part(draw, depth - 1), self._part(draw, depth - 1))
        return draw.choice(IMAGE_LAYERS if self.images else SEQUENCE_LAYERS)()

    def example(self, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        shape = (3, 3, 15, 13) if self.images else (3, 6, 5)
        x = torch.randn(shape, generator=generator)
        x = (x * 40 + 120).clamp(0, 255).to(torch.uint8) if self.dtype == torch.uint8 else x.to(self.dtype)
        if self.structure == "pair":
            return ((x, torch.randn(shape[0], 1, *([1] * (len(shape) - 2)), generator=generator)),)
        return {"x": x} if self.structure == "dict" else (x,)

    def forward(self, x: Any) -> Any:
        if self.structure == "pair":
            x, factor = x
            x = x.float() * factor
        x = x.float() / 64 if self.dtype == torch.uint8 else x.float()
        y = self.body(self.stem(x))
        pooled = F.adaptive_avg_pool2d(y, 1).flatten(1) if self.images else y.mean(1)
        z = self.head(pooled)
        return {"tensor": z, "tuple": (z, z.argmax(1)), "dict": {"logits": z, "features": pooled}, "none": (z, None)}[
            self.output
        ]


def call(model: nn.Module, example: Any) -> Any:
    return model(**example) if isinstance(example, dict) else model(*example)


def leaves(output: Any) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(undressed(output)) if isinstance(x, Tensor) and x.is_floating_point()]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("seed", range(40))
def test_what_holds_for_every_network(seed: int) -> None:
    torch.manual_seed(seed)
    network = Network(random.Random(seed)).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean, module.running_var = torch.randn(8) / 4, torch.rand(8) + 0.5
    example, other = network.example(seed), network.example(seed + 1000)
    try:
        prepared = prepare(network, example)
    except QatError as error:
        pytest.fail(f"every layer of the grammar can be prepared: {error}")
    prepared.set_quantizing_(False)
    prepared.set_observing_(False)
    for given in (example, other):
        for ours, theirs in zip(leaves(call(prepared, given)), leaves(call(network, given)), strict=True):
            torch.testing.assert_close(ours, theirs.float(), rtol=1e-3, atol=1e-4)
    calibrate(prepared, [example])
    program = convert(prepared)
    reference, fbgemm = lower(program, "reference"), lower(program, "fbgemm")
    for given in (example, other):
        for ours, theirs in zip(leaves(call(fbgemm, given)), leaves(call(reference, given)), strict=True):
            assert torch.equal(ours, theirs)
    flat = [x.to(spec.dtype) for x, spec in zip(torch.utils._pytree.tree_leaves(example), prepared.inputs, strict=True)]
    for row in simulation_parity(prepared, program, flat):
        assert row.max_steps <= 1, row


def test_the_grammar_reaches_every_layer_and_structure() -> None:
    """The draws hold what the grammar has: no branch of it is dead."""
    networks = [Network(random.Random(seed)) for seed in range(40)]
    kinds = {type(module).__name__ for network in networks for module in network.modules()}
    assert {type(build()).__name__ for build in [*IMAGE_LAYERS, *SEQUENCE_LAYERS]} <= kinds
    assert {network.structure for network in networks} == {"tensor", "pair", "dict"}
    assert {network.output for network in networks} == {"tensor", "tuple", "dict", "none"}
    assert {network.dtype for network in networks} == {torch.float32, torch.uint8, torch.float16}
