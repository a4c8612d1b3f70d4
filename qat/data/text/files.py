"""Text in local files: tables of sentences (TSV, CSV, JSON lines), tagged words (CoNLL), questions (SQuAD's JSON).

What a file holds follows from its ending and from the columns that the recipe names. Every complaint names file and line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qat.data.text.conll import read_conll, tags_of
from qat.data.text.source import Example, Sentence, TextSource, TextTable, target_of
from qat.data.text.squad import read_squad
from qat.errors import ConfigError, DataError, near

FORMATS = (".tsv", ".csv", ".jsonl", ".conll", ".json")


def text_source(
    root: str | Path,
    *,
    train: str,
    test: str,
    val: str | None = None,
    text_column: str = "text",
    pair_column: str | None = None,
    label_column: str = "label",
    labels: Sequence[str] | str | None = None,
) -> TextSource:
    """Read the files of a data set.

    Args:
        root: their folder.
        train, test, val: file names; without a validation file some training examples are held out later.
        text_column, pair_column, label_column: of tables; a TSV or CSV starts with a line that names its columns.
        labels: names of classes or tags in the order of their numbers, or a JSON file in `root` with a list of them, or
            `file:key` for a list inside; None takes the sorted names that occur in the training file.

    Raises:
        DataError: a missing file or column, a line with another number of columns, an unknown label or tag.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"data.root: there is no folder {root}")
    paths = {"train": folder / train, "test": folder / test} | ({"val": folder / val} if val else {})
    for path in paths.values():
        if not path.is_file():
            raise DataError(f"there is no file {path}; {folder} holds {', '.join(sorted(p.name for p in folder.iterdir()))}")
        if path.suffix not in FORMATS:
            raise DataError(f"{path}: unknown kind of file.{near(path.suffix, FORMATS)}")
    columns = (text_column, pair_column, label_column)
    names = _labels(folder, paths["train"], labels, label_column)
    return TextSource(
        name=folder.resolve().name,
        labels=names,
        **{split: TextTable(tuple(_examples(path, columns, names))) for split, path in paths.items()},
    )


def _examples(path: Path, columns: tuple[str, str | None, str], labels: tuple[str, ...]) -> Iterator[Example]:
    if path.suffix == ".conll":
        yield from read_conll(path, labels)
    elif path.suffix == ".json":
        yield from read_squad(path)
    else:
        text, pair, label = columns
        index = {name: i for i, name in enumerate(labels)}
        for where, row in read_rows(path):
            wanted = [column for column in columns if column is not None]
            if missing := [column for column in wanted if row.get(column) is None]:
                raise DataError(f"{where}: no column {missing[0]!r}.{near(missing[0], row)}")
            yield Sentence(
                text=str(row[text]),
                pair=None if pair is None else str(row[pair]),
                target=target_of(row[label], index, where),
                where=where,
            )


def read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """`file:line` and the columns of every row of a TSV (no quoting), CSV (quoted) or JSON-lines file.

    Raises:
        DataError: not UTF-8, a line with another number of columns than the first one, a line that is no JSON object.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                yield from _json_lines(path, file)
                return
            quoting: Any = csv.QUOTE_MINIMAL if path.suffix == ".csv" else csv.QUOTE_NONE
            reader = csv.reader(file, delimiter="," if path.suffix == ".csv" else "\t", quoting=quoting)
            header = next(reader, [])
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if len(row) != len(header):
                    raise DataError(f"{where}: {len(row)} columns, the first line names {len(header)}: {', '.join(header)}")
                yield where, dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error


def _json_lines(path: Path, file: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(file, start=1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON object was expected, got {type(row).__name__}")
        yield where, row


def _labels(folder: Path, train: Path, labels: Sequence[str] | str | None, column: str) -> tuple[str, ...]:
    if isinstance(labels, str):
        return _label_file(folder, labels)
    if labels is not None:
        return tuple(str(label) for label in labels)
    if train.suffix == ".json":
        return ()
    if train.suffix == ".conll":
        return tags_of(train)
    found = sorted({str(row[column]).strip() for _, row in read_rows(train) if row.get(column) is not None}, key=_natural)
    return tuple(found)


def _natural(label: str) -> tuple[int, str]:
    """Numbers in their order, before names."""
    return (int(label), "") if label.isdecimal() else (1 << 62, label)


def _label_file(folder: Path, given: str) -> tuple[str, ...]:
    name, _, key = given.partition(":")
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        content = content[key] if key else content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"data.labels={given!r}: {folder / name} holds no such list: {error!r}") from error
    if not isinstance(content, list):
        raise ConfigError(f"data.labels={given!r} is no list; name one of its keys as 'file:key'")
    return tuple(str(label) for label in content)
