"""From examples to units of tokens: truncation counted, words and answers found again among the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qat.data.text.batch import IGNORED, AskedQuestion, TaggedWords, Unit, Window
from qat.data.text.source import Example, Question, Sentence, Tagged, texts
from qat.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

#: Share of unknown tokens above which a tokenizer cannot be the right one.
MAX_UNKNOWN = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """A tokenizer and how it is used.

    Args:
        tokenizer: of transformers.
        inputs: names of the model's inputs, in its order: `input_ids`, `attention_mask`, `token_type_ids`.
        max_length: tokens that the model takes.
        refuse_long: raise instead of truncating.
        stride: tokens that neighbouring windows of a long context share.
    """

    tokenizer: PreTrainedTokenizerBase
    inputs: tuple[str, ...]
    max_length: int
    refuse_long: bool = False
    stride: int = 0

    @property
    def padding(self) -> tuple[int, ...]:
        """What fills up each input."""
        fills = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        return tuple(int(fills.get(name, 0)) for name in self.inputs)

    def encode(self, examples: Sequence[Example], *, training: bool) -> tuple[list[Unit], int]:
        """The units of examples of one kind, and how many of them were truncated.

        Args:
            training: one unit per window of a question instead of one per question.

        Raises:
            DataError: a text is too long and may not be truncated; a file answer is not where its context says.
        """
        if not examples:
            return [], 0
        if isinstance(examples[0], Sentence):
            return self._sentences([e for e in examples if isinstance(e, Sentence)])
        if isinstance(examples[0], Tagged):
            return self._tagged([e for e in examples if isinstance(e, Tagged)])
        return self._questions([e for e in examples if isinstance(e, Question)], training), 0

    def check_known(self, examples: Sequence[Example]) -> None:
        """Refuse a tokenizer that knows next to nothing of these examples.

        Raises:
            DataError: more than half of the tokens are unknown.
        """
        unknown = self.tokenizer.unk_token_id
        words = [text for example in examples for text in texts(example) if text.strip()]
        ids = [i for row in self.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"] for i in row]
        share = sum(i == unknown for i in ids) / max(1, len(ids))
        if unknown is not None and share > MAX_UNKNOWN:
            raise DataError(
                f"the tokenizer maps {share:.0%} of the tokens to {self.tokenizer.unk_token}: it is not the one for this "
                f"text. It has {len(self.tokenizer)} entries; check model.path and model.tokenizer."
            )

    def _sentences(self, examples: Sequence[Sentence]) -> tuple[list[Unit], int]:
        firsts = [e.text for e in examples]
        pairs = [e.pair for e in examples] if examples[0].pair is not None else None
        encoded = self.tokenizer(firsts, pairs, verbose=False)
        long = self._long(encoded, examples)
        units = []
        for i, example in enumerate(examples):
            source, row = encoded, i
            if i in long:
                source, row = self.tokenizer([example.text], pairs and [example.pair], **self._cut), 0
            units.append(Unit(windows=(Window(self._columns(source, row), example.target),), item=None))
        return units, len(long)

    def _tagged(self, examples: Sequence[Tagged]) -> tuple[list[Unit], int]:
        self._need_fast("to find the first token of every word")
        encoded = self.tokenizer([list(e.words) for e in examples], is_split_into_words=True, verbose=False)
        long = self._long(encoded, examples)
        units = []
        for i, example in enumerate(examples):
            source, row = encoded, i
            if i in long:
                source, row = self.tokenizer([list(example.words)], is_split_into_words=True, **self._cut), 0
            target, seen, before = [], [], None
            for word in source.word_ids(row):
                first = word is not None and word != before
                target.append(example.tags[word] if first else IGNORED)
                seen += [word] if first else []
                before = word
            window = Window(self._columns(source, row), tuple(target))
            units.append(Unit(windows=(window,), item=TaggedWords(tags=example.tags, seen=tuple(seen))))
        return units, len(long)

    def _questions(self, examples: Sequence[Question], training: bool) -> list[Unit]:
        self._need_fast("to find answers among the tokens")
        if self.stride >= self.max_length:
            raise ConfigError(f"data.stride={self.stride} must be smaller than the model's {self.max_length} tokens")
        may_have_none = any(not example.answers for example in examples)
        units = []
        for example in examples:
            encoded = self.tokenizer(
                [example.question],
                [example.context],
                max_length=self.max_length,
                truncation="only_second",
                stride=self.stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                verbose=False,
            )
            windows, offsets = [], []
            for row in range(len(encoded["input_ids"])):
                inside = encoded.sequence_ids(row)
                spans = tuple(
                    tuple(span) if part == 1 else None
                    for span, part in zip(encoded["offset_mapping"][row], inside, strict=True)
                )
                windows.append(Window(self._columns(encoded, row), _answer(example, spans)))
                offsets.append(spans)
            answers = tuple(text for text, _ in example.answers)
            for part in [[i] for i in range(len(windows))] if training else [list(range(len(windows)))]:
                item = AskedQuestion(example.context, answers, (), tuple(offsets[i] for i in part), may_have_none)
                units.append(Unit(windows=tuple(windows[i] for i in part), item=item))
        return units

    @property
    def _cut(self) -> dict[str, Any]:
        return {"truncation": True, "max_length": self.max_length}

    def _long(self, encoded: BatchEncoding, examples: Sequence[Example]) -> set[int]:
        """Which examples have more tokens than the model takes."""
        long = {i for i, ids in enumerate(encoded["input_ids"]) if len(ids) > self.max_length}
        if long and self.refuse_long:
            first = min(long)
            raise DataError(
                f"{examples[first].where}: {len(encoded['input_ids'][first])} tokens, the model takes {self.max_length}; "
                f"{len(long)} texts are too long. Shorten them, raise model.max_length, or set data.truncation=truncate."
            )
        return long

    def _columns(self, encoded: BatchEncoding, row: int) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(encoded[name][row]) for name in self.inputs)

    def _need_fast(self, why: str) -> None:
        if not self.tokenizer.is_fast:
            raise ConfigError(f"this task needs a fast tokenizer (one with a tokenizer.json), {why}")


def _answer(example: Question, spans: Sequence[Any]) -> tuple[int, int]:
    """First and last token of the first answer; (0, 0), the classifier token, where the window does not hold it.

    Raises:
        DataError: the answer does not stand where the file says.
    """
    if not example.answers:
        return 0, 0
    text, begin = example.answers[0]
    end = begin + len(text)
    if example.context[begin:end] != text:
        raise DataError(f"{example.where}: the answer {text!r} does not stand at character {begin} of its context")
    covered = [i for i, span in enumerate(spans) if span is not None and span[0] < end and span[1] > begin]
    whole = bool(covered) and spans[covered[0]][0] <= begin and spans[covered[-1]][1] >= end
    return (covered[0], covered[-1]) if whole else (0, 0)
