"""The layers of torch.nn, and functions beside them, each as a small network holds it: see `layer_matrix.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N = nn

#: Channels of images, signals and volumes, and features of sequences and rows, in front of the layer.
C, D = 64, 256

#: What stands in front of the layer, and what the network takes.
STEMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "images": (lambda: N.Conv2d(32, C, 3, padding=1), (2, 32, 56, 56)),
    "signals": (lambda: N.Conv1d(32, C, 3, padding=1), (2, 32, 512)),
    "volumes": (lambda: N.Conv3d(8, C, 3, padding=1), (2, 8, 8, 16, 16)),
    "sequences": (lambda: N.Linear(D, D), (2, 128, D)),
    "rows": (lambda: N.Linear(D, D), (64, D)),
}


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[..., Any], *parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        self.parameters_ = nn.ParameterList(parameters)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.parameters_)


def _f(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Callable[[], nn.Module]:
    return lambda: Function(function, *(nn.Parameter(torch.randn(shape) * 0.2) for shape in shapes))


def _same(kind: str, names: str) -> dict[str, tuple[str, Callable[[], nn.Module]]]:
    return {name: (kind, getattr(nn, name)) for name in names.split()}


def _over(kind: str, dims: int, **builders: Callable[..., nn.Module]) -> dict[str, tuple[str, Callable[[], nn.Module]]]:
    return {f"{name}{dims}d": (kind, builder) for name, builder in builders.items()}


def _dimensional(kind: str, d: int) -> dict[str, tuple[str, Callable[[], nn.Module]]]:
    """Layers that there are for one, two and three dimensions."""
    of = {name: getattr(nn, f"{name}{d}d") for name in _DIMENSIONAL}
    return _over(
        kind,
        d,
        AdaptiveAvgPool=lambda: of["AdaptiveAvgPool"](4),
        AdaptiveMaxPool=lambda: of["AdaptiveMaxPool"](4),
        AvgPool=lambda: of["AvgPool"](2),
        BatchNorm=lambda: of["BatchNorm"](C).eval(),
        CircularPad=lambda: of["CircularPad"](1),
        ConstantPad=lambda: of["ConstantPad"](1, 0.5),
        Conv=lambda: of["Conv"](C, C, 3),
        ConvTranspose=lambda: of["ConvTranspose"](C, C, 3, stride=2),
        Dropout=lambda: of["Dropout"](0.1),
        InstanceNorm=lambda: of["InstanceNorm"](C, affine=True),
        LPPool=lambda: of["LPPool"](2, 2),
        MaxPool=lambda: of["MaxPool"](2),
        ReflectionPad=lambda: of["ReflectionPad"](1),
        ReplicationPad=lambda: of["ReplicationPad"](1),
        ZeroPad=lambda: of["ZeroPad"](1),
    )


_DIMENSIONAL = (
    "AdaptiveAvgPool AdaptiveMaxPool AvgPool BatchNorm CircularPad ConstantPad Conv ConvTranspose Dropout InstanceNorm LPPool "
    "MaxPool ReflectionPad ReplicationPad ZeroPad"
).split()


def _unpool(dims: int) -> Callable[[], nn.Module]:
    pool, unpool = getattr(nn, f"MaxPool{dims}d")(2, return_indices=True), getattr(nn, f"MaxUnpool{dims}d")(2)
    return _f(lambda x: unpool(*pool(x)))


LAYERS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    **_same(
        "images",
        "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish PReLU RReLU ReLU ReLU6 "
        "SELU "
        "SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink AlphaDropout Dropout FeatureAlphaDropout Flatten "
        "Softmax2d",
    ),
    **_dimensional("signals", 1),
    **_dimensional("images", 2),
    **_dimensional("volumes", 3),
    "Bilinear": ("rows", lambda: _bilinear()),
    "ChannelShuffle": ("images", lambda: N.ChannelShuffle(4)),
    "CosineSimilarity": ("rows", _f(lambda x: N.CosineSimilarity(dim=1)(x, x.flip(0))[:, None])),
    "CrossMapLRN2d": ("images", lambda: N.CrossMapLRN2d(4)),
    "Embedding": ("rows", lambda: _lookup(N.Embedding(50, 8))),
    "EmbeddingBag": ("rows", lambda: _lookup(N.EmbeddingBag(50, 8))),
    "Fold": ("sequences", _f(lambda x: N.Fold((16, 32), 2, stride=2)(x.transpose(1, 2)))),
    "FractionalMaxPool2d": ("images", lambda: N.FractionalMaxPool2d(2, output_size=9)),
    "FractionalMaxPool3d": ("volumes", lambda: N.FractionalMaxPool3d(2, output_size=3)),
    "GLU": ("images", lambda: N.GLU(1)),
    "GRU": ("sequences", lambda: N.GRU(D, 64, batch_first=True)),
    "GRUCell": ("rows", lambda: N.GRUCell(D, 64)),
    "GroupNorm": ("images", lambda: N.GroupNorm(4, C)),
    "LSTM": ("sequences", lambda: N.LSTM(D, 64, batch_first=True)),
    "LSTMCell": ("rows", lambda: N.LSTMCell(D, 64)),
    "LayerNorm": ("sequences", lambda: N.LayerNorm(D)),
    "Linear": ("sequences", lambda: N.Linear(D, D)),
    "LocalResponseNorm": ("images", lambda: N.LocalResponseNorm(4)),
    "LogSoftmax": ("sequences", lambda: N.LogSoftmax(-1)),
    "MaxUnpool1d": ("signals", _unpool(1)),
    "MaxUnpool2d": ("images", _unpool(2)),
    "MaxUnpool3d": ("volumes", _unpool(3)),
    "MultiheadAttention": ("sequences", lambda: _attention()),
    "PairwiseDistance": ("rows", _f(lambda x: N.PairwiseDistance()(x, x.flip(0))[:, None])),
    "PixelShuffle": ("images", lambda: N.PixelShuffle(2)),
    "PixelUnshuffle": ("images", lambda: N.PixelUnshuffle(2)),
    "RMSNorm": ("sequences", lambda: N.RMSNorm(D)),
    "RNN": ("sequences", lambda: N.RNN(D, 64, batch_first=True)),
    "RNNCell": ("rows", lambda: N.RNNCell(D, 64)),
    "Softmax": ("sequences", lambda: N.Softmax(-1)),
    "Softmin": ("sequences", lambda: N.Softmin(-1)),
    "SyncBatchNorm": ("images", lambda: N.SyncBatchNorm(C).eval()),
    "Threshold": ("images", lambda: N.Threshold(0.1, 0.0)),
    "Transformer": ("sequences", lambda: _pair(N.Transformer(D, 4, 1, 1, D, batch_first=True))),
    "TransformerDecoder": ("sequences", lambda: _pair(N.TransformerDecoder(_decoder(), 2))),
    "TransformerDecoderLayer": ("sequences", lambda: _pair(_decoder())),
    "TransformerEncoder": ("sequences", lambda: N.TransformerEncoder(_encoder(), 2, enable_nested_tensor=False)),
    "TransformerEncoderLayer": ("sequences", lambda: _encoder()),
    "Unflatten": ("images", lambda: N.Unflatten(1, (4, 16))),
    "Unfold": ("images", lambda: N.Unfold(3, stride=2)),
    "Upsample": ("images", lambda: N.Upsample(scale_factor=2)),
    "UpsamplingBilinear2d": ("images", lambda: N.UpsamplingBilinear2d(scale_factor=2)),
    "UpsamplingNearest2d": ("images", lambda: N.UpsamplingNearest2d(scale_factor=2)),
    "ZeroPad2d, uneven": ("images", lambda: N.ZeroPad2d((0, 1, 0, 1))),
    "Conv2d, same, even kernel": ("images", lambda: N.Conv2d(C, C, 4, padding="same")),
    "Conv2d, depthwise": ("images", lambda: N.Conv2d(C, C, 3, padding=1, groups=C)),
    "Conv2d, reflected": ("images", lambda: N.Conv2d(C, C, 3, padding=1, padding_mode="reflect")),
    "ConvTranspose2d, 2 by 2": ("images", lambda: N.ConvTranspose2d(C, C, 2, stride=2)),
    "LSTM, two layers, both ways": ("sequences", lambda: N.LSTM(D, 64, 2, batch_first=True, bidirectional=True)),
}

#: Functions beside the layers, as they are written in forward.
FUNCTIONS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "F.affine_grid, F.grid_sample": ("images", _f(lambda x: F.grid_sample(x, _grid(x), align_corners=False))),
    "F.conv_tbc": ("sequences", _f(lambda x, w: F.conv_tbc(x.transpose(0, 1).contiguous(), w, w[0, 0]), (3, D, D))),
    "F.gumbel_softmax": ("sequences", _f(lambda x: F.gumbel_softmax(x, dim=-1))),
    "F.interpolate, area": ("images", _f(lambda x: F.interpolate(x, scale_factor=0.5, mode="area"))),
    "F.interpolate, bicubic": ("images", _f(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"))),
    "F.interpolate, bilinear, antialias": ("images", _f(lambda x: F.interpolate(x, (20, 20), mode="bilinear", antialias=True))),
    "F.interpolate, linear": ("signals", _f(lambda x: F.interpolate(x, scale_factor=2, mode="linear"))),
    "F.interpolate, nearest-exact": ("images", _f(lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"))),
    "F.interpolate, trilinear": ("volumes", _f(lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"))),
    "F.normalize": ("sequences", _f(lambda x: F.normalize(x, dim=-1))),
    "F.one_hot": ("rows", _f(lambda x: F.one_hot(x.argmax(-1), D).float())),
    "F.pad, circular": ("images", _f(lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"))),
    "F.pdist": ("rows", _f(lambda x: F.pdist(x[:4])[None].expand(len(x), -1))),
    "F.scaled_dot_product_attention": ("sequences", _f(lambda x: F.scaled_dot_product_attention(x, x, x))),
    "x @ w + b": ("sequences", _f(lambda x, w, b: x @ w + b, (D, D), (D,))),
    "x + x.roll": ("images", _f(lambda x: x + x.roll(1, 2))),
    "torch.amax": ("images", _f(lambda x: x.amax((2, 3)))),
    "torch.bmm": ("sequences", _f(lambda x: torch.bmm(x, x.transpose(1, 2)))),
    "torch.cat": ("images", _f(lambda x: torch.cat([x, x.relu()], 1))),
    "torch.cdist": ("sequences", _f(lambda x: torch.cdist(x, x))),
    "torch.chunk": ("images", _f(lambda x: (lambda a, b: a * b.sigmoid())(*x.chunk(2, 1)))),
    "torch.clamp": ("images", _f(lambda x: x.clamp(0, 1))),
    "torch.cumsum": ("sequences", _f(lambda x: x.cumsum(1))),
    "torch.einsum": ("sequences", _f(lambda x, w: torch.einsum("bld,dh->blh", x, w), (D, D))),
    "torch.exp": ("images", _f(lambda x: x.clamp(max=4).exp())),
    "torch.fft.rfft": ("signals", _f(lambda x: torch.fft.rfft(x).abs())),
    "torch.gather": ("sequences", _f(lambda x: x.gather(1, x.argsort(1)[:, :4]))),
    "torch.log1p": ("images", _f(lambda x: x.abs().log1p())),
    "torch.logsumexp": ("images", _f(lambda x: x.logsumexp(1))),
    "torch.masked_fill": ("sequences", _f(lambda x: x.masked_fill(x < 0, 0.5))),
    "torch.mean": ("images", _f(lambda x: x.mean((2, 3)))),
    "torch.median": ("images", _f(lambda x: x.median(1).values)),
    "torch.norm": ("images", _f(lambda x: x.norm(dim=1))),
    "torch.outer": ("rows", _f(lambda x, w: x[:, :, None] * torch.outer(w, w), (D,))),
    "torch.roll, window": ("images", _f(lambda x: x.roll((2, 2), (2, 3)).unflatten(2, (7, 8)).transpose(2, 3))),
    "torch.stack": ("images", _f(lambda x: torch.stack([x, x.flip(1)], 1))),
    "torch.std": ("images", _f(lambda x: x.std((2, 3)))),
    "torch.stft": ("signals", _f(lambda x: torch.stft(x[:, 0], 16, return_complex=True, window=torch.ones(16)).abs())),
    "torch.topk": ("sequences", _f(lambda x: x.topk(4, 1).values)),
    "torch.tril": ("sequences", _f(lambda x: torch.bmm(x, x.mT).tril())),
    "torch.where": ("images", _f(lambda x: torch.where(x > 0, x, 0.1 * x))),
    "x[:, ::2]": ("images", _f(lambda x: x[:, ::2, 1:])),
    "x[:, 0] = 0": ("images", _f(lambda x: _assigned(x))),
    "x[mask]": ("rows", _f(lambda x: x[x > 0][:8][None].expand(len(x), -1))),
}

#: Names of torch.nn that are no layers.
LEFT_OUT = {
    **dict.fromkeys("Container Module ModuleDict ModuleList ParameterDict ParameterList Sequential".split(), "a container"),
    **dict.fromkeys(("RNNBase", "RNNCellBase"), "a base class"),
    "LinearCrossEntropyOptions": "options of a loss",
}


def _bilinear() -> nn.Module:
    layer = N.Bilinear(D, D, 8)
    return _with(layer, lambda x: layer(x, x.flip(1)))


def _with(layer: nn.Module, function: Callable[[Tensor], Any]) -> nn.Module:
    holder = Function(function)
    holder.add_module("layer", layer)
    return holder


def _lookup(layer: nn.Module) -> nn.Module:
    return _with(layer, lambda x: layer((x[:, :6] * 10).long().remainder(50)))


def _attention() -> nn.Module:
    layer = N.MultiheadAttention(D, 4, batch_first=True)
    return _with(layer, lambda x: layer(x, x, x, need_weights=False)[0])


def _pair(layer: nn.Module) -> nn.Module:
    return _with(layer, lambda x: layer(x, x))


def _encoder() -> nn.TransformerEncoderLayer:
    return N.TransformerEncoderLayer(D, 4, D, batch_first=True)


def _decoder() -> nn.TransformerDecoderLayer:
    return N.TransformerDecoderLayer(D, 4, D, batch_first=True)


def _grid(x: Tensor) -> Tensor:
    theta = torch.tensor([[[0.9, 0.1, 0.0], [-0.1, 0.9, 0.0]]]).expand(x.shape[0], -1, -1)
    return F.affine_grid(theta, list(x.shape), align_corners=False)


def _assigned(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = 0
    return x
