"""What an engine is, and the model that it makes of a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qat.errors import InputError
from qat.quantization.program.program import Int8Program, Ref, map_leaves
from qat.quantization.qparams import QParams
from qat.quantization.targets import Target


class Representation(Protocol):
    """How an engine holds integers; its kernel set provides this."""

    def integers(self, q: Any) -> Tensor: ...

    def from_integers(self, integers: Tensor, grid: QParams) -> Any: ...

    def running(self) -> AbstractContextManager[None]: ...


class Engine(ABC):
    """Runs programs on this machine."""

    name: str

    def unready(self, target: Target) -> str | None:
        """Why this engine could not run here what is made for `target`, as far as that is known before there is a program."""
        return None

    @abstractmethod
    def refusal(self, program: Int8Program) -> str | None:
        """Why this engine cannot run `program` here, exactly and without saturation; None when it can."""

    @abstractmethod
    def lower(self, program: Int8Program) -> Int8Model:
        """Pack the weights and bind every node to a kernel."""


@dataclass(frozen=True)
class Step:
    """One node bound to its kernel: values[target] = function(*values[sources]); then forget values[dead]."""

    name: str
    function: Callable[..., Any]
    sources: tuple[int, ...]
    target: int
    dead: tuple[int, ...]


class Int8Model(nn.Module):
    """A program bound to an engine's kernels. Inference only; it has no parameters.

    Args:
        program: what it computes.
        engine: name of the engine, for messages.
        steps: the bound nodes in order.
        slots: where each node's value stands.
        kernels: the engine's representation of integers.
    """

    def __init__(
        self,
        program: Int8Program,
        kernels: Representation,
        *,
        engine: str,
        steps: Sequence[Step],
        slots: dict[str, int],
    ) -> None:
        super().__init__()
        self.program = program
        self.engine = engine
        self._kernels = kernels
        self._steps = tuple(steps)
        self._slots = slots

    def forward(self, *inputs: Tensor) -> Any:
        """Float inputs as the program's specs say; float outputs in the structure of the captured model.

        Raises:
            InputError: wrong number, dtype or shape of inputs.
        """
        self._check(inputs)
        values: list[Any] = [None] * len(self._slots)
        values[: len(inputs)] = inputs
        with torch.inference_mode(), self._kernels.running():
            for step in self._steps:
                values[step.target] = step.function(*[values[i] for i in step.sources])
                for i in step.dead:
                    values[i] = None
        return map_leaves(self._result(values), _snapshot)  # copied into ordinary tensors, which autograd may save

    def watch(self, *inputs: Tensor, replay: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Like forward, and every node's value by name; integers come as uint8 tensors (tuples of them for a split).

        Args:
            replay: values of another engine's `watch`. Every node then computes from those instead of from what this
                engine made of the nodes before it: one layer at a time, each given the same input.
        """
        self._check(inputs)
        values: list[Any] = [None] * len(self._slots)
        values[: len(inputs)] = inputs
        seen: dict[str, Any] = {}
        grids = self.program.grids()
        own = {node.name for node in self.program.nodes}
        with torch.no_grad(), self._kernels.running():
            for step in self._steps:
                value = step.function(*[values[i] for i in step.sources])
                if step.name not in own:  # several nodes in one: what they make is seen and replayed under their own names
                    values[step.target] = value
                    continue
                grid = grids.get(step.name)
                seen[step.name] = map_leaves(value, self._kernels.integers if grid is not None else _snapshot)
                if replay is not None and step.name in replay:
                    back = _snapshot if grid is None else partial(_from_integers, self._kernels, grid)
                    value = map_leaves(replay[step.name], back)
                values[step.target] = value
        return self._result(values), seen

    def _result(self, values: list[Any]) -> Any:
        return map_leaves(self.program.output, lambda leaf: values[self._slots[leaf.name]] if isinstance(leaf, Ref) else leaf)

    def _check(self, inputs: Sequence[Any]) -> None:
        specs = self.program.inputs
        if len(inputs) != len(specs):
            raise InputError(f"the model takes {len(specs)} inputs ({', '.join(s.name for s in specs)}), got {len(inputs)}")
        for x, spec in zip(inputs, specs, strict=True):
            if not isinstance(x, Tensor):
                raise InputError(f"input {spec.name!r} must be a tensor, got {type(x).__name__}")
            fits = x.dim() == len(spec.shape) and all(n in (None, m) for n, m in zip(spec.shape, x.shape, strict=True))
            if not fits or x.dtype != spec.dtype or (x.device.type != "cpu" and self.engine != "reference"):
                shape = ", ".join("any" if n is None else str(n) for n in spec.shape)
                raise InputError(
                    f"input {spec.name!r} must be a {spec.dtype} CPU tensor of shape ({shape}), got {x.dtype} of shape "
                    f"{tuple(x.shape)} on {x.device.type}"
                )


def _from_integers(kernels: Representation, grid: QParams, integers: Tensor) -> Any:
    return kernels.from_integers(integers, grid)


def _snapshot(value: Any) -> Any:
    """A copy of a float tensor, which a later node may overwrite; sizes as they are."""
    return value.clone() if isinstance(value, Tensor) else value
