"""The iterable that Lightning gets: batches that go on where an interrupted epoch stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, final

import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, Dataset

from qat.data.sampler import EpochSampler, Key

Batch = TypeVar("Batch")


def position_in_epoch(trainer: Trainer | None) -> int | None:
    """Batches of this epoch that a trainer has behind it; None outside of training."""
    if trainer is None or not trainer.training:
        return None
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


@final
class BatchLoader(Generic[Batch]):
    """Batches of a data set that makes whole batches: `dataset[keys]`.

    Not a `DataLoader`, so that Lightning leaves the sampler alone. The sampler is first asked when the first batch is,
    because Lightning calls `iter` before it sets the epoch and before it has restored its own position.

    Args:
        dataset: maps a list of keys to a batch.
        sampler: lists of keys; an `EpochSampler` for training.
        num_workers: processes; 0 makes the batches here. They live for one epoch: workers that outlive it are ended by the
            garbage collector, which stalls for 5 seconds each (it may close the queue that tells them to end first).
        position: says, when the first batch of an epoch is asked for, how many are already behind; None leaves
            `sampler.skip_batches` as it is.
    """

    #: Lightning reads it next to `sampler`.
    batch_sampler = None

    def __init__(
        self,
        dataset: Dataset[Batch],
        sampler: EpochSampler | Sequence[list[Key]],
        *,
        num_workers: int,
        position: Callable[[], int | None] | None = None,
    ) -> None:
        self.sampler = sampler
        self._position = position
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            generator=torch.Generator(),  # else every start of an epoch draws from the global one, also that of a resumed one
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        behind = self._position() if self._position is not None else None
        if behind is not None and isinstance(self.sampler, EpochSampler):
            self.sampler.skip_batches = behind
        yield from self._loader

    def state_dict(self) -> dict[str, object]:
        """Nothing: Lightning keeps the position. That the method exists tells Lightning that the loader can resume."""
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Nothing to restore, see `state_dict`."""
