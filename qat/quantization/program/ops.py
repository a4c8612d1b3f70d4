"""The ops that a program may hold: an allowlist, checked before anything is built."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Elementwise:
    """A float function of one tensor, which an engine computes between reading integers and writing them.

    Args:
        aten: the overload in captured graphs, without `aten.`.
        function, in_place: the same on float32, into a new tensor and into the argument.
    """

    aten: str
    function: Callable[..., Tensor]
    in_place: Callable[..., Tensor]


#: Every element-wise op: allow-list, kernel tables and lowering read this one.
ELEMENTWISE: Mapping[str, Elementwise] = {
    "int8.hardswish": Elementwise("hardswish.default", F.hardswish, lambda x: F.hardswish(x, inplace=True)),
    "int8.hardsigmoid": Elementwise("hardsigmoid.default", F.hardsigmoid, lambda x: F.hardsigmoid(x, inplace=True)),
    "int8.sigmoid": Elementwise("sigmoid.default", torch.sigmoid, torch.sigmoid_),
    "int8.silu": Elementwise("silu.default", F.silu, lambda x: F.silu(x, inplace=True)),
    "int8.leaky_relu": Elementwise(
        "leaky_relu.default", F.leaky_relu, lambda x, slope=0.01: F.leaky_relu(x, slope, inplace=True)
    ),
    "int8.clamp": Elementwise("clamp.default", torch.clamp, torch.clamp_),
}

#: Layers with (x, weight, weight_scale, bias) as their first arguments.
LAYER_OPS = ("int8.conv1d", "int8.conv2d", "int8.linear")

#: Rows of an int8 table by index: (indices, weight, weight_scale).
TABLE_OPS = ("int8.embedding",)

#: Element-wise ops and pools that may take a grid or float and return a grid or float.
CHAIN_OPS = frozenset({*ELEMENTWISE, *(f"int8.{name}" for name in ("mul", "mean", "adaptive_avg_pool2d", "avg_pool2d"))})

INT8_OPS = frozenset({*LAYER_OPS, *TABLE_OPS, *CHAIN_OPS, "int8.quantize", "int8.dequantize", "int8.add", "int8.cat"})

#: Arithmetic on sizes.
SIZES: Mapping[str, Callable[..., object]] = {
    "size.add": operator.add,
    "size.sub": operator.sub,
    "size.mul": operator.mul,
    "size.floordiv": operator.floordiv,
    "size.truediv": operator.truediv,
    "size.mod": operator.mod,
    "size.neg": operator.neg,
    "size.getitem": operator.getitem,
}
SIZE_OPS = frozenset(SIZES)

#: Float and shape ops by overload name. A list of ops, not a namespace: `aten` also holds ops that open files.
ATEN_OPS = frozenset(
    f"aten.{name}"
    for name in """
    sym_size.int
    add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Scalar mul.Tensor mul.Scalar div.Tensor div.Scalar div.Tensor_mode
    neg.default abs.default exp.default log.default sqrt.default rsqrt.default pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar
    addcmul.default addcdiv.default
    square.default reciprocal.default erf.default sin.default cos.default tanh.default maximum.default minimum.default
    relu.default gelu.default silu.default sigmoid.default hardswish.default hardsigmoid.default clamp.default clamp.Tensor
    clamp_min.default clamp_max.default leaky_relu.default elu.default softplus.default mish.default prelu.default
    log_sigmoid.default logical_not.default logical_and.default logical_or.default
    bitwise_and.Tensor bitwise_or.Tensor bitwise_not.default
    eq.Scalar eq.Tensor ne.Scalar ne.Tensor lt.Scalar lt.Tensor le.Scalar le.Tensor gt.Scalar gt.Tensor ge.Scalar ge.Tensor
    where.self where.ScalarOther where.ScalarSelf where.Scalar masked_fill.Scalar masked_fill.Tensor
    softmax.int _softmax.default log_softmax.int scaled_dot_product_attention.default
    layer_norm.default group_norm.default batch_norm.default rms_norm.default instance_norm.default
    conv1d.default conv2d.default conv3d.default conv1d.padding conv2d.padding conv_transpose2d.input convolution.default
    linear.default matmul.default bmm.default mm.default addmm.default baddbmm.default einsum.default embedding.default
    max_pool2d.default avg_pool2d.default avg_pool1d.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
    adaptive_max_pool2d.default max_pool2d_with_indices.default
    mean.dim mean.default sum.dim_IntList sum.default amax.default amin.default max.dim min.dim argmax.default
    var.correction var_mean.correction std.correction linalg_vector_norm.default norm.ScalarOpt_dim cumsum.default
    topk.default sort.default gather.default index.Tensor index_select.default scatter.src scatter.value
    upsample_nearest2d.default upsample_nearest2d.vec upsample_bilinear2d.default upsample_bilinear2d.vec
    upsample_bicubic2d.default upsample_bicubic2d.vec pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default
    grid_sampler.default grid_sampler_2d.default im2col.default
    reshape.default reshape_as.default flatten.using_ints permute.default transpose.int t.default squeeze.default
    squeeze.dim squeeze.dims unsqueeze.default expand.default expand_as.default slice.Tensor select.int chunk.default
    split.Tensor split_with_sizes.default unbind.int stack.default cat.default roll.default flip.default repeat.default
    repeat_interleave.self_int tile.default pad.default constant_pad_nd.default unfold.default movedim.int
    slice_scatter.default select_scatter.default index_put.default view_as.default unflatten.int swapaxes.default
    contiguous.default clone.default to.dtype to.dtype_layout _to_copy.default type_as.default
    arange.default arange.start arange.start_step zeros.default ones.default full.default zeros_like.default
    ones_like.default full_like.default new_zeros.default new_ones.default new_full.default linspace.default
    meshgrid.indexing meshgrid.default triu.default tril.default one_hot.default scalar_tensor.default
    nan_to_num.default floor.default ceil.default round.default isnan.default isinf.default any.dim any.default
    all.dim all.default outer.default diff.default
    acos.default acosh.default asin.default asinh.default atan.default atan2.default atanh.default cosh.default sinh.default
    tan.default exp2.default expm1.default log10.default log1p.default log2.default logit.default erfc.default sinc.default
    celu.default selu.default glu.default hardshrink.default softshrink.default threshold.default
    sign.default sgn.default trunc.default frac.default round.decimals deg2rad.default rad2deg.default isfinite.default
    fmod.Tensor fmod.Scalar remainder.Tensor remainder.Scalar remainder.Scalar_Tensor div.Scalar_mode
    fmax.default fmin.default lerp.Scalar lerp.Tensor hypot.default copysign.Tensor xlogy.Tensor logaddexp.default
    clip.default clip.Tensor clamp_max.Tensor clamp_min.Tensor
    logical_xor.default bitwise_and.Scalar bitwise_or.Scalar bitwise_xor.Tensor bitwise_xor.Scalar
    any.dims argmin.default prod.default prod.dim_int logsumexp.default var.dim std.dim cumprod.default _cdist_forward.default
    _log_softmax.default native_layer_norm.default native_group_norm.default
    diagonal.default scatter_add.default scatter_reduce.two copy.default fill.Scalar col2im.default
    conv_transpose1d.default conv_transpose3d.input conv3d.padding
    max_pool1d.default max_pool3d.default max_pool3d_with_indices.default adaptive_max_pool1d.default avg_pool3d.default
    adaptive_max_pool3d.default _trilinear.default median.default median.dim
    adaptive_avg_pool3d.default _adaptive_avg_pool2d.default _adaptive_avg_pool3d.default
    reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default
    replication_pad1d.default replication_pad2d.default replication_pad3d.default
    upsample_nearest1d.default upsample_nearest1d.vec upsample_nearest3d.default upsample_nearest3d.vec
    _upsample_nearest_exact1d.default _upsample_nearest_exact1d.vec _upsample_nearest_exact2d.default
    _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.default _upsample_nearest_exact3d.vec
    upsample_linear1d.default upsample_linear1d.vec upsample_trilinear3d.default upsample_trilinear3d.vec
    _upsample_bilinear2d_aa.default _upsample_bilinear2d_aa.vec
    lstm.input gru.input rnn_tanh.input rnn_relu.input
    """.split()
)

#: Ops on floats whose last bit depends on the instruction set: other vector widths add in another order, other libraries
#: approximate exp. Between machines of one kind they are equal.
ISA_DEPENDENT = frozenset(
    """
    exp log rsqrt pow erf sin cos tanh gelu silu sigmoid softplus mish elu log_sigmoid softmax _softmax log_softmax
    scaled_dot_product_attention layer_norm group_norm batch_norm rms_norm instance_norm conv1d conv2d conv3d conv_transpose2d
    convolution linear matmul bmm mm addmm baddbmm einsum mean sum var var_mean std linalg_vector_norm norm cumsum
    upsample_bilinear2d upsample_bicubic2d grid_sampler grid_sampler_2d avg_pool1d avg_pool2d adaptive_avg_pool1d
    adaptive_avg_pool2d hardswish
    acos acosh asin asinh atan atan2 atanh cosh sinh tan exp2 expm1 log10 log1p log2 logit erfc sinc celu selu glu hypot xlogy
    logaddexp fmod remainder prod logsumexp cumprod _cdist_forward _log_softmax native_layer_norm native_group_norm scatter_add
    scatter_reduce col2im conv_transpose1d conv_transpose3d avg_pool3d adaptive_avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa _trilinear lstm gru rnn_tanh rnn_relu
    """.split()
)

ALLOWED_OPS = INT8_OPS | SIZE_OPS | ATEN_OPS
