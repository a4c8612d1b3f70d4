"""Tokens, and what is found again among them: truncation, words, answers."""

from __future__ import annotations

import pytest

from qat.data.text.batch import IGNORED, AskedQuestion
from qat.data.text.grammar import grammar_source
from qat.data.text.source import Question, Sentence, Tagged
from qat.errors import ConfigError, DataError
from tests.data.text.samples import encoder, tokenizer


def _sentence(text: str, pair: str | None = None) -> Sentence:
    return Sentence(text=text, pair=pair, target=1, where="a.tsv:2")


def test_sentence_is_what_the_tokenizer_says() -> None:
    (unit,), cut = encoder().encode([_sentence("the red key is dull")], training=True)
    expected = tokenizer()(["the red key is dull"])
    assert unit.windows[0].columns == tuple(
        tuple(expected[name][0]) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    assert (unit.windows[0].target, cut) == (1, 0)


def test_pair_has_two_types_of_tokens() -> None:
    (unit,), _ = encoder().encode([_sentence("the key", "the cup")], training=True)
    assert set(unit.windows[0].columns[2]) == {0, 1}


def test_long_texts_are_truncated_and_counted() -> None:
    long = _sentence("the red key " * 30)
    units, cut = encoder(max_length=12).encode([_sentence("the key"), long], training=True)
    assert cut == 1
    assert [unit.length for unit in units] == [4, 12]
    assert units[1].windows[0].columns[0][-1] == tokenizer().sep_token_id, "the end mark stays"


def test_long_text_is_refused_by_option_with_file_and_line() -> None:
    with pytest.raises(DataError, match=r"a\.tsv:2: \d+ tokens, the model takes 12; 1 texts are too long"):
        encoder(max_length=12, refuse_long=True).encode([_sentence("the red key " * 30)], training=True)


def test_tag_stands_on_the_first_token_of_its_word() -> None:
    """A word of several tokens, a word that is nothing to the tokenizer, and words that truncation cuts off."""
    words = ("anna", "keyxkey", "​", "key", "cup", "bag")
    example = Tagged(words=words, tags=(1, 2, 3, 4, 5, 6), where="a.conll:1")
    (unit,), cut = encoder("tags").encode([example], training=True)
    target = unit.windows[0].target
    assert isinstance(target, tuple)
    assert [tag for tag in target if tag != IGNORED] == [1, 2, 4, 5, 6]
    assert target[0] == target[-1] == IGNORED
    assert (unit.item.tags, unit.item.seen, cut) == ((1, 2, 3, 4, 5, 6), (0, 1, 3, 4, 5), 0)
    length = list(target).index(4) + 2
    (short,), cut = encoder("tags", max_length=length).encode([example], training=True)
    assert (short.item.seen, cut) == ((0, 1, 3), 1)


def test_answer_is_found_again_in_the_windows_that_hold_it() -> None:
    """A context of several windows: in training each is a sample, and the span of tokens is the answer's text."""
    story = " ".join(f"anna put the {c} key in the {c} car ." for c in ("red", "blue", "green", "black"))
    begin = story.index("green car")
    example = Question(question="where is the key ?", context=story, answers=(("green car", begin),), where="q")
    parts = encoder("questions", max_length=28, stride=10)
    units, _ = parts.encode([example], training=True)
    assert len(units) > 2
    holding = [unit for unit in units if unit.windows[0].target != (0, 0)]
    assert 0 < len(holding) < len(units)
    for unit in holding:
        first, last = unit.windows[0].target  # type: ignore[misc]
        spans = unit.item.offsets[0]
        assert story[spans[first][0] : spans[last][1]] == "green car"
    (whole,), _ = parts.encode([example], training=False)
    assert len(whole.windows) == len(units)
    assert isinstance(whole.item, AskedQuestion)
    covered = {i for spans in whole.item.offsets for span in spans if span is not None for i in range(*span)}
    assert covered >= {i for i, c in enumerate(story) if c != " "}, "the windows cover the whole context"


def test_question_without_an_answer_points_to_the_first_token() -> None:
    example = Question(question="who ?", context="anna left", answers=(), where="q")
    (unit,), _ = encoder("questions").encode([example], training=True)
    assert unit.windows[0].target == (0, 0)
    assert unit.item.may_have_none


def test_answer_that_is_elsewhere_is_refused() -> None:
    example = Question(question="who ?", context="anna left", answers=(("ben", 0),), where="q.json: question '7'")
    with pytest.raises(DataError, match=r"question '7'.*'ben' does not stand at character 0"):
        encoder("questions").encode([example], training=True)


def test_stride_that_leaves_no_progress_is_refused() -> None:
    example = Question(question="who ?", context="anna left", answers=(), where="q")
    with pytest.raises(ConfigError, match=r"data.stride=64 must be smaller"):
        encoder("questions", stride=64).encode([example], training=True)


def test_tokenizer_that_knows_nothing_of_the_text_is_refused() -> None:
    foreign = [_sentence("Ωμέγα ψυχή άνθρωπος λόγος")]
    with pytest.raises(DataError, match=r"maps 100% of the tokens to \[UNK\]"):
        encoder().check_known(foreign)
    encoder().check_known(grammar_source(train=50, test=1).train.examples)
