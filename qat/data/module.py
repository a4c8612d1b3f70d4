"""What data modules share: which batches a loader makes, and from where an interrupted epoch goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from qat.data.loader import BatchLoader, position_in_epoch
from qat.data.sampler import EpochSampler, Key
from qat.errors import ConfigError
from qat.ranks import rank, world_size


class DataModule(LightningDataModule, ABC):
    """Training, validation, test and calibration batches of a source.

    Args:
        name: of the source.
        labels: names of its classes.
        batch_size: training samples per batch and process; the incomplete last batch of an epoch is dropped.
        eval_batch_size: None takes `batch_size`; nothing is dropped.
        num_workers: processes that make batches; 0 makes them in this one.
        seed: of the order of training samples.
        split_seed: of what is held out and of what a limit chooses; kept apart from `seed`, so that runs with several
            seeds are judged on the same samples.

    Attributes: those, `n_train`, `n_val` and `n_test`, `fingerprint` (short hash of the samples used and what for) and `notes`
    (what was left out, in words).
    """

    fingerprint: str
    notes: tuple[str, ...]

    #: Length of every training sample; None where all are alike.
    lengths: Sequence[int] | None = None

    def __init__(
        self,
        *,
        name: str,
        labels: tuple[str, ...],
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        seed: int,
        split_seed: int,
    ) -> None:
        super().__init__()
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(0, num_workers=num_workers, seed=seed, split_seed=split_seed)
        self.name = name
        self.labels = labels
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.split_seed = split_seed

    def hold_(self, train: Dataset[Any], val: Dataset[Any], test: Dataset[Any]) -> None:
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

    @abstractmethod
    def eval_batches(self, dataset: Dataset[Any]) -> list[list[Key]]:
        """All samples of a data set once, in batches of `eval_batch_size`; the same in every process."""

    @abstractmethod
    def test_names(self) -> list[str]:
        """What people call the test samples, in the order in which they are evaluated."""

    @abstractmethod
    def test_truths(self) -> list[str]:
        """What is true of them, in the words in which tasks describe decisions."""

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


def check_at_least(low: int, **options: int | None) -> None:
    """`ConfigError` for an option below `low`; None passes. The message names the key of the configuration."""
    for name, value in options.items():
        if value is not None and value < low:
            raise ConfigError(f"data.{name} must be at least {low}, got {value}")


def check_fraction(name: str, value: float) -> None:
    """`ConfigError` for a share outside of (0, 1)."""
    if not 0 < value < 1:
        raise ConfigError(f"data.{name} must lie between 0 and 1, got {value}")
