"""Questions in SQuAD's JSON: data > paragraphs (context) > qas (question, answers with text and answer_start)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from qat.data.text.source import Question
from qat.errors import DataError


def read_squad(path: Path) -> Iterator[Question]:
    """The questions of a file, versions 1.1 and 2.0; a message names the file and the question's id.

    Raises:
        DataError: not SQuAD's form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = [] if asked.get("is_impossible") else asked["answers"]
                    yield Question(
                        question=asked["question"],
                        context=paragraph["context"],
                        answers=tuple((str(a["text"]), int(a["answer_start"])) for a in answers),
                        where=f"{path}: question {asked.get('id', asked['question'])!r}",
                    )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not in SQuAD's form: {type(error).__name__}: {error}") from error
