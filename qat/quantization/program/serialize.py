"""Programs as JSON data, and back. Numbers survive exactly: a float32 is written as the float64 that equals it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qat.errors import ProgramError
from qat.quantization.graph.calls import InputSpec
from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef
from qat.quantization.qparams import QParams

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_FORMATS = {
    str(layout).removeprefix("torch."): layout
    for layout in (torch.contiguous_format, torch.channels_last, torch.preserve_format)
}


def to_json(program: Int8Program) -> dict[str, object]:
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
        "target": program.target,
    }


def from_json(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Int8Program:
    """Rebuild and validate a program; `ProgramError` for anything malformed."""
    try:
        return Int8Program(
            inputs=tuple(InputSpec(name=s["name"], dtype=_DTYPES[s["dtype"]], shape=tuple(s["shape"])) for s in data["inputs"]),
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
            target=data["target"],
        )
    except ProgramError:
        raise
    except Exception as error:
        raise ProgramError(f"malformed program: {type(error).__name__}: {error}") from error


def _name(value: object) -> str:
    return str(value).removeprefix("torch.")


def _encode(value: object) -> object:
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


def _decode(value: object) -> Any:
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
