"""Batches of tokens: examples of any kind, encoded, padded to the longest of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from qat.data.batch import Examples
from qat.data.sampler import Key

#: Target of tokens that are no first token of a word, and of padding; what PyTorch's cross entropy ignores.
IGNORED = -100


class TextBatch(NamedTuple):
    """Encoded text.

    Args:
        inputs: token ids and whatever else the model takes, each (N, L) int64.
        targets: (N,) classes, (N, L) tags or (N, 2) first and last token of an answer.
        examples: one item per example; a question may own several rows.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    examples: Examples[Any]


class Window(NamedTuple):
    """One row of a batch: a column of integers per model input, and its target."""

    columns: tuple[tuple[int, ...], ...]
    target: int | tuple[int, ...]


class Unit(NamedTuple):
    """What a batch is made of: one example, as one window or several; `item` is what the task reads."""

    windows: tuple[Window, ...]
    item: Any

    @property
    def length(self) -> int:
        return max(len(window.columns[0]) for window in self.windows)


class AskedQuestion(NamedTuple):
    """What is needed to turn scores of tokens into an answer and to judge it.

    Args:
        context, answers: text, and the accepted answers; none where the question has no answer.
        windows: rows of the batch that show parts of the context.
        offsets: per window and token the characters of the context that it stands for; None outside of the context.
        may_have_none: whether the data set has questions without an answer.
    """

    context: str
    answers: tuple[str, ...]
    windows: tuple[int, ...]
    offsets: tuple[tuple[tuple[int, int] | None, ...], ...]
    may_have_none: bool


class TaggedWords(NamedTuple):
    """The true tags of all words of a sentence, and which words the model sees (not cut off, not nothing to the tokenizer)."""

    tags: tuple[int, ...]
    seen: tuple[int, ...]


class UnitDataset(Dataset[TextBatch]):
    """`dataset[keys]` is a batch.

    Args:
        padding: per model input the integer that fills up, on the right.
    """

    def __init__(self, units: Sequence[Unit], *, padding: Sequence[int]) -> None:
        self.units = tuple(units)
        self.padding = tuple(padding)

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, keys: Sequence[Key]) -> TextBatch:
        units = [self.units[position] for _, position in keys]
        windows = [window for unit in units for window in unit.windows]
        length = max(len(window.columns[0]) for window in windows)
        inputs = tuple(
            torch.tensor([_padded(window.columns[i], length, fill) for window in windows])
            for i, fill in enumerate(self.padding)
        )
        first = windows[0].target
        per_token = isinstance(first, tuple) and len(first) == len(windows[0].columns[0])
        targets = [
            _padded(w.target, length, IGNORED) if per_token and isinstance(w.target, tuple) else w.target for w in windows
        ]
        return TextBatch(inputs=inputs, targets=torch.tensor(targets), examples=Examples(_placed(units)))


def _padded(values: tuple[int, ...], length: int, fill: int) -> list[int]:
    return [*values, *[fill] * (length - len(values))]


def _placed(units: Sequence[Unit]) -> list[Any]:
    """The items of the units; questions are told which rows of the batch are theirs."""
    items, row = [], 0
    for unit in units:
        rows = tuple(range(row, row + len(unit.windows)))
        items.append(unit.item._replace(windows=rows) if isinstance(unit.item, AskedQuestion) else unit.item)
        row += len(unit.windows)
    return items
