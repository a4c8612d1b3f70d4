"""A program bound node by node to the functions of a kernel set."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from qat.quantization.engines.engine import Int8Model, snapshot
from qat.quantization.program.program import Int8Program, Ref, map_leaves
from qat.quantization.qparams import QParams


class Representation(Protocol):
    """How an engine holds integers; its kernel set provides this."""

    def integers(self, q: Tensor) -> Tensor: ...

    def from_integers(self, integers: Tensor, grid: QParams) -> Tensor: ...

    def running(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Step:
    """One node bound to its kernel: values[target] = function(*values[sources]); then forget values[dead]."""

    name: str
    function: Callable[..., Any]
    sources: tuple[int, ...]
    target: int
    dead: tuple[int, ...]


class StepModel(Int8Model):
    """A program whose nodes are steps.

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
        super().__init__(program, engine=engine)
        self._kernels = kernels
        self._steps = tuple(steps)
        self._slots = slots

    def compute(self, *inputs: Tensor) -> object:
        values: list[object] = [None] * len(self._slots)
        values[: len(inputs)] = inputs
        with torch.inference_mode(), self._kernels.running():
            for step in self._steps:
                values[step.target] = step.function(*[values[i] for i in step.sources])
                for i in step.dead:
                    values[i] = None
        return self._result(values)

    def clock(self, *inputs: Tensor) -> dict[str, float]:
        """Seconds of every step in one pass, by name."""
        values: list[object] = [None] * len(self._slots)
        fitted = self._fitted(inputs)
        values[: len(fitted)] = fitted
        seconds: dict[str, float] = {}
        with torch.inference_mode(), self._kernels.running():
            for step in self._steps:
                start = time.perf_counter()
                values[step.target] = step.function(*[values[i] for i in step.sources])
                seconds[step.name] = time.perf_counter() - start
                for i in step.dead:
                    values[i] = None
        return seconds

    def look(self, inputs: Sequence[Tensor], replay: Mapping[str, object] | None) -> tuple[object, dict[str, object]]:
        values: list[object] = [None] * len(self._slots)
        values[: len(inputs)] = inputs
        seen: dict[str, object] = {}
        grids = self.program.grids()
        own = {node.name for node in self.program.nodes}
        with torch.no_grad(), self._kernels.running():
            for step in self._steps:
                value = step.function(*[values[i] for i in step.sources])
                if step.name not in own:  # several nodes in one: what they make is seen and replayed under their own names
                    values[step.target] = value
                    continue
                grid = grids.get(step.name)
                seen[step.name] = map_leaves(value, self._kernels.integers if grid is not None else snapshot)
                if replay is not None and step.name in replay:
                    back = snapshot if grid is None else partial(_from_integers, self._kernels, grid)
                    value = map_leaves(replay[step.name], back)
                values[step.target] = value
        return self._result(values), seen

    def _result(self, values: list[object]) -> object:
        return map_leaves(self.program.output, lambda leaf: values[self._slots[leaf.name]] if isinstance(leaf, Ref) else leaf)


def _from_integers(kernels: Representation, grid: QParams, integers: Tensor) -> Tensor:
    return kernels.from_integers(integers, grid)
