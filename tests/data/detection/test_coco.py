from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qat.data.detection.coco import coco_source
from qat.errors import DataError
from tests.data.detection.samples import DRAWN, HEIGHT, WIDTH, contents, write_coco

X, Y, W, H = DRAWN


def test_coco_reads_the_images_and_boxes_of_every_split(tmp_path: Path) -> None:
    source = coco_source(write_coco(tmp_path / "cells"))
    assert (source.name, source.kind, source.notes) == ("cells", "images with boxes", ())
    assert source.val is not None
    assert [len(table.targets) for table in (source.train, source.val, source.test)] == [4, 2, 3]
    for split, table in (("train", source.train), ("val", source.val), ("test", source.test)):
        for index in range(len(table.targets)):
            assert table.name(index) == f"images/{split}{index}.jpg"
            assert table.open(index).size == table.size(index) == (WIDTH, HEIGHT)
            assert table.boxes(index).corners.tolist() == [[X, Y, X + W, Y + H]]
    boxes = source.train.boxes(0)
    assert (boxes.corners.dtype, boxes.labels.dtype, boxes.crowd.dtype) == (torch.float32, torch.int64, torch.bool)


def test_coco_boxes_go_to_the_image_of_their_id_whatever_their_order(tmp_path: Path) -> None:
    splits = contents()
    for i, annotation in enumerate(splits["train"]["annotations"]):
        annotation["bbox"] = [i, i, 5, 5]
    splits["train"]["images"].reverse()
    table = coco_source(write_coco(tmp_path, splits)).train
    assert [table.name(i) for i in range(4)] == [f"images/train{i}.jpg" for i in (3, 2, 1, 0)]
    assert [table.boxes(i).corners[0, 0].item() for i in range(4)] == [3, 2, 1, 0]


def test_coco_labels_follow_ascending_category_ids(tmp_path: Path) -> None:
    source = coco_source(write_coco(tmp_path))
    assert source.labels == ("blob", "cell"), "ids 4 and 9, listed the other way round"
    assert [source.train.boxes(i).labels.tolist() for i in range(4)] == [[1], [0], [1], [0]]


def test_coco_image_without_boxes_is_background(tmp_path: Path) -> None:
    splits = contents()
    del splits["train"]["annotations"][2]
    source = coco_source(write_coco(tmp_path, splits))
    empty = source.train.boxes(2)
    assert (empty.corners.shape, empty.labels.shape, empty.crowd.shape) == ((0, 4), (0,), (0,))
    assert (empty.labels.dtype, empty.crowd.dtype, source.notes) == (torch.int64, torch.bool, ())


def test_coco_without_any_training_box_is_refused(tmp_path: Path) -> None:
    splits = contents()
    splits["train"]["annotations"].clear()
    with pytest.raises(DataError, match="no training image has a box"):
        coco_source(write_coco(tmp_path, splits))


def test_coco_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the split 'test' has no images"):
        coco_source(write_coco(tmp_path, contents(train=4, val=2, test=0)))


def test_coco_crowd_is_marked(tmp_path: Path) -> None:
    splits = contents()
    for annotation, crowd in zip(splits["train"]["annotations"], (0, 1, 0, 1), strict=True):
        annotation.update(iscrowd=crowd, image_id=100)
    assert coco_source(write_coco(tmp_path, splits)).train.boxes(0).crowd.tolist() == [False, True, False, True]


def test_coco_image_folders_may_differ_between_splits(tmp_path: Path) -> None:
    write_coco(tmp_path)
    for split in ("val", "test"):
        (tmp_path / split).mkdir()
        for file in tmp_path.glob(f"images/{split}*.jpg"):
            file.rename(tmp_path / split / file.name)
    source = coco_source(tmp_path, val_images="val", test_images="test")
    assert source.val is not None
    assert [table.name(1) for table in (source.train, source.val, source.test)] == [
        "images/train1.jpg",
        "val/val1.jpg",
        "test/test1.jpg",
    ]


def test_coco_without_validation_split_leaves_it_to_be_held_out(tmp_path: Path) -> None:
    write_coco(tmp_path)
    assert coco_source(tmp_path, val=None).val is None
    on_val = coco_source(tmp_path, test="annotations/instances_val.json")
    assert on_val.val is None
    assert [on_val.test.name(i) for i in range(len(on_val.test.targets))] == ["images/val0.jpg", "images/val1.jpg"]
    (tmp_path / "annotations" / "instances_val.json").unlink()
    assert coco_source(tmp_path).val is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][1].update(id=100), "the image id 100 is used twice"),
        (lambda c: c["annotations"][1].update(id=500), "the annotation id 500 is used twice"),
        (lambda c: c["categories"][1].update(id=9), "the category id 9 is used twice"),
        (lambda c: c["annotations"][2].update(image_id=77), "annotation 502 belongs to image 77, which is not there"),
        (lambda c: c["annotations"][2].pop("image_id"), "annotation 502 belongs to image None"),
        (lambda c: c["annotations"][2].update(category_id=5), r"annotation 502 has category 5, .* not in the list \[4, 9\]"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, float("nan"), 4]), r"annotation 502 has the bbox \[1, 2, nan, 4\]"),
        (lambda c: c["annotations"][2].update(bbox=[1, float("inf"), 3, 4]), r"annotation 502 has the bbox \[1, inf, 3, 4\]"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, 3]), r"annotation 502 has the bbox \[1, 2, 3\]; it must be \[x, y"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, "3", 4]), "annotation 502 has the bbox .* in finite numbers"),
        (lambda c: c["annotations"][2].pop("bbox"), "annotation 502 has the bbox None"),
        (lambda c: c["images"][3].pop("width"), "image 103 needs a width and a height"),
        (lambda c: c["images"][3].update(height=0), "image 103 needs a width and a height"),
        (lambda c: c["categories"][1].update(name="cell"), r"no name twice; got \['cell', 'cell'\]"),
        (lambda c: c["categories"][1].pop("name"), "categories need names"),
        (lambda c: c["categories"].clear(), "categories need names"),
        (lambda c: c["annotations"][2].pop("id"), "'annotations' must be a list of objects that have an integer as id each"),
        (lambda c: c.update(images={}), "'images' must be a list"),
        (lambda c: c.pop("categories"), "is no COCO annotation file: KeyError: 'categories'"),
    ],
)
def test_coco_refuses_what_cannot_be_meant(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    splits = contents()
    write_coco(tmp_path, splits)
    change(splits["train"])
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_text(json.dumps(splits["train"]))
    with pytest.raises(DataError, match=rf"{file}.*{message}"):
        coco_source(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "[]", "null", "3"])
def test_coco_refuses_a_file_of_another_format(tmp_path: Path, text: str) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances_test.json").write_text(text)
    with pytest.raises(DataError, match=r"instances_test\.json is no COCO annotation file"):
        coco_source(tmp_path)


def test_coco_refuses_an_image_file_that_is_missing(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "images" / "test1.jpg").unlink()
    with pytest.raises(DataError, match=r"instances_test\.json: image 101 has the file 'test1\.jpg', but .* is not there"):
        coco_source(tmp_path)


@pytest.mark.parametrize("change", [{"id": 5}, {"name": "spot"}])
def test_coco_refuses_other_categories_in_another_split(tmp_path: Path, change: dict[str, Any]) -> None:
    splits = contents()
    splits["test"]["annotations"].clear()
    splits["test"]["categories"][1].update(change)
    message = r"instances_test\.json has the categories .*instances_train\.json has blob, cell under \[4, 9\]"
    with pytest.raises(DataError, match=message):
        coco_source(write_coco(tmp_path, splits))


def test_coco_names_files_near_a_missing_one(tmp_path: Path) -> None:
    write_coco(tmp_path)
    with pytest.raises(DataError, match=r"no annotation file .*instances_trian\.json\. Did you mean 'instances_train\.json'"):
        coco_source(tmp_path, train="annotations/instances_trian.json")
    with pytest.raises(DataError, match=r"no annotation file .*Allowed: none"):
        coco_source(tmp_path, test="labels/test.json")
    with pytest.raises(DataError, match=r"data\.root: there is no folder .*nowhere"):
        coco_source(tmp_path / "nowhere")


def test_coco_refuses_a_named_validation_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotation file .*instances_vol\.json.*data\.val="):
        coco_source(write_coco(tmp_path), val="annotations/instances_vol.json")


@pytest.mark.parametrize(
    ("key", "entry", "change", "message"),
    [
        ("annotations", 0, {"image_id": [100]}, r"belongs to image \[100\]"),
        ("annotations", 0, {"category_id": "9"}, r"has category '9'"),
        ("categories", 0, {"id": "nine"}, r"'categories' must be a list of objects that have an integer"),
        ("images", 0, {"file_name": "/etc/hostname"}, r"lies outside of"),
    ],
)
def test_coco_refuses_ids_and_files_of_the_wrong_kind(
    key: str, entry: int, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    splits = contents()
    splits["train"][key][entry].update(change)
    (write_coco(tmp_path) / "annotations" / "instances_train.json").write_text(json.dumps(splits["train"]))
    with pytest.raises(DataError, match=message):
        coco_source(tmp_path)
