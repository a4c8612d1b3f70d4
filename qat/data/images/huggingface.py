"""Image data sets of the Hugging Face hub, or the same files in a local folder (no network, no cache, no writes)."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from qat.data.images.arrow import ArrowTable, integer_targets, is_text, label_names, read_split, select_columns
from qat.data.source import ImageSource
from qat.errors import ConfigError, DataError


def huggingface_source(
    *,
    root: str | Path | None = None,
    name: str | None = None,
    config_name: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    train_split: str = "train",
    val_split: str | None = None,
    test_split: str = "test",
) -> ImageSource:
    """Read the tables of a data set.

    Args:
        root: local folder with parquet or arrow files, see `read_split`.
        name: name on the hub; give this or `root`.
        config_name: which configuration of a hub data set.
        image_column, label_column: encoded images; integers or strings.
        train_split, val_split, test_split: names; without a validation split some training images are held out later.

    Raises:
        ConfigError: not exactly one of `root` and `name`.
        DataError: a folder, split or column that does not exist, or a hub that cannot be reached.
    """
    if (root is None) == (name is None):
        raise ConfigError("give either data.root (a local folder) or data.name (on the hub)")
    columns = image_column, label_column
    tables: dict[str, pa.Table] = {}
    for part, split in (("train", train_split), ("val", val_split), ("test", test_split)):
        if split is not None and root is not None:
            tables[part] = read_split(_folder(root), split, columns)
        elif split is not None:
            tables[part] = _load_from_hub(str(name), config_name, split, columns)
    labels = _labels(tables["train"][label_column], label_names(tables["train"], label_column), root)
    for part, table in tables.items():
        if label_names(table, label_column) not in (None, labels):
            raise DataError(f"the splits 'train' and {part!r} name different classes")
    return ImageSource(
        name=str(name) if root is None else Path(root).resolve().name,
        labels=labels,
        **{
            part: ArrowTable(
                split=part,
                images=table[image_column],
                targets=integer_targets(table[label_column], labels, f"split {part!r}"),
            )
            for part, table in tables.items()
        },
    )


def _folder(root: str | Path) -> Path:
    if not Path(root).is_dir():
        raise DataError(f"data.root: there is no folder {root}")
    return Path(root)


def _load_from_hub(name: str, config_name: str | None, split: str, columns: tuple[str, str]) -> pa.Table:
    from datasets import load_dataset  # takes a second to import, and local folders do without

    try:
        dataset = load_dataset(name, config_name, split=split)
    except Exception as error:  # datasets, huggingface_hub and httpx raise their own types
        raise DataError(
            f"the split {split!r} of the data set {name!r} cannot be had from the hub: {error}\n"
            "Without network give a local folder with its parquet files as data.root."
        ) from error
    return select_columns(dataset.data.table, columns, f"{name}, split {split!r}")


def _labels(column: pa.ChunkedArray, names: tuple[str, ...] | None, root: str | Path | None) -> tuple[str, ...]:
    """Class names: from the table's metadata, else labels.json beside the files, else the labels themselves."""
    if names is not None:
        return names
    file = Path(root) / "labels.json" if root is not None else None
    if file is not None and file.is_file():
        return tuple(str(label) for label in json.loads(file.read_text()))
    if is_text(column):
        return tuple(sorted(pc.unique(column).drop_null().to_pylist()))
    top = pc.max(column).as_py()
    if not isinstance(top, int):
        raise DataError(f"labels are {column.type}, expected integers or strings")
    return tuple(str(index) for index in range(top + 1))
