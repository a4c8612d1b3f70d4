"""Text and encoders in the place of what a recipe names: the same files, columns and kinds, of the generated language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import BertConfig, BertModel

from qat.config.data import TextConfig, TextHubConfig
from qat.data.text.grammar import grammar_source
from qat.data.text.source import Example, Question, Sentence, Tagged, TextTable
from qat.models.tokenizer import learn_tokenizer

_KINDS = {"text_classification": "sentences", "token_classification": "tags", "question_answering": "questions"}


def small_bert(root: Path) -> Path:
    """A folder of a BERT of one layer, as transformers writes it, that can read the generated language."""
    corpus = [text for kind in _KINDS.values() for text in grammar_source(kind=kind, train=200, test=1).corpus()]
    config = BertConfig(
        vocab_size=160,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(root)
    learn_tokenizer(corpus, size=160).save_pretrained(root)
    return root


def text_stand_in(root: Path, data: TextConfig) -> list[str]:
    """Files in the layout that the recipe reads, and the override that names their folder."""
    root.mkdir()
    source = grammar_source(kind="tags" if data.train.endswith(".conll") else "sentences", train=60, test=24)
    for split, table in {"train": source.train, "val": source.test, "test": source.test}.items():
        if (file := getattr(data, split)) is not None:
            _write(root / file, table, data, source.labels)
    if data.labels is not None:
        file, _, key = data.labels.partition(":")
        (root / file).write_text(json.dumps({key: source.labels} if key else source.labels))
    return [f"data.root={root}"]


def serve_hub(monkeypatch: pytest.MonkeyPatch, data: TextHubConfig) -> None:
    """Let the hub hold the generated language under the name, splits and columns that the recipe reads."""
    source = grammar_source(kind="questions" if "squad" in data.name else "sentences", train=60, test=24)
    tables = {data.train_split: source.train, data.test_split: source.test}

    def load_dataset(name: str, config_name: str | None, split: str) -> datasets.Dataset:
        assert (name, config_name) == (data.name, data.config_name)
        rows = [_row(example, data) for example in tables[split].examples]
        found = datasets.Dataset.from_list(rows)
        return (
            found if "squad" in data.name else found.cast_column(data.label_column, datasets.ClassLabel(names=[*source.labels]))
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def _row(example: Example, data: TextHubConfig) -> dict[str, Any]:
    if isinstance(example, Question):
        texts, starts = zip(*example.answers, strict=True) if example.answers else ((), ())
        answers = {"text": [*texts], "answer_start": [*starts]}
        return {"question": example.question, "context": example.context, "answers": answers}
    assert isinstance(example, Sentence)
    pair = {} if data.pair_column is None else {data.pair_column: example.text}
    return {data.text_column: example.text, data.label_column: example.target, **pair}


def _write(path: Path, table: TextTable, data: TextConfig, labels: tuple[str, ...]) -> None:
    lines: list[str] = []
    text, pair = data.text_column, data.pair_column
    for example in table.examples:
        if isinstance(example, Sentence):
            cells = [example.text, *([example.text] if pair else []), str(example.target)]
            lines.append("\t".join(cells))
        elif isinstance(example, Tagged):
            lines += [*(f"{w}\t{labels[t]}" for w, t in zip(example.words, example.tags, strict=True)), ""]
    header = ["\t".join([text, *([pair] if pair else []), "label"])] if path.suffix == ".tsv" else []
    path.write_text("\n".join([*header, *lines]) + "\n")
