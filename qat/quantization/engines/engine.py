"""What an engine is, and the model that it makes of a program.

A *step engine* binds node by node to a kernel set (`lowering.py`); a *whole-graph engine* hands the program to another runtime
(`whole.py`). Both are one file and a line in `ENGINES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from qat.errors import InputError
from qat.quantization.graph.calls import flat_inputs
from qat.quantization.program.program import Int8Program, map_leaves
from qat.quantization.targets import Target


class Engine(ABC):
    """Runs programs on this machine."""

    name: str

    #: Whether it equals `reference` bit for bit; the others round in another order.
    exact: bool = False

    def unready(self, target: Target) -> str | None:
        """Why this engine could not run here what is made for `target`, as far as that is known before there is a program."""
        return None

    @abstractmethod
    def refusal(self, program: Int8Program) -> str | None:
        """Why this engine cannot run `program` here, exactly and without saturation; None when it can."""

    @abstractmethod
    def bind(self, program: Int8Program) -> Int8Model:
        """A model that computes the program on this engine; here weights are packed."""


class Int8Model(nn.Module, ABC):
    """A program bound to an engine. Inference only; it has no parameters.

    Args:
        program: what it computes.
        engine: name of the engine, for messages.
    """

    def __init__(self, program: Int8Program, *, engine: str) -> None:
        super().__init__()
        self.program = program
        self.engine = engine

    def forward(self, *args: object, **kwargs: object) -> object:
        """Called as the captured model is, see `calls.py`; it returns what the model returns, in tuples, lists and dicts.

        Raises:
            InputError: wrong number, names, dtype or shape of inputs.
        """
        inputs = self._fitted(args, kwargs)
        return map_leaves(self.compute(*inputs), snapshot)  # copied into ordinary tensors, which autograd may save

    def __reduce__(self) -> tuple[object, ...]:
        """Copied, and sent to other processes, as the program; it is bound again where it arrives."""
        return _bound_again, (self.program, self.engine)

    def watch(self, *inputs: Tensor, replay: Mapping[str, object] | None = None) -> tuple[Any, dict[str, Any]]:
        """Like forward, and nodes' values by name; integers come as uint8 tensors (tuples of them for a split).

        Args:
            replay: values of another engine's `watch`. Every node then computes from those instead of from what this
                engine made of the nodes before it: one layer at a time, each given the same input.
        """
        return self.look(self._fitted(inputs), replay)

    @abstractmethod
    def compute(self, *inputs: Tensor) -> object:
        """The outputs for inputs that fit."""

    @abstractmethod
    def look(self, inputs: Sequence[Tensor], replay: Mapping[str, object] | None) -> tuple[object, dict[str, object]]:
        """See `watch`; the inputs fit."""

    def _fitted(self, args: Sequence[object], kwargs: Mapping[str, object] = MappingProxyType({})) -> tuple[Tensor, ...]:
        inputs = flat_inputs(args, kwargs, self.program.inputs)
        for x, spec in zip(inputs, self.program.inputs, strict=True):
            if x.device.type != "cpu" and self.engine != "reference":
                raise InputError(
                    f"input {spec.name!r} must be a CPU tensor for engine {self.engine!r}, got one on {x.device.type}"
                )
        return inputs


def _bound_again(program: Int8Program, engine: str) -> Int8Model:
    from qat.quantization.engines import lower  # the registry stands above

    return lower(program, engine)


def snapshot(value: object) -> object:
    """A copy of a float tensor, which a later node may overwrite; sizes as they are."""
    return value.clone() if isinstance(value, Tensor) else value
