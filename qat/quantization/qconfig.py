"""QConfig: what fake quantization the tensors of a layer get.

    prepare(model, inputs, qconfig=QConfig.of("minmax"))                        # one for the whole model
    prepare(model, inputs, qconfig={"head*": None, "stem*": QConfig.of("minmax")})    # by layer; None stays float

A quantization method is a subclass of `ActivationFakeQuantize` or `StoredFakeQuantize` in a file of its own; capture,
placement, convert and the engines only know those two.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from qat.quantization.fake_quantize import (
    ActivationFakeQuantize,
    EmbeddingFakeQuantize,
    FakeQuantize,
    StoredFakeQuantize,
    WeightFakeQuantize,
)
from qat.quantization.graph.nodes import enclosing
from qat.quantization.layouts import Layout
from qat.quantization.observer import make_observer


@dataclass(frozen=True, kw_only=True)
class QConfig:
    """How the tensors of a layer are quantized.

    Args:
        activation: makes the fake quantization of a tensor that the layer returns.
        weight: makes that of its weight, from the layouts in which kernels add two products in 16 bits.
        table: makes that of a table of embeddings.
        name: what a checkpoint calls it; one only loads into the same.
    """

    activation: Callable[[], ActivationFakeQuantize]
    weight: Callable[[Sequence[Layout]], StoredFakeQuantize] = WeightFakeQuantize
    table: Callable[[], StoredFakeQuantize] = EmbeddingFakeQuantize
    name: str = ""

    @classmethod
    def of(cls, observer: str, **changes: Any) -> QConfig:
        """Rounding to the range that an observer of this name finds; `ConfigError` for an unknown one."""
        make_observer(observer)
        return cls(**{"activation": partial(_observed, observer), "name": observer, **changes})


#: One for all layers, or by shell-style patterns over dotted layer names, of which the first that matches counts.
QConfigs: TypeAlias = QConfig | Mapping[str, QConfig | None]


def kept_float(qconfig: QConfigs | None) -> tuple[str, ...]:
    """The patterns of layers that stay float."""
    patterns = {} if qconfig is None or isinstance(qconfig, QConfig) else qconfig
    return tuple(pattern for pattern, chosen in patterns.items() if chosen is None)


def chosen_for(layer: str, qconfig: QConfigs | None, default: QConfig) -> QConfig:
    """What holds for a layer, by its name or that of a module around it."""
    if qconfig is None or isinstance(qconfig, QConfig):
        return qconfig or default
    for pattern, chosen in qconfig.items():
        if chosen is not None and any(fnmatch.fnmatchcase(name, pattern) for name in enclosing(layer)):
            return chosen
    return default


def described(qconfig: QConfigs | None) -> object:
    """The part of a checkpoint's scheme; None where the observer's name says all."""
    if qconfig is None:
        return None
    if isinstance(qconfig, QConfig):
        return qconfig.name
    return {pattern: chosen.name for pattern, chosen in qconfig.items() if chosen is not None} or None


def _observed(observer: str) -> ActivationFakeQuantize:
    return FakeQuantize(make_observer(observer))
