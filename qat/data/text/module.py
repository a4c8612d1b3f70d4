"""Text data: from a source to batches that are equal bit for bit in every run.

A training batch depends on (seed, epoch, position) alone. Batches hold texts of similar length and are padded to their own
longest, so little is computed for nothing.
"""

from __future__ import annotations

from typing import final

import numpy as np
from pytorch_lightning import LightningDataModule
from torch import Tensor, distributed

from qat.data.budget import check_budget
from qat.data.loader import BatchLoader, position_in_epoch
from qat.data.options import check_at_least, check_fraction
from qat.data.parts import Part, choose, fingerprint
from qat.data.sampler import EpochSampler, Key, consecutive
from qat.data.split import stratified
from qat.data.text.batch import TextBatch, UnitDataset
from qat.data.text.encode import Encoder
from qat.data.text.source import TextSource, TextTable
from qat.errors import ConfigError, DataError, near

TRUNCATION = ("truncate", "refuse")


@final
class TextData(LightningDataModule):
    """Training, validation, test and calibration batches of a source.

    Attributes: `name`, `labels`, `n_train` (windows), `n_val`, `n_test` (examples), `fingerprint` (short hash of the texts
    used and what for), `notes` (what was left out or truncated).

    Args:
        source: the texts.
        encoder: the model's tokenizer and limits.
        batch_size: training windows per batch and process; the incomplete last batch of an epoch is dropped.
        eval_batch_size: None takes `batch_size`; nothing is dropped.
        workers: processes that make batches; 0 makes them in this one.
        seed: of the order.
        split_seed: of what is held out and of what a limit chooses; kept apart from `seed`, so that runs with several
            seeds are judged on the same texts.
        val_fraction: share of the training examples held out when the source has no validation split.
        limit_train, limit_val, limit_test: use only so many, chosen stratified; None uses all.
        corrupt_budget: share of the examples that may be empty; they are left out and named.

    Raises:
        ConfigError: an option out of range.
        DataError: too many empty texts, a text that may not be truncated, a tokenizer that knows nothing of the text.
    """

    def __init__(
        self,
        source: TextSource,
        *,
        encoder: Encoder,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
        corrupt_budget: float = 0.01,
    ) -> None:
        super().__init__()
        limits = {"train": limit_train, "val": limit_val, "test": limit_test}
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(1, **{f"limit_{name}": limit for name, limit in limits.items()})
        check_at_least(0, workers=workers, seed=seed, split_seed=split_seed)
        check_fraction("val_fraction", val_fraction)
        notes: list[str] = []
        parts = _without_empty(choose(source, val_fraction=val_fraction, limits=limits, seed=split_seed), corrupt_budget, notes)
        self.name = source.name
        self.labels = source.labels
        self.fingerprint = fingerprint(source.labels, parts)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.workers = workers
        self.seed = seed
        self.split_seed = split_seed
        self._targets = parts["train"].targets
        self._calibration, cut = _dataset(parts["train"], encoder, training=False)
        self._train = _dataset(parts["train"], encoder, training=True)[0]
        self._val, val_cut = _dataset(parts["val"], encoder, training=False)
        self._test, test_cut = _dataset(parts["test"], encoder, training=False)
        for name, count, dataset in (
            ("training", cut, self._train),
            ("validation", val_cut, self._val),
            ("test", test_cut, self._test),
        ):
            if count:
                notes.append(f"truncated {count} of {len(dataset)} {name} texts to {encoder.max_length} tokens")
        self.notes = tuple(notes)
        self.n_train, self.n_val, self.n_test = len(self._train), len(self._val), len(self._test)
        if self.n_train < batch_size:
            raise ConfigError(f"data.batch_size={batch_size}, but {self.name} has {self.n_train} training texts to use")

    def train_dataloader(self) -> BatchLoader[TextBatch]:
        """Batches of similar length in random order. A trainer sets the place by itself."""
        rank, world_size = 0, 1
        if distributed.is_available() and distributed.is_initialized():
            rank, world_size = distributed.get_rank(), distributed.get_world_size()
        sampler = EpochSampler(
            self.n_train,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            lengths=[unit.length for unit in self._train.units],
        )
        return BatchLoader(self._train, sampler, workers=self.workers, position=lambda: position_in_epoch(self.trainer))

    def val_dataloader(self) -> BatchLoader[TextBatch]:
        """All validation texts, the same in every process."""
        return self._eval_loader(self._val)

    def test_dataloader(self) -> BatchLoader[TextBatch]:
        """All test texts, the same in every process."""
        return self._eval_loader(self._test)

    def calibration_batches(self, count: int) -> list[tuple[Tensor, ...]]:
        """Model inputs of training examples, lengths mixed: `count` batches, fewer where the examples do not suffice."""
        check_at_least(1, calibration_batches=count)
        chosen = stratified(self._targets, count * self.batch_size, seed=self.split_seed)
        return [self._calibration[keys].inputs for keys in consecutive(chosen.tolist(), self.batch_size)]

    def _eval_loader(self, dataset: UnitDataset) -> BatchLoader[TextBatch]:
        return BatchLoader(dataset, by_length(dataset, self.eval_batch_size, seed=self.split_seed), workers=self.workers)


def by_length(dataset: UnitDataset, size: int, *, seed: int) -> list[list[Key]]:
    """All positions once, in batches of similar length whose order is random and fixed: the first ones are a fair sample."""
    order = np.argsort([unit.length for unit in dataset.units], kind="stable")
    batches = consecutive(order.tolist(), size)
    return [batches[i] for i in np.random.default_rng(seed).permutation(len(batches))]


def check_truncation(value: str) -> bool:
    """Whether long texts are refused."""
    if value not in TRUNCATION:
        raise ConfigError(f"unknown data.truncation {value!r}.{near(value, TRUNCATION)}")
    return value == "refuse"


def _dataset(part: Part[TextTable], encoder: Encoder, *, training: bool) -> tuple[UnitDataset, int]:
    units, cut = encoder.encode([part.table.examples[i] for i in part.indices.tolist()], training=training)
    return UnitDataset(units, padding=encoder.padding), cut


def _without_empty(parts: dict[str, Part[TextTable]], budget: float, notes: list[str]) -> dict[str, Part[TextTable]]:
    """The parts without examples that have nothing to read; named in `notes`, and counted against the budget."""
    kept: dict[str, Part[TextTable]] = {}
    empty: list[str] = []
    for name, part in parts.items():
        found = part.table.empty(part.indices.tolist())
        empty += found.values()
        kept[name] = Part(table=part.table, indices=np.setdiff1d(part.indices, list(found)).astype(np.int64))
        if len(kept[name].indices) == 0:
            raise DataError(f"no text of the split {name!r} has anything in it")
    check_budget(empty, sum(len(part.indices) for part in parts.values()), budget, what="texts are empty")
    notes += [f"left out {name}" for name in empty]
    return kept
