"""The order of the training samples: a function of (seed, epoch), of nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

#: (epoch, index): enough to seed the augmentation of one sample, whichever worker makes it.
Key = tuple[int, int]


class EpochSampler(Sampler[list[Key]]):
    """Batches of keys of a permutation seeded by (seed, epoch); the last, incomplete batch is dropped.

    With several processes every one takes its own part of each global batch of `batch_size * world_size` samples.

    Args:
        size: number of samples.
        batch_size: samples per batch and process.
        seed: not negative.
        rank, world_size: which of how many processes this is.
    """

    def __init__(self, size: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        #: Batches that the next iteration leaves out, once: where an interrupted epoch goes on.
        self.skip_batches = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of a whole epoch, whatever is skipped."""
        return self.size // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[Key]]:
        skip, self.skip_batches = self.skip_batches, 0
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size).tolist()
        epoch = self.epoch
        for batch in range(skip, len(self)):
            start = (batch * self.world_size + self.rank) * self.batch_size
            yield [(epoch, index) for index in order[start : start + self.batch_size]]
