from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from qat.data.images.huggingface import huggingface_source
from qat.errors import ConfigError, DataError
from tests.data.samples import encode, image_data, levels, make_image, make_preprocess


def _write(file: Path, labels: list[Any], bad: int | None = None) -> None:
    images = [{"bytes": encode(make_image(level=60 * (index % 3))), "path": None} for index in range(len(labels))]
    if bad is not None:
        images[bad]["bytes"] = b"\x89PNG truncated"
    pq.write_table(pa.table({"img": images, "label": labels}), file)


def _folder(root: Path, names: list[str] | None = None, bad: int | None = None) -> Path:
    for split, count in (("train", 60), ("test", 30)):
        labels = [index % 3 if names is None else names[index % 3] for index in range(count)]
        _write(root / f"{split}.parquet", labels, bad if split == "test" else None)
    return root


def test_local_folder_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    before = sorted(path.name for path in root.rglob("*"))
    data = image_data(huggingface_source(root=root, image_column="img"), preprocessing=make_preprocess(), batch_size=8)
    assert (data.n_train, data.n_val, data.n_test, data.labels) == (54, 6, 30, ("0", "1", "2"))
    for images, targets in data.test_dataloader():
        assert levels(images) == [60 * target for target in targets.tolist()]
    assert sorted(path.name for path in root.rglob("*")) == before


def test_corrupt_row_leaves_with_its_target(tmp_path: Path) -> None:
    data = image_data(
        huggingface_source(root=_folder(tmp_path, bad=4), image_column="img"),
        preprocessing=make_preprocess(),
        batch_size=8,
        corrupt_budget=0.05,
    )
    assert [entry.partition(":")[0] for entry in data.corrupt] == ["test[4]"]
    assert data.n_test == 29
    for images, targets in data.test_dataloader():
        assert levels(images) == [60 * target for target in targets.tolist()]


def test_class_names_come_from_strings_or_a_file_beside(tmp_path: Path) -> None:
    named = _folder(tmp_path, names=["cat", "ant", "bee"])
    assert huggingface_source(root=named, image_column="img").labels == ("ant", "bee", "cat")
    (tmp_path / "numbers").mkdir()
    numbered = _folder(tmp_path / "numbers")
    (numbered / "labels.json").write_text(json.dumps(["x", "y", "z"]))
    assert huggingface_source(root=numbered, image_column="img").labels == ("x", "y", "z")
    (numbered / "labels.json").write_text(json.dumps(["x", "y"]))
    with pytest.raises(DataError, match="targets from 0 to 2, but there are 2 labels"):
        huggingface_source(root=numbered, image_column="img")


def test_source_needs_a_folder_or_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"either data.root .* or data.name"):
        huggingface_source()
    with pytest.raises(DataError, match="there is no folder"):
        huggingface_source(root=tmp_path / "nowhere")


def test_hub_data_set_gives_the_same_images_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _folder(tmp_path)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})

    def load_dataset(name: str, config_name: str | None, split: str) -> datasets.Dataset:
        assert (name, config_name) == ("someone/shapes", None)
        return datasets.Dataset(pq.read_table(root / f"{split}.parquet").cast(features.arrow_schema))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub, local = (
        huggingface_source(name="someone/shapes", image_column="img"),
        huggingface_source(root=root, image_column="img"),
    )
    assert hub.labels == ("a", "b", "c")
    assert hub.test.targets.tolist() == local.test.targets.tolist()
    assert hub.test.open(7).tobytes() == local.test.open(7).tobytes()
    with pytest.raises(DataError, match=r"no column 'image'. Columns: img, label"):
        huggingface_source(name="someone/shapes")


def test_hub_that_cannot_be_reached_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError("network is unreachable")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"network is unreachable\n.*data\.root"):
        huggingface_source(name="someone/shapes")


def test_real_cifar10_is_read(shared_data: Path) -> None:
    data = image_data(
        huggingface_source(root=shared_data / "cifar10", image_column="img"),
        preprocessing=make_preprocess(32),
        limit_train=256,
        limit_test=100,
        augment="flip_crop",
    )
    assert (data.n_train, data.n_val, data.n_test) == (256, 5000, 100)
    assert data.labels[:2] == ("airplane", "automobile")
    assert next(iter(data.train_dataloader()))[0].shape == (64, 3, 32, 32)
