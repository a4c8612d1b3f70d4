"""Int8Program: what is deployed, as data. Nodes, tensors, inputs, output; no code, no kernels, no quantized dtypes.

A node is one op of the allowlist with its arguments. Its `grid` says that its value is integers on that grid; without one
the value is float (or a size). Ops named `int8.*` are integer kernels and mean, in exact arithmetic:

    int8.quantize(x)                 q = clamp(round(x / scale) + zero_point, 0, 255)          float -> grid
    int8.dequantize(q)               (q - zero_point) * scale                                  grid -> float
    int8.conv1d / conv2d / linear    acc = sum (q_x - z_x) q_w in int32; then, in float32,
                                     q = clamp(round((acc + b / (s_x s_w)) * (s_x s_w / s_y)) + z_y, 0, 255),
                                     or without a grid: acc * (s_x s_w) + b, rounded once
    int8.add, mul, cat, silu, ...    quantize(op(dequantize(q), ...)) in float32
    int8.mean, *_avg_pool2d          exact integer sums, then one scaling and one rounding

An `aten.*` op whose input is on a grid keeps it (pooling by maximum, shape ops); any other `aten.*` op computes in float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qat.errors import ProgramError, near
from qat.quantization.capture import InputSpec
from qat.quantization.qparams import QParams

#: Layers with (x, weight, weight_scale, bias) as their first arguments.
LAYER_OPS = ("int8.conv1d", "int8.conv2d", "int8.linear")

INT8_OPS = frozenset(
    {
        *LAYER_OPS,
        *("int8.quantize", "int8.dequantize", "int8.add", "int8.mul", "int8.cat", "int8.mean"),
        *("int8.adaptive_avg_pool2d", "int8.avg_pool2d", "int8.hardswish", "int8.hardsigmoid", "int8.sigmoid"),
        *("int8.silu", "int8.leaky_relu", "int8.clamp"),
    }
)

#: Arithmetic on sizes.
SIZE_OPS = frozenset({"size.add", "size.sub", "size.mul", "size.floordiv", "size.truediv", "size.mod", "size.neg", "size.getitem"})

#: Float and shape ops by overload name. A list of ops, not a namespace: `aten` also holds ops that open files.
ATEN_OPS = frozenset(
    f"aten.{name}"
    for name in """
    sym_size.int
    add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Scalar mul.Tensor mul.Scalar div.Tensor div.Scalar div.Tensor_mode
    neg.default abs.default exp.default log.default sqrt.default rsqrt.default pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar
    square.default reciprocal.default erf.default sin.default cos.default tanh.default maximum.default minimum.default
    relu.default gelu.default silu.default sigmoid.default hardswish.default hardsigmoid.default clamp.default clamp.Tensor
    clamp_min.default clamp_max.default leaky_relu.default elu.default softplus.default mish.default prelu.default
    log_sigmoid.default logical_not.default logical_and.default logical_or.default bitwise_and.Tensor bitwise_not.default
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
    """.split()
)

ALLOWED_OPS = INT8_OPS | SIZE_OPS | ATEN_OPS


@dataclass(frozen=True)
class Ref:
    """The value of an earlier node or input."""

    name: str


@dataclass(frozen=True)
class TensorRef:
    """A stored tensor."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """One op of a program.

    Args:
        name: unique.
        op: from `ALLOWED_OPS`.
        args, kwargs: nested tuples of `Ref`, `TensorRef`, numbers, bools, strings, None, dtypes and memory formats.
        grid: the output's grid; None for a float value.
        layer: dotted name of the model's layer it comes from, for reports.
    """

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    grid: QParams | None = None
    layer: str = ""


@dataclass(frozen=True, kw_only=True)
class Int8Program:
    """A deployable network. Constructing one validates it.

    Args:
        inputs: the tensors it takes.
        nodes: in execution order.
        output: nested tuple, list or dict of `Ref`.
        tensors: plain int8, uint8, float32, int64 and bool tensors by name.
        backend: the kernel table it was converted for.
        target: the target profile whose saturation rules its weights obey.
    """

    inputs: tuple[InputSpec, ...]
    nodes: tuple[Node, ...]
    output: Any
    tensors: Mapping[str, Tensor]
    backend: str
    target: str

    def __post_init__(self) -> None:
        known: dict[str, QParams | None] = {spec.name: None for spec in self.inputs}
        used: set[str] = set()
        for node in self.nodes:
            if node.op not in ALLOWED_OPS:
                raise ProgramError(f"node {node.name!r}: op {node.op!r} is not allowed in a program.{_near_op(node.op)}")
            if node.name in known:
                raise ProgramError(f"node name {node.name!r} is used twice")
            for leaf in leaves((node.args, tuple(node.kwargs.values()))):
                if isinstance(leaf, Ref) and leaf.name not in known:
                    raise ProgramError(f"node {node.name!r} refers to {leaf.name!r}, which is not defined before it")
                if isinstance(leaf, TensorRef):
                    used.add(leaf.name)
                    if leaf.name not in self.tensors:
                        raise ProgramError(f"node {node.name!r} needs tensor {leaf.name!r}, which is missing")
            self._check_layer(node)
            known[node.name] = node.grid
        for leaf in leaves(self.output):
            if not isinstance(leaf, Ref) or leaf.name not in known:
                raise ProgramError(f"the output refers to {leaf!r}, which is no node of the program")
        if extra := sorted(set(self.tensors) - used):
            raise ProgramError(f"tensors that no node uses: {', '.join(extra[:5])}")

    def _check_layer(self, node: Node) -> None:
        """Shapes and dtypes that a kernel would otherwise read past."""
        if node.op not in LAYER_OPS:
            return
        weight, scale = (self.tensors[ref.name] for ref in node.args[1:3])
        bias = self.tensors[node.args[3].name] if node.args[3] is not None else None
        if weight.dtype != torch.int8 or scale.dtype != torch.float32 or scale.shape != weight.shape[:1]:
            raise ProgramError(
                f"node {node.name!r}: weight must be int8 of shape (C, ...) and its scale float32 of shape (C,), got "
                f"{weight.dtype} {tuple(weight.shape)} and {scale.dtype} {tuple(scale.shape)}"
            )
        if bias is not None and (bias.dtype != torch.float32 or bias.shape != scale.shape):
            raise ProgramError(f"node {node.name!r}: bias must be float32 of shape {tuple(scale.shape)}")
        if not bool((scale > 0).all() and torch.isfinite(scale).all()):
            raise ProgramError(f"node {node.name!r}: weight scales must be finite and positive")

    def grids(self) -> dict[str, QParams]:
        """Name -> grid of every value that is integers."""
        return {node.name: node.grid for node in self.nodes if node.grid is not None}

    def layers(self) -> Iterator[Node]:
        """The convolutions and linear layers that run as integers."""
        return (node for node in self.nodes if node.op in LAYER_OPS)


def leaves(value: Any) -> Iterator[Any]:
    """The scalars, references and dtypes inside nested tuples, lists and dicts."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    else:
        yield value


def map_leaves(value: Any, function: Any) -> Any:
    """`value` with `function` applied to each leaf; containers keep their kind."""
    if isinstance(value, tuple):
        return tuple(map_leaves(item, function) for item in value)
    if isinstance(value, list):
        return [map_leaves(item, function) for item in value]
    if isinstance(value, Mapping):
        return {key: map_leaves(item, function) for key, item in value.items()}
    return function(value)


def _near_op(op: str) -> str:
    return near(op, ALLOWED_OPS).split(" Allowed:")[0]


# --- JSON ----------------------------------------------------------------------------------------------------------

_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)}
_FORMATS = {str(f).removeprefix("torch."): f for f in (torch.contiguous_format, torch.channels_last, torch.preserve_format)}


def to_json(program: Int8Program) -> dict[str, Any]:
    """The program without its tensors, as plain JSON data."""
    return {
        "inputs": [{"name": s.name, "dtype": _name(s.dtype), "shape": list(s.shape)} for s in program.inputs],
        "nodes": [
            {
                "name": node.name,
                "op": node.op,
                "args": [_encode(arg) for arg in node.args],
                **({"kwargs": _encode(dict(node.kwargs))} if node.kwargs else {}),
                **({"grid": {"scale": node.grid.scale, "zero_point": node.grid.zero_point}} if node.grid else {}),
                **({"layer": node.layer} if node.layer else {}),
            }
            for node in program.nodes
        ],
        "output": _encode(program.output),
        "backend": program.backend,
        "target": program.target,
    }


def from_json(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Int8Program:
    """Rebuild and validate a program; `ProgramError` for anything malformed."""
    try:
        return Int8Program(
            inputs=tuple(
                InputSpec(name=s["name"], dtype=_DTYPES[s["dtype"]], shape=tuple(s["shape"])) for s in data["inputs"]
            ),
            nodes=tuple(
                Node(
                    name=n["name"],
                    op=n["op"],
                    args=tuple(_decode(a) for a in n["args"]),
                    kwargs=_decode(n.get("kwargs", {})),
                    grid=QParams(**n["grid"]) if "grid" in n else None,
                    layer=n.get("layer", ""),
                )
                for n in data["nodes"]
            ),
            output=_decode(data["output"]),
            tensors=tensors,
            backend=data["backend"],
            target=data["target"],
        )
    except ProgramError:
        raise
    except Exception as error:
        raise ProgramError(f"malformed program: {type(error).__name__}: {error}") from error


def _name(value: object) -> str:
    return str(value).removeprefix("torch.")


def _encode(value: Any) -> Any:
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, TensorRef):
        return {"tensor": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": _name(value)}
    if isinstance(value, torch.memory_format):
        return {"memory_format": _name(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ProgramError(f"a program cannot hold {value!r} of type {type(value).__name__}")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not value:
        return {}
    if len(value) != 1:
        raise ProgramError(f"malformed argument {value!r}")
    (kind, content), *_ = value.items()
    if kind == "ref":
        return Ref(content)
    if kind == "tensor":
        return TensorRef(content)
    if kind == "dtype":
        return _DTYPES[content]
    if kind == "memory_format":
        return _FORMATS[content]
    if kind == "tuple":
        return tuple(_decode(item) for item in content)
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {key: _decode(item) for key, item in content.items()}
    raise ProgramError(f"malformed argument {value!r}")

