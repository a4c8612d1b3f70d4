"""Batch-norm folding: only what can be folded, and never a NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.quantization.graph.capture import capture
from tests.quantization.networks import Inline, graph_ops, randomize_


def captured_norms(model: nn.Module, x: Tensor) -> int:
    """Batch norms left after capture; asserts that the graph computes what the model computes."""
    randomize_(model).eval()
    module = capture(model, (x,)).module
    more = torch.randn(5, *x.shape[1:])
    torch.testing.assert_close(module(more), model(more), rtol=1e-4, atol=1e-5)
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
    return sum("batch_norm" in op for op in graph_ops(module))


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def sequential(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.norm(m.layer(x))
    return y


FOLDED: dict[str, tuple[nn.Module, nn.Module, Tensor]] = {
    "conv2d": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), IMAGE),
    "conv2d without bias": (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), IMAGE),
    "grouped": (nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), IMAGE),
    "not affine": (nn.Conv2d(3, 4, 3), nn.Sequential(nn.Identity(), nn.BatchNorm2d(4)), IMAGE),
    "conv1d": (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), IMAGE.flatten(2)),
    "conv3d": (nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), IMAGE.unsqueeze(2)),
    "linear": (nn.Linear(6, 4), nn.BatchNorm1d(4), IMAGE[:, 0, 0]),
    "linear without bias": (nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), IMAGE[:, 0, 0]),
}


@pytest.mark.parametrize("name", FOLDED)
def test_fold_takes_the_batch_norm_behind_a_layer(name: str) -> None:
    layer, norm, x = FOLDED[name]
    assert captured_norms(Inline(sequential, layer=layer, norm=norm), x) == 0


def test_fold_takes_a_batch_norm_without_gamma_and_beta() -> None:
    norm = nn.BatchNorm2d(4, affine=False)
    assert norm.running_mean is not None
    norm.running_mean.fill_(0.3)
    model = Inline(sequential, layer=nn.Conv2d(3, 4, 3), norm=norm).eval()
    module = capture(model, (IMAGE,)).module
    torch.testing.assert_close(module(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-5)
    assert graph_ops(module) == ["aten.conv2d.default"]


def test_fold_matches_the_formula() -> None:
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3)
    model = randomize_(Inline(sequential, layer=conv, norm=norm)).eval()
    state = capture(model, (IMAGE,)).module.state_dict()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.bias is not None
    factor = norm.weight / torch.sqrt(norm.running_var + 1e-3)
    torch.testing.assert_close(state["layer.weight"], conv.weight * factor[:, None, None, None])
    torch.testing.assert_close(state["layer.bias"], norm.bias + (conv.bias - norm.running_mean) * factor)
    assert state.keys() == {"layer.weight", "layer.bias"}


def test_fold_of_gammas_that_are_all_zero_gives_no_nan() -> None:
    norm = nn.BatchNorm2d(4)
    model = Inline(sequential, layer=nn.Conv2d(3, 4, 3, bias=False), norm=norm).eval()
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, 0.25)
    module = capture(model, (IMAGE,)).module
    assert torch.equal(module(IMAGE), torch.full((2, 4, 4, 4), 0.25))


def shared_convolution(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.norm(m.layer(x)) + m.norm2(m.layer(x * 2))
    return y


def convolution_with_two_users(m: Any, x: Tensor) -> Tensor:
    y = m.layer(x)
    z: Tensor = m.norm(y) + y
    return z


def before_the_convolution(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.layer(m.norm(x))
    return y


def behind_an_activation(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.norm(F.relu(m.layer(x)))
    return y


NOT_FOLDED: list[tuple[Callable[..., Tensor], dict[str, Callable[[], nn.Module]], int]] = [
    (
        shared_convolution,
        {"layer": lambda: nn.Conv2d(3, 4, 3), "norm": lambda: nn.BatchNorm2d(4), "norm2": lambda: nn.BatchNorm2d(4)},
        2,
    ),
    (convolution_with_two_users, {"layer": lambda: nn.Conv2d(3, 4, 3), "norm": lambda: nn.BatchNorm2d(4)}, 1),
    (before_the_convolution, {"layer": lambda: nn.Conv2d(3, 4, 3), "norm": lambda: nn.BatchNorm2d(3)}, 1),
    (behind_an_activation, {"layer": lambda: nn.Conv2d(3, 4, 3), "norm": lambda: nn.BatchNorm2d(4)}, 1),
]


@pytest.mark.parametrize(("function", "layers", "left"), NOT_FOLDED, ids=[f[0].__name__ for f in NOT_FOLDED])
def test_fold_leaves_what_cannot_be_folded(
    function: Callable[..., Tensor], layers: dict[str, Callable[[], nn.Module]], left: int
) -> None:
    model = Inline(function, **{name: build() for name, build in layers.items()})
    assert captured_norms(model, IMAGE) == left


def test_fold_leaves_a_batch_norm_over_the_positions_of_a_linear_layer() -> None:
    """On (batch, tokens, features) a BatchNorm1d normalizes tokens, which are no output channels of the linear layer."""
    tokens = Inline(sequential, layer=nn.Linear(6, 5), norm=nn.BatchNorm1d(3))
    assert captured_norms(tokens, IMAGE[:, :, 0]) == 1


def test_fold_sees_through_the_flatten_of_tokens() -> None:
    """LeViT: linear -> flatten(0, 1) -> BatchNorm1d over the features -> the shape of before."""

    def function(m: Any, x: Tensor) -> Tensor:
        y = m.layer(x)
        z: Tensor = m.norm(y.flatten(0, 1)).reshape_as(y)
        return z

    model = Inline(function, layer=nn.Linear(6, 4, bias=False), norm=nn.BatchNorm1d(4))
    assert captured_norms(model, IMAGE[:, 0]) == 0
    assert graph_ops(capture(model, (IMAGE[:, 0],)).module) == ["aten.linear.default"]


def test_fold_leaves_two_layers_that_share_one_weight() -> None:
    """Tied weights: only one of the two layers has a batch norm behind it."""
    first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    second.weight = first.weight

    def function(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.second(F.relu(m.norm(m.first(x))))
        return y

    model = Inline(function, first=first, second=second, norm=nn.BatchNorm2d(3))
    assert captured_norms(model, IMAGE) == 1


class FrozenNorm(nn.Module):
    """A batch norm written out, as detectors freeze it; `trained` makes its scale a parameter, as layer scale is."""

    def __init__(self, channels: int, *, trained: bool = False) -> None:
        super().__init__()
        scale, shift = torch.rand(channels) + 0.5, torch.randn(channels)
        if trained:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        self.register_buffer("variance", torch.rand(channels) + 0.5)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.reshape(1, -1, 1, 1) * (self.variance.reshape(1, -1, 1, 1) + 1e-5).rsqrt()  # type: ignore[operator]
        y: Tensor = x * scale + self.shift.reshape(1, -1, 1, 1)  # type: ignore[operator]
        return y


@pytest.mark.parametrize("bias", [True, False])
def test_fold_takes_a_frozen_batch_norm_that_is_written_out(bias: bool) -> None:
    model = Inline(sequential, layer=nn.Conv2d(3, 4, 3, bias=bias), norm=FrozenNorm(4)).eval()
    module = capture(model, (IMAGE,)).module
    torch.testing.assert_close(module(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-5)
    assert graph_ops(module) == ["aten.conv2d.default"]
    assert set(module.state_dict()) == {"layer.weight", "layer.bias"}


def test_fold_leaves_a_trained_scale_and_a_scale_per_pixel_alone() -> None:
    trained = Inline(sequential, layer=nn.Conv2d(3, 4, 3), norm=FrozenNorm(4, trained=True))
    per_pixel = Inline(lambda m, x: m.layer(x) * torch.ones(4, 4) + torch.ones(4, 4), layer=nn.Conv2d(3, 4, 3))
    shared = Inline(lambda m, x: m.norm(m.layer(x)) + m.layer(x), layer=nn.Conv2d(3, 4, 3), norm=FrozenNorm(4))
    for model in (trained, per_pixel, shared):
        module = capture(model.eval(), (IMAGE,)).module
        torch.testing.assert_close(module(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-5)
        assert any("mul" in op for op in graph_ops(module))


# --- depth and training ------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """conv(x) * layer scale + x, as ConvNeXt, PoolFormer and CAFormer have it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.conv = nn.Parameter(torch.full((3, 1, 1), 0.1)), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) * self.scale + x
        return y


def test_fold_looks_at_every_node_of_residual_blocks_once() -> None:
    """Two ways lead through each of 60 blocks: walked one by one they would be 2 ** 60."""
    assert captured_norms(nn.Sequential(*(Scaled() for _ in range(60))), IMAGE) == 0


@pytest.mark.parametrize("trained", [{"layer.weight"}, {"layer.bias"}, {"norm.bias"}, {"norm.weight"}, set()], ids=str)
def test_fold_trains_what_was_trained(trained: set[str]) -> None:
    model = Inline(sequential, layer=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    folded = dict(capture(model, (IMAGE,)).module.named_parameters())
    assert folded["layer.weight"].requires_grad is ("layer.weight" in trained)
    assert folded["layer.bias"].requires_grad is bool(trained & {"layer.bias", "norm.bias"})


def test_fold_leaves_filters_that_are_no_parameters_alone() -> None:
    class Filtered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.randn(4, 3, 3, 3))
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(F.conv2d(x, self.get_buffer("weight")))
            return y

    folded = capture(Filtered().eval(), (IMAGE,)).module
    assert [name for name, parameter in folded.named_parameters() if parameter.requires_grad] == ["bias"]
