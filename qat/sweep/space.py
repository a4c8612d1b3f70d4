"""What a search may try: one dimension per key of the configuration, for Optuna and for W&B alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

from qat.errors import ConfigError

if TYPE_CHECKING:  # a grid, which tries choices alone, needs no Optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


@dataclass(frozen=True, kw_only=True)
class Dimension(ABC):
    """The values that one key may take."""

    key: str

    @abstractmethod
    def distribution(self) -> BaseDistribution:
        """As Optuna draws from it."""

    @abstractmethod
    def parameter(self) -> dict[str, Any]:
        """As `parameters` of a W&B sweep describes it."""

    @abstractmethod
    def example(self) -> Any:
        """The first of them."""

    def to_json(self) -> dict[str, object]:
        """Plain values that tell one dimension from another."""
        return {"kind": type(self).__name__, **asdict(self)}


@final
@dataclass(frozen=True, kw_only=True)
class Choice(Dimension):
    """One of some values, written as on the command line."""

    values: tuple[str, ...]

    def distribution(self) -> CategoricalDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def parameter(self) -> dict[str, object]:
        return {"values": list(self.values)}

    def example(self) -> str:
        return self.values[0]


@final
@dataclass(frozen=True, kw_only=True)
class Interval(Dimension):
    """Numbers from `low` to `high`, both included; evenly spread, or with `log` their logarithms."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"{self.key}: an interval goes from a smaller to a larger number, got {self.low} to {self.high}")
        if self.log and self.low <= 0:
            raise ConfigError(f"{self.key}: a logarithmic interval starts above 0, got {self.low}")
        if self.integer and not all(float(number).is_integer() for number in (self.low, self.high, self.step or 1)):
            raise ConfigError(f"{self.key}: whole numbers go from one to another, got {self.low} to {self.high}")
        if self.log and self.step is not None:
            raise ConfigError(f"{self.key}: a logarithmic interval has no step; leave out one of both")

    def distribution(self) -> FloatDistribution | IntDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def parameter(self) -> dict[str, object]:
        if self.step is not None and not (self.integer and self.step == 1):
            count = round((self.high - self.low) / self.step) + 1  # W&B's q_uniform has multiples of q, whatever min is
            numbers = [self.low + i * self.step for i in range(count)]
            return {"values": [int(number) for number in numbers] if self.integer else numbers}
        if self.integer:
            kind = {"distribution": "q_log_uniform_values", "q": 1} if self.log else {"distribution": "int_uniform"}
            return {**kind, "min": int(self.low), "max": int(self.high)}
        return {"distribution": "log_uniform_values" if self.log else "uniform", "min": self.low, "max": self.high}

    def example(self) -> float:
        return int(self.low) if self.integer else self.low


def distributions(space: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """The whole space for `Study.ask`."""
    return {dimension.key: dimension.distribution() for dimension in space}
