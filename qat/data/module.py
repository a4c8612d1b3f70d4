"""What data modules share: which batches a loader makes, and from where an interrupted epoch goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from qat.data.loader import BatchLoader, position_in_epoch
from qat.data.options import Batching
from qat.data.parts import AnyTable
from qat.data.sampler import EpochSampler, Key, consecutive
from qat.data.source import Source
from qat.errors import ConfigError
from qat.ranks import rank, world_size


class DataModule(LightningDataModule, ABC):
    """Training, validation, test and calibration batches of a source.

    Args:
        source: the samples and the names of their classes.
        batching: how batches are made.
        split_seed: of choices among samples that are the same in runs of every seed.

    Attributes: `name` and `labels` of the source, `batch_size`, `eval_batch_size`, `num_workers`, `seed`, `split_seed`,
    `n_train`, `n_val` and `n_test`, `fingerprint` (short hash of the samples used and what for) and `notes` (what was left out,
    in words).
    """

    fingerprint: str
    notes: tuple[str, ...]

    #: Length of every training sample; None where all are alike.
    lengths: Sequence[int] | None = None

    def __init__(self, source: Source[AnyTable], batching: Batching, *, split_seed: int) -> None:
        super().__init__()
        self.name = source.name
        self.labels = source.labels
        self.batch_size = batching.batch_size
        self.eval_batch_size = batching.eval_batch_size or batching.batch_size
        self.num_workers = batching.num_workers
        self.seed = batching.seed
        self.split_seed = split_seed

    def hold_(self, train: Dataset[object], val: Dataset[object], test: Dataset[object]) -> None:
        """Take the data sets that make the batches; each has a length.

        Raises:
            ConfigError: too few training samples for a batch.
        """
        self._train, self._val, self._test = train, val, test
        self.n_train, self.n_val, self.n_test = (len(d) for d in (train, val, test))  # type: ignore[arg-type]
        if self.n_train < self.batch_size * world_size():
            ranks = f" on {world_size()} ranks" if world_size() > 1 else ""
            raise ConfigError(
                f"data.batch_size={self.batch_size}{ranks}, but {self.name} has {self.n_train} training samples to use"
            )

    @abstractmethod
    def calibration_batches(self, count: int) -> list[tuple[Tensor, ...]]:
        """Model inputs of a fixed choice of training samples as evaluation sees them: `count` batches of `batch_size`, fewer
        where the samples do not suffice."""

    def eval_batches(self, dataset: Dataset[object]) -> list[list[Key]]:
        """All samples of a data set once, in batches of `eval_batch_size`, in order; the same in every process."""
        return consecutive(range(len(dataset)), self.eval_batch_size)  # type: ignore[arg-type]

    @abstractmethod
    def test_names(self) -> list[str]:
        """What people call the test samples, in the order in which they are evaluated."""

    @abstractmethod
    def test_truths(self) -> list[str]:
        """What is true of them, in the words in which tasks describe predictions."""

    def train_dataloader(self) -> BatchLoader[Any]:
        """Training batches. A trainer sets the place by itself; elsewhere `sampler.set_epoch` and `.skip_batches` do."""
        sampler = EpochSampler(
            self.n_train,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank(),
            world_size=world_size(),
            lengths=self.lengths,
        )
        return BatchLoader(self._train, sampler, num_workers=self.num_workers, position=lambda: position_in_epoch(self.trainer))

    def val_dataloader(self) -> BatchLoader[Any]:
        """All validation samples."""
        return BatchLoader(self._val, self.eval_batches(self._val), num_workers=self.num_workers)

    def test_dataloader(self) -> BatchLoader[Any]:
        """All test samples."""
        return BatchLoader(self._test, self.eval_batches(self._test), num_workers=self.num_workers)
