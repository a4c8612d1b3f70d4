"""Text data sets of the Hugging Face hub by name; needs the network or a filled cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qat.data.text.source import Example, Question, Sentence, Tagged, TextSource, TextTable, target_of
from qat.errors import DataError, near


def text_hub_source(
    *,
    name: str,
    config_name: str | None = None,
    text_column: str = "text",
    pair_column: str | None = None,
    label_column: str = "label",
    train_split: str = "train",
    val_split: str | None = None,
    test_split: str = "test",
) -> TextSource:
    """Load a data set of sentences, of tagged words (a label column that is a list) or of questions (a column `answers`).

    Args:
        name, config_name: on the hub.
        text_column, pair_column, label_column: which columns to use; questions have `question`, `context`, `answers`.
        train_split, val_split, test_split: names; without a validation split some training examples are held out later.

    Raises:
        DataError: a hub that cannot be reached, or a column that does not exist.
    """
    splits = {"train": train_split, "val": val_split, "test": test_split}
    loaded = {part: _load(name, config_name, split) for part, split in splits.items() if split is not None}
    labels = _labels(loaded["train"], label_column)
    columns = (text_column, pair_column, label_column)
    return TextSource(
        name=name if config_name is None else f"{name}/{config_name}",
        labels=labels,
        **{part: TextTable(tuple(_examples(data, part, columns, labels))) for part, data in loaded.items()},
    )


def _load(name: str, config_name: str | None, split: str) -> object:
    from datasets import load_dataset  # takes a second to import, and local files do without

    try:
        return load_dataset(name, config_name, split=split)
    except Exception as error:  # datasets, huggingface_hub and httpx raise their own types
        raise DataError(
            f"the split {split!r} of the data set {name!r} cannot be had from the hub: {error}\n"
            "Without network give local files: data=text data.root=FOLDER."
        ) from error


def _labels(data: Any, column: str) -> tuple[str, ...]:
    """Names from the features of the data set, else the values that occur."""
    if "answers" in data.features:
        return ()
    if column not in data.features:
        raise DataError(f"no column {column!r}.{near(column, data.features)}")
    feature = data.features[column]
    feature = getattr(feature, "feature", feature)
    if getattr(feature, "names", None):
        return tuple(feature.names)
    values = data[column]
    flat = {str(v) for value in values for v in (value if isinstance(value, list) else [value])}
    return tuple(sorted(flat))


def _examples(data: Any, split: str, columns: tuple[str, str | None, str], labels: tuple[str, ...]) -> Iterator[Example]:
    text, pair, label = columns
    index = {name: i for i, name in enumerate(labels)}
    needed = ("question", "context") if "answers" in data.features else [c for c in columns if c is not None]
    for column in needed:
        if column not in data.features:
            raise DataError(f"split {split!r} has no column {column!r}.{near(column, data.features)}")
    for number, row in enumerate(data):
        yield _example(row, f"{split}[{number}]", (text, pair, label), index)


def _example(row: Mapping[str, Any], where: str, columns: tuple[str, str | None, str], index: Mapping[str, int]) -> Example:
    if "answers" in row:
        found = row["answers"]
        answers = tuple(zip(found["text"], found["answer_start"], strict=True))
        return Question(question=row["question"], context=row["context"], answers=answers, where=where)
    text, pair, label = columns
    if isinstance(row[label], list):
        return Tagged(words=tuple(row[text]), tags=tuple(target_of(t, index, where) for t in row[label]), where=where)
    target = target_of(row[label], index, where)
    return Sentence(text=row[text], pair=None if pair is None else row[pair], target=target, where=where)
