"""Small texts on disk, and a tokenizer that knows them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qat.data.text.encode import Encoder
from qat.data.text.grammar import grammar_source
from qat.models.tokenizer import learn_tokenizer

CONLL = "Anna B-person\nput O\nthe O\nkey B-thing\n. O\n\nBen B-person\nleft O\n"


def write_tsv(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("text", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n", encoding="utf-8")
    return path


def write_squad(path: Path, questions: Sequence[tuple[str, str, str | None]]) -> Path:
    """(question, context, answer) each; None has no answer."""
    paragraphs = []
    for i, (question, context, answer) in enumerate(questions):
        answers = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
        asked = {"id": str(i), "question": question, "answers": answers, "is_impossible": answer is None}
        paragraphs.append({"context": context, "qas": [asked]})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


@functools.cache
def tokenizer(kind: str = "sentences") -> Any:
    """WordPiece of 128 entries, learned from the generated language."""
    return learn_tokenizer(grammar_source(kind=kind, train=300, test=1).corpus(), size=128)


def encoder(kind: str = "sentences", *, max_length: int = 64, stride: int = 8, refuse_long: bool = False) -> Encoder:
    return Encoder(
        tokenizer=tokenizer(kind),
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        max_length=max_length,
        stride=stride,
        refuse_long=refuse_long,
    )
