"""Text and encoders in the place of what a recipe names: the same files, columns and kinds, of the generated language."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import BertConfig, BertModel

from qat.config.data import TextConfig, TextHubConfig
from qat.data.text.grammar import grammar_source
from qat.data.text.source import Question, Sentence, Tagged, TextTable
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


def text_stand_in(root: Path, data: TextConfig | TextHubConfig) -> list[str]:
    """Files in the layout that the recipe reads, and the overrides that name them."""
    root.mkdir()
    squad = isinstance(data, TextHubConfig) and "squad" in data.name
    tagged = isinstance(data, TextConfig) and data.train.endswith(".conll")
    source = grammar_source(kind="questions" if squad else "tags" if tagged else "sentences", train=60, test=24)
    tables = {"train": source.train, "val": source.test, "test": source.test}
    if isinstance(data, TextConfig):
        for split, table in tables.items():
            if (file := getattr(data, split)) is not None:
                _write(root / file, table, data, source.labels)
        if data.labels is not None:
            file, _, key = data.labels.partition(":")
            (root / file).write_text(json.dumps({key: source.labels} if key else source.labels))
        return [f"data.root={root}"]
    suffix = ".json" if squad else ".tsv"
    for split in ("train", "test"):
        _write(root / f"{split}{suffix}", tables[split], data, source.labels)
    columns = [f"data.text_column={data.text_column}", f"data.pair_column={data.pair_column or 'null'}"]
    return ["data=text", f"data.root={root}", *columns, *(f"data.{split}={split}{suffix}" for split in ("train", "test"))]


def _write(path: Path, table: TextTable, data: TextConfig | TextHubConfig, labels: tuple[str, ...]) -> None:
    lines: list[str] = []
    paragraphs = []
    text, pair = data.text_column, data.pair_column
    for example in table.examples:
        if isinstance(example, Sentence):
            cells = [example.text, *([example.text] if pair else []), str(example.target)]
            lines.append("\t".join(cells))
        elif isinstance(example, Tagged):
            lines += [*(f"{w}\t{labels[t]}" for w, t in zip(example.words, example.tags, strict=True)), ""]
        elif isinstance(example, Question):
            answers = [{"text": t, "answer_start": begin} for t, begin in example.answers]
            asked = {"id": example.where, "question": example.question, "answers": answers}
            paragraphs.append({"context": example.context, "qas": [asked]})
    if path.suffix == ".json":
        path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
        return
    header = ["\t".join([text, *([pair] if pair else []), "label"])] if path.suffix == ".tsv" else []
    path.write_text("\n".join([*header, *lines]) + "\n")
