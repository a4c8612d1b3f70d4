"""The order of the training samples: a function of (seed, epoch), of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

#: (epoch, index): enough to seed the augmentation of one sample, whichever worker makes it.
Key = tuple[int, int]

#: Batches among which samples may change places to meet others of their length.
POOL = 50


def consecutive(positions: Sequence[int], size: int) -> list[list[Key]]:
    """Keys of these positions in this order, `size` to a batch; nothing is dropped."""
    return [[(0, position) for position in positions[start : start + size]] for start in range(0, len(positions), size)]


class EpochSampler(Sampler[list[Key]]):
    """Batches of keys of a permutation seeded by (seed, epoch); the last, incomplete batch is dropped.

    With several processes every one takes its own part of each global batch of `batch_size * world_size` samples.

    With `lengths`, samples of similar length share a batch: every `POOL` global batches of the permutation are sorted by
    length, cut again, and the order of all batches is drawn anew.

    Args:
        size: number of samples.
        batch_size: samples per batch and process.
        seed: not negative.
        rank, world_size: which of how many processes this is.
        lengths: of every sample, or None where all are alike.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.lengths = None if lengths is None else np.asarray(lengths)
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
        order = self._order().tolist()
        epoch = self.epoch
        for batch in range(skip, len(self)):
            start = (batch * self.world_size + self.rank) * self.batch_size
            yield [(epoch, index) for index in order[start : start + self.batch_size]]

    def _order(self) -> npt.NDArray[np.int64]:
        """All samples that make whole global batches, in the order of this epoch."""
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.size)
        if self.lengths is None:
            return order
        each = self.batch_size * self.world_size
        order = order[: len(self) * each]
        pools = [order[start : start + POOL * each] for start in range(0, len(order), POOL * each)]
        pools = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]
        batches = np.concatenate(pools).reshape(-1, each) if pools else order.reshape(0, each)
        return batches[rng.permutation(len(batches))].ravel()
