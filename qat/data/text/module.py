"""Text data: from a source to batches that are equal bit for bit in every run.

A training batch depends on (seed, epoch, position) alone. Batches hold texts of similar length and are padded to their own
longest, so little is computed for nothing.
"""

from __future__ import annotations

from typing import final

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from qat.data.budget import check_budget
from qat.data.module import DataModule
from qat.data.options import Batching, Selection, check_at_least
from qat.data.parts import Part, choose, fingerprint
from qat.data.sampler import Key, consecutive
from qat.data.split import stratified
from qat.data.text.batch import UnitDataset
from qat.data.text.encode import Encoder
from qat.data.text.source import Example, TextSource, TextTable
from qat.errors import ConfigError, DataError, near

TRUNCATION = ("truncate", "refuse")

#: Characters of a text by which people tell it from others.
EXCERPT = 200


@final
class TextData(DataModule):
    """`TextBatch`es of a source; see `DataModule` for what it shares with others. `n_train` counts windows.

    Args:
        source: the texts.
        encoder: the model's tokenizer and limits.
        batching: how batches are made.
        selection: which examples are used.

    Raises:
        ConfigError: too few examples for a batch.
        DataError: too many empty texts, or a text that may not be truncated.
    """

    def __init__(
        self,
        source: TextSource,
        *,
        encoder: Encoder,
        batching: Batching = Batching(),
        selection: Selection = Selection(),
    ) -> None:
        super().__init__(source, batching, split_seed=selection.split_seed)
        notes: list[str] = []
        parts = _without_empty(choose(source, selection), selection.corrupt_budget, notes)
        self.fingerprint = fingerprint(source.labels, parts)
        self._targets = parts["train"].targets
        self._test_part = parts["test"]
        train, cut = _dataset(parts["train"], encoder, training=True)
        one_window_each = len(train) == len(parts["train"].indices)
        self._calibration = train if one_window_each else _dataset(parts["train"], encoder, training=False)[0]
        val, val_cut = _dataset(parts["val"], encoder, training=False)
        test, test_cut = _dataset(parts["test"], encoder, training=False)
        for kind, count, dataset in (("training", cut, train), ("validation", val_cut, val), ("test", test_cut, test)):
            if count:
                notes.append(f"truncated {count} of {len(dataset)} {kind} texts to {encoder.max_length} tokens")
        self.notes = tuple(notes)
        self.lengths = [unit.length for unit in train.units]
        self.hold_(train, val, test)

    def calibration_batches(self, count: int) -> list[tuple[Tensor, ...]]:
        """Model inputs of training examples, lengths mixed: `count` batches, fewer where the examples do not suffice."""
        check_at_least(1, calibration_batches=count)
        chosen = stratified(self._targets, count * self.batch_size, seed=self.split_seed)
        return [self._calibration[keys].inputs for keys in consecutive(chosen.tolist(), self.batch_size)]

    def test_targets(self) -> list[int]:
        """Classes of the test texts, in the order in which they are evaluated."""
        return [int(self._test_part.targets[i]) for i in self._order()]

    def test_names(self) -> list[str]:
        """The beginning of every text."""
        return [shortened(example.shown()) for example in self._test_examples()]

    def test_truths(self) -> list[str]:
        return [example.truth(self.labels) for example in self._test_examples()]

    def _test_examples(self) -> list[Example]:
        return [self._test_part.table.examples[self._test_part.indices[i]] for i in self._order()]

    def _order(self) -> list[int]:
        return [position for batch in self.eval_batches(self._test) for _, position in batch]

    def eval_batches(self, dataset: Dataset[object]) -> list[list[Key]]:
        assert isinstance(dataset, UnitDataset)
        return by_length(dataset, self.eval_batch_size, seed=self.split_seed)


def shortened(text: str) -> str:
    """A text of at most `EXCERPT` characters; an ellipsis stands for the rest."""
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}…"


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
