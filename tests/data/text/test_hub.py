"""Data sets by name: the loading code on data sets made in memory, where the hub would be."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from qat.data.text.hub import text_hub_source
from qat.data.text.source import Question, Sentence, Tagged
from qat.errors import DataError


def _serve(monkeypatch: pytest.MonkeyPatch, columns: dict[str, list[Any]], features: Any = None) -> None:
    data = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: data)


def test_sentences_with_named_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    _serve(monkeypatch, {"sentence": ["a", "b"], "label": [1, 0]}, features)
    source = text_hub_source(name="glue", config_name="sst2", text_column="sentence", test_split="validation")
    assert (source.name, source.labels) == ("glue/sst2", ("bad", "good"))
    assert source.train.examples[0] == Sentence(text="a", pair=None, target=1, where="train[0]")
    assert source.test.examples[1].where == "test[1]"


def test_tagged_words_and_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, {"tokens": [["Anna", "left"]], "ner": [["B-per", "O"]]})
    source = text_hub_source(name="x", text_column="tokens", label_column="ner")
    assert source.labels == ("B-per", "O")
    assert source.train.examples[0] == Tagged(words=("Anna", "left"), tags=(0, 1), where="train[0]")
    answers = [{"text": ["anna"], "answer_start": [0]}]
    _serve(monkeypatch, {"question": ["who ?"], "context": ["anna left"], "answers": answers})
    asked = text_hub_source(name="squad").train.examples[0]
    assert isinstance(asked, Question)
    assert asked.answers == (("anna", 0),)


def test_unknown_column_and_unreachable_hub_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, {"sentence": ["a"], "label": ["x"]})
    with pytest.raises(DataError, match=r"split 'train' has no column 'text'.*Allowed: label, sentence"):
        text_hub_source(name="x")

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"cannot be had from the hub: no route\nWithout network give local files"):
        text_hub_source(name="glue")
