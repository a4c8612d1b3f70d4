"""What a source of text offers: examples of one kind, and their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from qat.errors import DataError, near


class Sentence(NamedTuple):
    """A text, or a pair of texts, with the class that it has; `where` is what messages call it (file and line)."""

    text: str
    pair: str | None
    target: int
    where: str

    def shown(self) -> str:
        """What people read."""
        return " | ".join(texts(self))

    def truth(self, labels: Sequence[str]) -> str:
        """The class."""
        return labels[self.target]


class Tagged(NamedTuple):
    """Words with a tag each."""

    words: tuple[str, ...]
    tags: tuple[int, ...]
    where: str

    def shown(self) -> str:
        """What people read."""
        return " ".join(self.words)

    def truth(self, labels: Sequence[str]) -> str:
        """The tags of all words."""
        return " ".join(labels[tag] for tag in self.tags)


class Question(NamedTuple):
    """A question, its context, and the answers as (text, first character in the context); none where it has no answer."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    where: str

    def shown(self) -> str:
        """What people read."""
        return " | ".join(texts(self))

    def truth(self, labels: Sequence[str]) -> str:
        """The answers, each once; "" where there is none."""
        return " | ".join(dict.fromkeys(text for text, _ in self.answers))


Example: TypeAlias = Sentence | Tagged | Question


@dataclass(frozen=True, eq=False)
class TextTable:
    """One split: examples by index, all of one kind."""

    examples: tuple[Example, ...]

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """Class of every sentence, shape (N,); zeros for what has no single class."""
        return np.array([e.target if isinstance(e, Sentence) else 0 for e in self.examples], dtype=np.int64)

    def name(self, index: int) -> str:
        return self.examples[index].where

    def identity(self, index: int) -> str:
        """Everything that makes an example what it is."""
        return repr(self.examples[index][:-1])

    def empty(self, indices: Sequence[int]) -> dict[int, str]:
        """Which of these examples have nothing to read, and what messages say of them."""
        return {i: f"{self.name(i)}: empty text" for i in indices if not all(t.strip() for t in texts(self.examples[i]))}


@dataclass(frozen=True, kw_only=True, eq=False)
class TextSource:
    """The tables of one data set.

    Args:
        name: what messages and reports call it.
        labels: names of the classes or tags; empty for questions.
        train, test: not empty.
        val: None when it is to be held out of `train`.
    """

    name: str
    labels: tuple[str, ...]
    train: TextTable
    test: TextTable
    val: TextTable | None = None

    def __post_init__(self) -> None:
        for split, table in self.tables().items():
            if not table.examples:
                raise DataError(f"{self.name}: the split {split!r} has no examples")

    @property
    def kind(self) -> str:
        """What a task may read here."""
        return _KINDS[type(self.train.examples[0])]

    def tables(self) -> dict[str, TextTable]:
        return {n: t for n, t in (("train", self.train), ("val", self.val), ("test", self.test)) if t is not None}

    def corpus(self) -> Iterator[str]:
        """Every training text, for a tokenizer that is to be learned."""
        for example in self.train.examples:
            yield from texts(example)


_KINDS: dict[type, str] = {Sentence: "sentences", Tagged: "tagged words", Question: "questions"}


def texts(example: Example) -> tuple[str, ...]:
    """What a tokenizer reads of an example."""
    if isinstance(example, Sentence):
        return (example.text,) if example.pair is None else (example.text, example.pair)
    if isinstance(example, Tagged):
        return example.words or ("",)
    return example.question, example.context


def target_of(label: object, index: Mapping[str, int], where: str) -> int:
    """The class of a label that a file gives by name or by number.

    Raises:
        DataError: the label is unknown.
    """
    text = str(label).strip()
    if text in index:
        return index[text]
    if text.isdecimal() and int(text) < len(index):
        return int(text)
    raise DataError(f"{where}: unknown label {text!r}.{near(text, index)}")
