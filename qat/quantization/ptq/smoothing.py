"""Smoothing: outlier channels of a normalized tensor move into the weights of the linear layers that read it.

    linear(norm(x; gamma, beta), W) = linear(norm(x; gamma / s, beta / s), W * s),          one s per channel of the tensor

One grid covers all channels of a tensor: three channels forty times as large as the others leave those six of 255 steps.
Scales are powers of two: the float network stays the same bit for bit. A norm is changed only where that halves the error, the
strength (alpha) is searched, and a norm that something else reads is left alone.

Reference: Xiao et al. 2023, arXiv:2211.10438, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qat.quantization.fake_quantize import ActivationFakeQuantize, StoredFakeQuantize
from qat.quantization.graph.nodes import GraphNode, constant_value, fx_value, layer_name, quantized_tensor
from qat.quantization.kernel_table import Role
from qat.quantization.prepared import PreparedModel
from qat.quantization.qparams import ACTIVATION_HIGH, ACTIVATION_LOW, affine_qparams
from qat.quantization.unrounded import Unrounded
from qat.ranks import range_over_ranks, sum_over_ranks

aten = torch.ops.aten

#: Strengths that are tried: 1 makes all channels of the tensor alike, 0 all columns of the weights.
ALPHAS = (0.25, 0.5, 0.75, 1.0)

#: A norm is changed where the squared error falls below this share.
WORTH_IT = 0.5

#: Rows that are looked at.
ROWS = 512

#: What is said: the largest channel of a tensor exceeds the median one so many times, and rounding the tensor leaves its layers
#: so few decibels.
OUTLIER, DECIBELS = 30.0, 25.0

#: Where gamma and beta stand.
_NORMS: dict[object, tuple[int, ...]] = {aten.layer_norm.default: (2, 3), aten.rms_norm.default: (2,)}


@dataclass(frozen=True)
class Outliers:
    """A tensor in front of linear layers that has outlier channels.

    Args:
        tensor: its name, see `PreparedModel.fake_quantizes`.
        layers: the linear layers that read it.
        ratio: largest absolute value of a channel over the median channel's.
    """

    tensor: str
    layers: tuple[str, ...]
    ratio: float


@dataclass(frozen=True)
class _Site:
    """A norm that linear layers alone read, on a grid."""

    affine: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    quantizers: tuple[StoredFakeQuantize, ...]


def smooth_(prepared: PreparedModel, inputs: Sequence[Tensor]) -> list[Outliers]:
    """Smooth what is worth it, judged by one batch, and return what outliers are left.

    Args:
        inputs: of the network; in a distributed training every rank gives its own.
    """
    watch = _Watch(prepared)
    with torch.no_grad(), prepared.evaluating():
        watch.run(*inputs)
        left = []
        for name, (rows, layers) in watch.rows.items():
            site = _site(prepared, watch.calls[name])
            scale = _best_scale(rows, site) if site is not None else None
            if site is not None and scale is not None:
                for tensor in site.affine:
                    tensor.div_(scale)
                for weight in site.weights:
                    weight.mul_(scale)
                rows = rows / scale
            ratio = _ratio(rows)
            if ratio > OUTLIER and _decibels(prepared, rows, watch.calls[name]) < DECIBELS:
                left.append(Outliers(name, layers, ratio))
    return left


class _Watch(Unrounded):
    """Keeps rows of every tensor that INT8 linear layers read, shape (rows, channels), with the layers and the call that would
    round it."""

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__(prepared)
        self.rows: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
        self.calls: dict[str, GraphNode] = {}
        self._linear = {n.name for n in prepared.network.graph.nodes if _is_integer_linear(prepared, n)}

    def see(self, call: GraphNode, value: Tensor) -> None:
        readers = tuple(layer_name(user) for user in call.users if user.name in self._linear)
        if readers:
            name, rows = quantized_tensor(call).name, value.reshape(-1, value.shape[-1])
            self.rows[name] = rows[:: max(1, len(rows) // ROWS)][:ROWS].clone(), readers
            self.calls[name] = call


def _is_integer_linear(prepared: PreparedModel, node: GraphNode) -> bool:
    kernel = prepared.placement.kernels.get(node.name)
    return kernel is not None and kernel.role is Role.COMPUTE and node.target is aten.linear.default


def _site(prepared: PreparedModel, call: GraphNode) -> _Site | None:
    """What to change when the tensor behind a fake quantization is smoothed; None where something else would change too."""
    network, norm = prepared.network, call.args[0]
    positions = _NORMS.get(norm.target, ())
    affine = [norm.args[i] for i in positions if len(norm.args) > i and norm.args[i] is not None]
    layers = list(call.users)
    if (
        not affine
        or affine[0] is not norm.args[positions[0]]
        or len(norm.users) > 1
        or len(norm.args[1]) != 1
        or not all(_is_integer_linear(prepared, n) for n in layers)
    ):
        return None
    fakes = list(dict.fromkeys(layer.args[1] for layer in layers))
    stored = [fake.args[0] for fake in fakes]
    own = all(set(fake.users) <= set(layers) for fake in fakes) and all(len(n.users) == 1 for n in [*affine, *stored])
    if not own or any(n.op != "get_attr" for n in [*affine, *stored]):
        return None
    quantizers = [network.get_submodule(fake.target) for fake in fakes]
    if not all(isinstance(module, StoredFakeQuantize) for module in quantizers):
        return None
    assert isinstance(network.get_submodule(call.target), ActivationFakeQuantize)
    return _Site(
        affine=tuple(fx_value(network, n) for n in affine),
        weights=tuple(fx_value(network, n) for n in stored),
        quantizers=tuple(quantizers),  # type: ignore[arg-type]
    )


def _best_scale(rows: Tensor, site: _Site) -> Tensor | None:
    """The powers of two that lose least, shape (channels,); None where nothing is worth it."""
    low, high = range_over_ranks(rows.amin(0), rows.amax(0))
    reach = torch.maximum(low.abs(), high.abs()).clamp(min=1e-12)
    column = torch.stack([weight.abs().amax(0) for weight in site.weights]).amax(0).clamp(min=1e-12)
    ones = torch.ones_like(reach)
    candidates = [ones, *(_power_of_two(reach**alpha / column ** (1 - alpha)) for alpha in ALPHAS)]
    errors = sum_over_ranks(torch.stack([_error(rows, scale, site) for scale in candidates]))
    best = int(errors.argmin())
    return candidates[best] if errors[best] < WORTH_IT * errors[0] else None


def _power_of_two(scale: Tensor) -> Tensor:
    """The nearest ones, the median 1: a factor common to all channels changes nothing."""
    exponent = torch.log2(scale)
    return torch.exp2(torch.round(exponent - exponent.median()).clamp(-12, 12))


def _error(rows: Tensor, scale: Tensor, site: _Site) -> Tensor:
    """Squared error of the linear layers on grids, over their squared outputs, shape ()."""
    rounded = _rounded(rows / scale)
    total = torch.zeros((), device=rows.device)
    for weight, quantizer in zip(site.weights, site.quantizers, strict=True):
        integers, weight_scale = quantizer.quantize(weight * scale)
        exact = rows @ weight.t()
        y = rounded @ (integers.to(weight.dtype) * weight_scale.unsqueeze(1)).t()
        total = total + (y - exact).square().sum() / exact.square().sum().clamp(min=1e-12)
    return total


def _rounded(x: Tensor) -> Tensor:
    """On the grid of all of it."""
    step, zero_point = affine_qparams(x.amin(), x.amax())
    return torch.round(x / step).clamp(ACTIVATION_LOW - zero_point, ACTIVATION_HIGH - zero_point) * step


def _decibels(prepared: PreparedModel, rows: Tensor, call: GraphNode) -> float:
    """The worst signal-to-noise ratio that rounding a tensor leaves in the layers that read it."""
    found = []
    for layer in [user for user in call.users if _is_integer_linear(prepared, user)]:
        weight = constant_value(prepared.network, layer.args[1].args[0])
        exact = rows @ weight.t()
        noise = (_rounded(rows) @ weight.t() - exact).square().sum()
        found.append(float(10 * torch.log10(exact.square().sum() / noise.clamp(min=1e-30))))
    return min(found)


def _ratio(rows: Tensor) -> float:
    """How far the largest channel reaches beyond the median one; channels that are 0 need no grid."""
    reach = rows.abs().amax(0)
    reach = reach[reach > 0]
    return float(reach.max() / reach.median()) if len(reach) else 1.0
