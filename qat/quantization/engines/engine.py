"""What an engine is, and the model that it makes of a program.

A *step engine* binds node by node to a kernel set (`lowering.py`); a *whole-graph engine* hands the program to another runtime
(`whole.py`). Both are one file and a line in `ENGINES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from qat.errors import InputError
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

    def forward(self, *inputs: Tensor) -> object:
        """Float inputs as the program's specs say; float outputs in the structure of the captured model.

        Raises:
            InputError: wrong number, dtype or shape of inputs.
        """
        self._check(inputs)
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
        self._check(inputs)
        return self.look(inputs, replay)

    @abstractmethod
    def compute(self, *inputs: Tensor) -> object:
        """The outputs for inputs that fit."""

    @abstractmethod
    def look(self, inputs: Sequence[Tensor], replay: Mapping[str, object] | None) -> tuple[object, dict[str, object]]:
        """See `watch`; the inputs fit."""

    def _check(self, inputs: Sequence[object]) -> None:
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


def _bound_again(program: Int8Program, engine: str) -> Int8Model:
    from qat.quantization.engines import lower  # the registry stands above

    return lower(program, engine)


def snapshot(value: object) -> object:
    """A copy of a float tensor, which a later node may overwrite; sizes as they are."""
    return value.clone() if isinstance(value, Tensor) else value
