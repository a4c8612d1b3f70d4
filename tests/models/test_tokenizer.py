from __future__ import annotations

from pathlib import Path

import pytest

from qat.data.text.grammar import grammar_source
from qat.deploy.artifact import TOKENIZER
from qat.errors import ConfigError
from qat.models.tokenizer import learn_tokenizer, load_tokenizer, tokenizer_files

TEXTS = ["the red key", "the red cup", "a key"]


def test_learned_vocabulary_repeats_and_fills_its_size() -> None:
    """The same text gives the same ids in every process, or a resumed run would read something else."""
    first, second = (learn_tokenizer(grammar_source(train=80, test=1).corpus(), size=120) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert len(first) == 120
    assert [first.convert_ids_to_tokens(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_frequent_words_are_entries_and_others_are_spelt() -> None:
    tokenizer = learn_tokenizer(TEXTS, size=5 + 2 * 11 + 2)  # of 11 letters; the two words that occur most
    assert tokenizer.tokenize("Red KEY") == ["red", "key"]
    assert tokenizer.tokenize("the") == ["t", "##h", "##e"], "as frequent, and behind them by name"
    assert tokenizer.tokenize("deck") == ["d", "##e", "##c", "##k"]
    assert tokenizer.tokenize("zzz") == ["[UNK]"]


def test_pairs_have_types_and_marks() -> None:
    encoded = learn_tokenizer(TEXTS, size=60)(["the key"], ["a cup"])
    assert encoded["token_type_ids"][0] == [0, 0, 0, 0, 1, 1, 1]


def test_vocabulary_too_small_for_the_characters_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"need 27 entries; raise model.options.vocab_size from 20"):
        learn_tokenizer(TEXTS, size=20)


def test_tokenizer_survives_as_files(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(TEXTS, size=60)
    for name, content in tokenizer_files(tokenizer).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    loaded = load_tokenizer(tmp_path / TOKENIZER)
    assert loaded("the red cup", "a key").data == tokenizer("the red cup", "a key").data


def test_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the tokenizer of .* cannot be loaded"):
        load_tokenizer(tmp_path)
