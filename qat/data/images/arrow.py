"""Images in Arrow tables, and reading such tables from a local folder: parquet, or what `datasets` saves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from PIL import Image

from qat.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrowTable:
    """Images in a column of encoded bytes.

    Args:
        split: what messages call the table.
        images: a chunked array of bytes, or of structs with `bytes` and `path`, as `datasets` stores images.
        targets: shape (N,).
    """

    split: str
    images: pa.ChunkedArray
    targets: npt.NDArray[np.int64]

    def name(self, index: int) -> str:
        path = self._path(index)
        return f"{self.split}[{index}]" + (f" ({path})" if path else "")

    def identity(self, index: int) -> str:
        """Name and stored bytes."""
        content = self._bytes(index)
        return f"{self.name(index)}\t{0 if content is None else content.size}"

    def open(self, index: int) -> Image.Image:
        content, path = self._bytes(index), self._path(index)
        if content is None and path is None:
            raise ValueError("no image stored")
        return Image.open(BytesIO(Path(str(path)).read_bytes() if content is None else content))

    def _bytes(self, index: int) -> pa.Buffer | None:
        value = self.images[index]
        return (value["bytes"] if pa.types.is_struct(self.images.type) else value).as_buffer()

    def _path(self, index: int) -> str | None:
        if not pa.types.is_struct(self.images.type):
            return None
        path: str | None = self.images[index]["path"].as_py()
        return path


def read_split(root: Path, split: str, columns: tuple[str, str]) -> pa.Table:
    """Read the two columns of one split.

    Looks for `{split}.parquet`, `{split}-*.parquet`, `{split}/*.parquet`, `data/{split}-*.parquet`, then for the same
    with `.arrow`, which is mapped, not read.

    Args:
        root: the folder; nothing is written to it.
        split: such as "train".
        columns: image and label column.

    Raises:
        DataError: no such file, or no such column; what there is, is named.
    """
    for suffix in ("parquet", "arrow"):
        for pattern in (f"{split}.{suffix}", f"{split}-*.{suffix}", f"{split}/*.{suffix}", f"data/{split}-*.{suffix}"):
            files = sorted(root.glob(pattern))
            if files:
                return pa.concat_tables([_read_columns(file, columns) for file in files])
    found = sorted(path.relative_to(root).as_posix() for path in [*root.rglob("*.parquet"), *root.rglob("*.arrow")])
    raise DataError(
        f"{root} has no {split}.parquet (nor {split}-*.parquet, {split}/*.parquet, or .arrow). "
        f"Found: {', '.join(found) or 'no parquet or arrow file'}. Set data.train_split and data.test_split."
    )


def select_columns(table: pa.Table, columns: tuple[str, str], where: str) -> pa.Table:
    """Those columns of a table.

    Raises:
        DataError: naming the columns that exist.
    """
    for column in columns:
        if column not in table.column_names:
            raise DataError(
                f"{where} has no column {column!r}. Columns: {', '.join(table.column_names)}. "
                "Set data.image_column and data.label_column."
            )
    return table.select(list(columns))


def label_names(table: pa.Table, label_column: str) -> tuple[str, ...] | None:
    """The class names that `datasets` keeps in the metadata of a table; None where there are none."""
    metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(label_column, {})
    return tuple(feature["names"]) if "names" in feature else None


def integer_targets(column: pa.ChunkedArray, labels: Iterable[str], where: str) -> npt.NDArray[np.int64]:
    """Labels → targets, shape (N,): integers as they are, strings as their position in `labels`.

    Raises:
        DataError: a missing label, a string that is not among `labels`, or labels of another type.
    """
    if column.null_count:
        raise DataError(f"{where}: {column.null_count} of {len(column)} labels are missing")
    if pa.types.is_integer(column.type):
        return np.asarray(column, dtype=np.int64)
    if not is_text(column):
        raise DataError(f"{where}: labels are {column.type}, expected integers or strings")
    positions = pc.index_in(column, value_set=pa.array(labels, type=column.type))
    if positions.null_count:
        unknown = sorted(set(column.to_pylist()) - set(labels))
        raise DataError(f"{where}: labels {', '.join(unknown[:5])} do not occur in the training images")
    return np.asarray(positions, dtype=np.int64)


def is_text(column: pa.ChunkedArray) -> bool:
    """Whether a column holds strings."""
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _read_columns(file: Path, columns: tuple[str, str]) -> pa.Table:
    try:
        if file.suffix == ".parquet":
            select_columns(pq.read_schema(file).empty_table(), columns, file.name)
            return pq.read_table(file, columns=list(columns))
        with pa.memory_map(str(file)) as source:
            try:
                table = pa.ipc.open_stream(source).read_all()
            except pa.ArrowInvalid:  # the other of the two Arrow formats
                table = pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return select_columns(table, columns, file.name)
