"""CoNLL files: a word and its tag per line, separated by a tab or blanks; an empty line ends a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from qat.data.text.source import Tagged
from qat.errors import DataError, near


def read_conll(path: Path, labels: Sequence[str]) -> Iterator[Tagged]:
    """The sentences of a file; the word is the first column, the tag the last.

    Raises:
        DataError: a line without a tag, or a tag that is not among `labels`; file and line are named.
    """
    index = {label: i for i, label in enumerate(labels)}
    words: list[str] = []
    tags: list[int] = []
    begin = 1
    for number, columns in _lines(path):
        if not columns:
            if words:
                yield Tagged(words=tuple(words), tags=tuple(tags), where=f"{path}:{begin}")
            words, tags, begin = [], [], number + 1
            continue
        word, tag = columns[0], columns[-1]
        if tag not in index:
            raise DataError(f"{path}:{number}: unknown tag {tag!r}.{near(tag, labels)}")
        words.append(word)
        tags.append(index[tag])
    if words:
        yield Tagged(words=tuple(words), tags=tuple(tags), where=f"{path}:{begin}")


def tags_of(path: Path) -> tuple[str, ...]:
    """All tags of a file: "O" first, then by name, B- before I-."""
    found = {columns[-1] for _, columns in _lines(path) if columns}
    return tuple(sorted(found, key=lambda tag: (tag != "O", tag[2:], tag)))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and columns of every line; a document mark (-DOCSTART-) counts as an empty line."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) == 1 and columns[0].strip():
            raise DataError(f"{path}:{number}: a word and its tag were expected, got {line!r}")
        yield number, [] if not columns or not line.strip() or columns[0] == "-DOCSTART-" else [c.strip() for c in columns]
