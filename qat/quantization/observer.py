"""Range estimators: what [low, high] should the grid of a tensor cover?

All state lives in buffers whose shapes are fixed at construction, so it survives checkpoints, DDP and resume. The ranks of a
distributed training hold the same state at any time: that of one process with the batches of all. So whenever one observes,
all have to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qat.errors import ConfigError, near
from qat.quantization.qparams import ACTIVATION_HIGH, affine_qparams
from qat.ranks import range_over_ranks, sum_over_ranks


class Observer(nn.Module, ABC):
    """Looks at tensors and estimates the range that their grid should cover."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(torch.inf))
        self.register_buffer("high", torch.tensor(-torch.inf))

    @abstractmethod
    def observe(self, x: Tensor) -> None:
        """Take one more tensor of any shape into account; no gradient."""

    @abstractmethod
    def range(self) -> tuple[Tensor, Tensor]:
        """The estimated (low, high), each of shape (); low > high before the first observation."""

    def seen(self) -> Tensor:
        """Whether anything was observed yet, as a bool tensor of shape () (no synchronisation)."""
        return self.low <= self.high


def _extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum over the tensors of all ranks.

    Read in memory order: nine times faster than over a channels-last tensor's dimensions.
    """
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    low, high = torch.aminmax(x.flatten())
    return range_over_ranks(low, high)


class MinMaxObserver(Observer):
    """The smallest and the largest value ever seen."""

    def observe(self, x: Tensor) -> None:
        low, high = _extremes(x)
        torch.minimum(self.low, low, out=self.low)
        torch.maximum(self.high, high, out=self.high)

    def range(self) -> tuple[Tensor, Tensor]:
        return self.low, self.high


class MovingAverageObserver(Observer):
    """Exponential moving average of each batch's minimum and maximum.

    low <- low + momentum * (min(x) - low), likewise high; the first batch is taken whole.

    Reference: Jacob et al. 2018, arXiv:1712.05877, section 3.1.
    """

    def __init__(self, *, momentum: float = 0.05) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise ConfigError(f"observer momentum must lie in (0, 1], got {momentum}")
        self.momentum = momentum

    def observe(self, x: Tensor) -> None:
        low, high = _extremes(x)
        seen = self.seen()
        self.low.copy_(torch.where(seen, torch.lerp(self.low, low, self.momentum), low))
        self.high.copy_(torch.where(seen, torch.lerp(self.high, high, self.momentum), high))

    def range(self) -> tuple[Tensor, Tensor]:
        return self.low, self.high


class HistogramObserver(Observer):
    """A histogram of everything seen; the range is the one whose grid loses the least mean squared error.

    The histogram has `bins` equal bins over [low, high]. A tensor that reaches further widens it: old counts move to
    the bins that now hold their centres. `range` shrinks first `high`, then `low` towards zero in `candidates` steps each
    and takes what gives the smallest expected (x - x')^2 over the bin centres.

    Reference: Nagel et al. 2021, arXiv:2106.08295, section 3.1 (MSE range setting).
    """

    counts: Tensor

    def __init__(self, *, bins: int = 2048, candidates: int = 80) -> None:
        super().__init__()
        if bins < 256 or candidates < 1:
            raise ConfigError(f"a histogram needs bins >= 256 and candidates >= 1, got {bins} and {candidates}")
        self.bins, self.candidates = bins, candidates
        self.register_buffer("counts", torch.zeros(bins))

    def observe(self, x: Tensor) -> None:
        x = x.float()
        smallest, largest = _extremes(x)
        low, high = torch.minimum(self.low, smallest), torch.maximum(self.high, largest)
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            self.low.copy_(low)
            self.high.copy_(high)
            return
        if bool(self.seen()) and bool((low < self.low) | (high > self.high)):
            index = self._bin(self._centres(), low, high)
            self.counts.copy_(torch.zeros_like(self.counts).index_add_(0, index, self.counts))
        self.low.copy_(low)
        self.high.copy_(high)
        counts = torch.bincount(self._bin(x.flatten(), low, high), minlength=self.bins).to(self.counts.dtype)
        self.counts.add_(sum_over_ranks(counts))

    def range(self) -> tuple[Tensor, Tensor]:
        if not bool(self.seen()) or not bool(torch.isfinite(self.low) & torch.isfinite(self.high)):
            return self.low, self.high
        centres = self._centres()
        shrink = torch.linspace(1.0, 0.2, self.candidates, device=centres.device)
        high = self.high * shrink[self._errors(centres, self.low.expand_as(shrink), self.high * shrink).argmin()]
        low = self.low * shrink[self._errors(centres, self.low * shrink, high.expand_as(shrink)).argmin()]
        return low, high

    def _centres(self) -> Tensor:
        steps = torch.arange(self.bins, device=self.low.device, dtype=torch.float32) + 0.5
        return self.low + (self.high - self.low) * steps / self.bins

    def _bin(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        width = ((high - low) / self.bins).clamp(min=torch.finfo(torch.float32).tiny)
        return ((x - low) / width).long().clamp(0, self.bins - 1)

    def _errors(self, centres: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Expected squared error of each candidate range; `low` and `high` of shape (K,), result of shape (K,)."""
        scale, zero_point = (q.unsqueeze(1) for q in affine_qparams(low, high))
        quantized = torch.round(centres / scale).add(zero_point).clamp(0, ACTIVATION_HIGH)
        return (((quantized - zero_point) * scale - centres).square() * self.counts).sum(1)


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMaxObserver,
    "moving_average": MovingAverageObserver,
    "histogram": HistogramObserver,
}


def make_observer(name: str) -> Observer:
    """A fresh observer by name; `ConfigError` when there is none."""
    if name not in OBSERVERS:
        raise ConfigError(f"unknown observer {name!r}.{near(name, OBSERVERS)}")
    return OBSERVERS[name]()
