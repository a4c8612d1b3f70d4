"""The data module: what is left out and said, what repeats, what a batch holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qat.data.options import grouped
from qat.data.text.batch import TextBatch, UnitDataset
from qat.data.text.grammar import grammar_source
from qat.data.text.module import TextData, by_length, check_truncation
from qat.data.text.source import Sentence, TextSource, TextTable
from qat.errors import ConfigError, DataError
from tests.data.text.samples import encoder


def _data(kind: str = "sentences", *, max_length: int = 64, **options: Any) -> TextData:
    source = options.pop("source", None) or grammar_source(kind=kind, train=200, test=50)
    batching, selection, others = grouped({"batch_size": 16, **options})
    assert not others
    return TextData(source, encoder=encoder(kind, max_length=max_length), batching=batching, selection=selection)


def _same(a: TextBatch, b: TextBatch) -> bool:
    return all(torch.equal(x, y) for x, y in zip((*a.inputs, a.targets), (*b.inputs, b.targets), strict=True))


def _with(*texts: str, count: int = 30) -> TextSource:
    examples = [*grammar_source(train=count, test=1).train.examples]
    examples[: len(texts)] = [Sentence(text=t, pair=None, target=0, where=f"a.tsv:{i + 2}") for i, t in enumerate(texts)]
    return TextSource(name="a", labels=("x", "y"), train=TextTable(tuple(examples)), test=TextTable(tuple(examples[-9:])))


def test_epochs_are_functions_of_seed_and_epoch() -> None:
    first, again, other = _data(), _data(), _data(seed=1)
    for data in (first, again, other):
        data.loader = data.train_dataloader()  # type: ignore[attr-defined]
        data.loader.sampler.set_epoch(2)  # type: ignore[attr-defined]
    batches = [list(data.loader) for data in (first, again, other)]  # type: ignore[attr-defined]
    assert all(_same(a, b) for a, b in zip(batches[0], batches[1], strict=True))
    assert not all(_same(a, b) for a, b in zip(batches[0], batches[2], strict=True) if a.targets.shape == b.targets.shape)


def test_training_sees_every_text_once_an_epoch_with_little_padding() -> None:
    data = _data(batch_size=10, val_fraction=0.1)
    batches = list(data.train_dataloader())
    assert sum(len(batch.targets) for batch in batches) == data.n_train == 180
    tokens = torch.cat([batch.inputs[1].flatten() for batch in batches])
    assert float(tokens.float().mean()) > 0.97


def test_test_batches_hold_every_text_once_in_a_fixed_random_order() -> None:
    data = _data(eval_batch_size=7)
    batches = list(data.test_dataloader())
    assert sum(len(batch.targets) for batch in batches) == data.n_test == 50
    lengths = [batch.inputs[0].shape[1] for batch in batches]
    assert lengths != sorted(lengths), "the first batches are a fair sample of all lengths"
    assert all(_same(a, b) for a, b in zip(batches, data.test_dataloader(), strict=True))
    assert isinstance(data._test, UnitDataset)
    positions = [position for keys in by_length(data._test, 7, seed=0) for _, position in keys]
    assert sorted(positions) == list(range(50))


def test_calibration_batches_are_inputs_of_training_texts() -> None:
    batches = _data().calibration_batches(2)
    assert [len(batch) for batch in batches] == [3, 3]
    assert all(x.shape == batch[0].shape and len(x) == 16 for batch in batches for x in batch)
    with pytest.raises(ConfigError, match="calibration_batches"):
        _data().calibration_batches(0)


def test_empty_texts_are_left_out_and_named_within_the_budget() -> None:
    data = _data(source=_with(" "), corrupt_budget=0.1)
    assert data.notes == ("left out a.tsv:2: empty text",)
    assert data.n_train + data.n_val == 29


def test_more_empty_texts_than_the_budget_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 of 39 texts are empty, more than data.corrupt_budget=0.01.*\n  a\.tsv:"):
        _data(source=_with("", "\t"))


def test_truncation_is_counted_and_said() -> None:
    data = _data(source=_with("the red key " * 40, count=40), max_length=48, batch_size=8)
    assert len(data.notes) == 1
    assert "1 of" in data.notes[0]
    assert data.notes[0].endswith("to 48 tokens")


def test_truncation_is_one_of_two() -> None:
    assert (check_truncation("refuse"), check_truncation("truncate")) == (True, False)
    with pytest.raises(ConfigError, match=r"'refused'.*Did you mean 'refuse'"):
        check_truncation("refused")


def test_fingerprint_follows_the_text() -> None:
    a, b = (_data(source=_with(text)) for text in ("the red key", "the red cup"))
    assert a.fingerprint == _data(source=_with("the red key")).fingerprint != b.fingerprint


def test_too_few_texts_for_a_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.batch_size=500, but grammar/sentences has 180 training samples"):
        _data(batch_size=500)


def test_questions_train_on_windows_and_are_tested_whole() -> None:
    data = _data("questions", max_length=24)
    assert data.n_test == 50
    assert data.n_train > 180
    assert sum(len(batch.examples.items) for batch in data.test_dataloader()) == 50
