from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from qat.data.images.arrow import ArrowTable, integer_targets, label_names, read_split
from qat.errors import DataError
from tests.data.samples import encode, make_image


def _table(count: int = 4) -> pa.Table:
    images = [{"bytes": encode(make_image(seed=index)), "path": f"{index}.png"} for index in range(count)]
    return pa.table({"image": images, "label": list(range(count)), "extra": ["x"] * count})


def _write(table: pa.Table, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(table, file)
        return
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    "files",
    [
        ["train.parquet"],
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["data/train-00000-of-00001.parquet"],
        ["train/data-00000-of-00001.arrow"],
        ["train/0.parquet", "train/1.parquet"],
    ],
)
def test_read_split_finds_the_usual_layouts(files: list[str], tmp_path: Path) -> None:
    for file in files:
        _write(_table(), tmp_path / file)
    table = read_split(tmp_path, "train", ("image", "label"))
    assert table.column_names == ["image", "label"]
    assert table["label"].to_pylist() == [0, 1, 2, 3] * len(files)


@pytest.mark.parametrize("file", ["train.parquet", "train.arrow"])
def test_read_split_names_the_columns_that_exist(file: str, tmp_path: Path) -> None:
    _write(_table(), tmp_path / file)
    with pytest.raises(DataError, match=r"no column 'img'. Columns: image, label, extra. Set data.image_column"):
        read_split(tmp_path, "train", ("img", "label"))


def test_read_split_names_the_files_that_exist(tmp_path: Path) -> None:
    _write(_table(), tmp_path / "validation.parquet")
    with pytest.raises(DataError, match=r"has no train.parquet .*Found: validation.parquet"):
        read_split(tmp_path, "train", ("image", "label"))


def test_read_split_refuses_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"train\.parquet cannot be read"):
        read_split(tmp_path, "train", ("image", "label"))


@pytest.mark.parametrize("as_struct", [True, False])
def test_arrow_table_opens_its_images(as_struct: bool) -> None:
    column = _table()["image"]
    if not as_struct:
        column = pa.chunked_array([pa.array([value["bytes"] for value in column.to_pylist()])])
    table = ArrowTable(split="train", images=column, targets=np.arange(4))
    assert [table.open(index).tobytes() for index in range(4)] == [make_image(seed=i).tobytes() for i in range(4)]
    assert table.identity(2) == f"{table.name(2)}\t{len(encode(make_image(seed=2)))}"
    assert table.name(2) == ("train[2] (2.png)" if as_struct else "train[2]")


def test_arrow_table_reads_a_stored_path_and_refuses_an_empty_row(tmp_path: Path) -> None:
    make_image(seed=5).save(tmp_path / "5.png")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": None, "path": str(tmp_path / "5.png")}, {"bytes": None, "path": None}, None]
    table = ArrowTable(split="train", images=pa.chunked_array([pa.array(rows, kind)]), targets=np.zeros(3, np.int64))
    assert table.open(0).tobytes() == make_image(seed=5).tobytes()
    for index in (1, 2):
        with pytest.raises(ValueError, match="no image stored"):
            table.open(index)


def test_integer_targets_maps_strings_and_refuses_what_is_missing() -> None:
    column = pa.chunked_array([["dog", "cat"], ["dog"]])
    assert integer_targets(column, ["cat", "dog"], "test").tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="test: labels cat do not occur"):
        integer_targets(column, ["dog"], "test")
    with pytest.raises(DataError, match="1 of 2 labels are missing"):
        integer_targets(pa.chunked_array([[1, None]]), ["a"], "test")
    with pytest.raises(DataError, match="labels are double, expected integers or strings"):
        integer_targets(pa.chunked_array([[0.5]]), ["a"], "test")


def test_label_names_come_from_the_metadata() -> None:
    info = '{"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}'
    assert label_names(_table().replace_schema_metadata({"huggingface": info}), "label") == ("a", "b")
    assert label_names(_table(), "label") is None
