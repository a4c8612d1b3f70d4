"""What every kind of data lets its user choose: how batches are made, and which samples there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from qat.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How batches are made.

    Args:
        batch_size: training samples per batch and process; the incomplete last batch of an epoch is dropped.
        eval_batch_size: None takes `batch_size`; nothing is dropped.
        num_workers: processes that make batches; 0 makes them in this one.
        seed: of the order of training samples and of their augmentation.

    Raises:
        ConfigError: one of them is too small.
    """

    batch_size: int = 64
    eval_batch_size: int | None = None
    num_workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, batch_size=self.batch_size, eval_batch_size=self.eval_batch_size)
        check_at_least(0, num_workers=self.num_workers, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which samples of a source are used.

    Args:
        val_fraction: share of the training samples held out when the source has no validation split, in (0, 1).
        limit_train, limit_val, limit_test: use only so many, chosen stratified; None uses all.
        corrupt_budget: share of the samples that may be unreadable or empty, in [0, 1]; they are left out and named.
        split_seed: of what is held out and of what a limit chooses; kept apart from the seed of training, so that runs with
            several seeds are judged on the same samples.

    Raises:
        ConfigError: one of them is out of range.
    """

    val_fraction: float = 0.1
    limit_train: int | None = None
    limit_val: int | None = None
    limit_test: int | None = None
    corrupt_budget: float = 0.01
    split_seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(0, split_seed=self.split_seed)
        check_at_least(1, limit_train=self.limit_train, limit_val=self.limit_val, limit_test=self.limit_test)
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"data.val_fraction must lie between 0 and 1, got {self.val_fraction}")
        if not 0 <= self.corrupt_budget <= 1:
            raise ConfigError(f"data.corrupt_budget is a fraction in [0, 1], got {self.corrupt_budget}")

    @property
    def limits(self) -> dict[str, int | None]:
        """At most so many samples, per part."""
        return {"train": self.limit_train, "val": self.limit_val, "test": self.limit_test}


#: The fields of both: keys that data of every kind have.
SHARED = tuple(known.name for options in (Batching, Selection) for known in fields(options))


def grouped(options: Mapping[str, Any]) -> tuple[Batching, Selection, dict[str, Any]]:
    """Flat options as the two groups, and those that belong to neither.

    Raises:
        ConfigError: see the groups.
    """
    first, second = ({it.name: options[it.name] for it in fields(kind) if it.name in options} for kind in (Batching, Selection))
    return Batching(**first), Selection(**second), {name: value for name, value in options.items() if name not in SHARED}


def check_at_least(low: int, **options: int | None) -> None:
    """`ConfigError` for an option below `low`; None passes. The message names the key of the configuration."""
    for name, value in options.items():
        if value is not None and value < low:
            raise ConfigError(f"data.{name} must be at least {low}, got {value}")
