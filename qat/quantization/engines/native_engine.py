"""What PyTorch's native engines have in common: what they refuse, and the proof that what they run cannot saturate."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from qat.environment import isa
from qat.quantization.engines.engine import Engine, Int8Model
from qat.quantization.engines.lowering import bind_steps
from qat.quantization.engines.native import NativeKernels, missing, quantized_engine
from qat.quantization.engines.padding import padded_layers, widen
from qat.quantization.engines.probe import Saturation, probe
from qat.quantization.layouts import kind_of
from qat.quantization.program.program import Int8Program, Node
from qat.quantization.qparams import PAIR_BOUND
from qat.quantization.targets import TARGETS, Target, running


class NativeEngine(Engine):
    """An engine of `torch.ops.quantized`. It runs a program when no sum of its weights can saturate in the kernels of this
    machine: what the program was made for is not asked."""

    kernels: type[NativeKernels]

    def saturation(self) -> Saturation:
        """What this engine's kernels add in 16 bits here; probed once per process."""
        return _probed(self)

    def unready(self, target: Target) -> str | None:
        if self.name not in target.engines:
            return (
                f"what quantization={target.name} makes is for engines=[{','.join(target.engines)}]; {self.name} is for "
                f"quantization={' or quantization='.join(running(self.name))}"
            )
        if lacks := missing(self.name):
            others = [other.name for other in TARGETS.values() if any(missing(engine) is None for engine in other.engines)]
            return f"{lacks}. Networks that run here are those of quantization={' or '.join(others)}" if others else lacks
        found = self.saturation()
        unbounded = [kind.value for kind, layouts in found.layouts.items() if layouts and kind not in target.bounded]
        if not unbounded:
            return _unknown(self.name, found)
        return (
            f"what quantization={target.name} makes is for {target.machines}. This CPU ({isa()}) adds products of "
            f"{', '.join(unbounded)} layers in 16 bits, and they would saturate. Take quantization=x86, which every x86 CPU "
            "runs exactly"
        )

    def refusal(self, program: Int8Program) -> str | None:
        if lacks := missing(self.name):
            return lacks
        found = self.saturation()
        if unknown := _unknown(self.name, found):
            return unknown
        for node, weight in packed_weights(program):
            groups = node.args[7] if len(node.args) > 4 else 1
            if (worst := found.worst(kind_of(node.op, weight, groups), weight)) is not None:
                channel, total = worst
                remedy = "any" if program.target in ("any", "arm") else "x86"  # the one with the same kernels
                return (
                    f"layer {node.layer or node.name!r} could saturate on this CPU ({isa()}): two neighbouring weights of "
                    f"output channel {channel} add up to {total}, and their products are added in 16 bits here, where "
                    f"{PAIR_BOUND} is the most that fits. The program was made for target {program.target!r}; make it with "
                    f"quantization={remedy}, which every x86 CPU runs exactly. A QAT checkpoint needs no training for that: "
                    f"qat-export checkpoint=FILE quantization={remedy} says what it costs"
                )
        return None

    def bind(self, program: Int8Program) -> Int8Model:
        with quantized_engine(self.name):
            return bind_steps(program, self.kernels(), engine=self.name)


@cache
def _probed(engine: NativeEngine) -> Saturation:
    with quantized_engine(engine.name):
        return probe(engine.kernels(), floats=engine.kernels.quantizes_inside)


def _unknown(engine: str, found: Saturation) -> str | None:
    """Why an engine must not be used at all; None when it adds as this version of qat knows it."""
    if not found.unexpected:
        return None
    return (
        f"its kernels in PyTorch {torch.__version__} on this CPU ({isa()}) add other products in 16 bits than this qat knows: "
        f"{'; '.join(found.unexpected[:3])}. Sums could be wrong. Use engine 'reference', and please report this line"
    )


def packed_weights(program: Int8Program) -> Iterator[tuple[Node, Tensor]]:
    """Every layer with its int8 weight as a kernel packs it; layers that may take over a padding come a second time, framed.

    Merged siblings and groups (`siblings.py`, `groups.py`) keep every row and its neighbours, so they need no mention.
    """
    padded = padded_layers(program)
    for node in program.layers():
        weight = program.tensors[node.args[1].name]
        yield node, weight
        if node.name in padded and (wide := widen(node, padded[node.name], weight)) is not None:
            yield node, wide.weight
