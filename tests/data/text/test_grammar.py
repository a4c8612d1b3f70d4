from __future__ import annotations

import pytest

from qat.data.text.grammar import GOOD, grammar_source
from qat.data.text.source import Question, Sentence, Tagged
from qat.errors import ConfigError

KINDS = pytest.mark.parametrize("kind", ["sentences", "tags", "questions"])


@KINDS
def test_generated_splits_share_nothing_and_repeat(kind: str) -> None:
    source, again = (grammar_source(kind=kind, train=200, test=50) for _ in range(2))
    assert source.train.examples == again.train.examples
    assert (len(source.train.examples), len(source.test.examples)) == (200, 50)
    seen = {source.train.identity(i) for i in range(200)}
    assert not seen & {source.test.identity(i) for i in range(50)}
    other = grammar_source(kind=kind, train=200, test=50, seed=1)
    assert other.train.examples != source.train.examples


def test_sentiment_is_that_of_the_last_clause_and_its_negation() -> None:
    source = grammar_source(train=300, test=1)
    assert 0.3 < source.train.targets.mean() < 0.7
    for example in source.train.examples:
        assert isinstance(example, Sentence)
        last = example.text.split(" but ")[1]
        assert example.target == int((last.split()[-2] in GOOD) != (" not " in last))


def test_tags_fit_their_words_and_answers_their_context() -> None:
    for example in grammar_source(kind="tags", train=100, test=1).train.examples:
        assert isinstance(example, Tagged)
        assert len(example.words) == len(example.tags)
    for example in grammar_source(kind="questions", train=100, test=1).train.examples:
        assert isinstance(example, Question)
        ((text, begin),) = example.answers
        assert example.context[begin : begin + len(text)] == text


def test_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'sentence'.*Did you mean 'sentences'"):
        grammar_source(kind="sentence")
