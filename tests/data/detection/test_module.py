from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qat.data.detection.batch import DetectionBatch
from qat.data.detection.coco import coco_source
from qat.data.detection.module import DetectionData
from qat.data.detection.shapes import shapes_source
from qat.data.detection.source import BoxSource
from qat.data.options import grouped
from qat.errors import ConfigError, DataError
from tests.data.detection.samples import HEIGHT, WIDTH, contents, rectangles, write_coco
from tests.data.samples import make_preprocess

PREPROCESS = make_preprocess(32, crop_mode="border")


def _shapes(**options: Any) -> DetectionData:
    return _coco(shapes_source(train=40, test=10), **{"batch_size": 8, "augment": "ssd", **options})


def _coco(source: BoxSource, **options: Any) -> DetectionData:
    batching, selection, others = grouped({"batch_size": 2, **options})
    return DetectionData(source, preprocessing=PREPROCESS, batching=batching, selection=selection, **others)


def _batches(data: DetectionData, epoch: int = 0) -> list[DetectionBatch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return list(loader)


def _images(batches: list[DetectionBatch]) -> list[bytes]:
    return [image.numpy().tobytes() for batch in batches for image in batch.inputs[0]]


def _equal(first: list[DetectionBatch], second: list[DetectionBatch]) -> bool:
    return _images(first) == _images(second) and all(
        torch.equal(x, y)
        for a, b in zip(first, second, strict=True)
        for x, y in zip((*a.corners, *a.labels), (*b.corners, *b.labels), strict=True)
    )


def _truncate(root: Path, *names: str) -> None:
    for name in names:
        file = root / "images" / name
        file.write_bytes(file.read_bytes()[:-50])


def test_train_batches_do_not_depend_on_workers() -> None:
    alone, pair = _shapes(), _shapes(num_workers=2)
    for epoch in (0, 1):
        assert _equal(_batches(alone, epoch), _batches(pair, epoch))


def test_train_batches_differ_between_epochs_and_seeds_in_order_and_augmentation() -> None:
    first, second, other = _batches(_shapes(), 0), _batches(_shapes(), 1), _batches(_shapes(seed=1), 0)
    assert [len(batch.labels) for batch in first] == [8] * 4
    assert len({*_images(first), *_images(second), *_images(other)}) == 3 * 32


def test_evaluation_sees_every_image_once_and_unaugmented() -> None:
    data = _shapes(eval_batch_size=4)
    first = list(data.test_dataloader())
    assert [len(batch.corners) for batch in first] == [4, 4, 2]
    assert _equal(first, list(_shapes(eval_batch_size=4, augment="none", seed=3).test_dataloader()))
    seen = [(corners, item) for batch in first for corners, item in zip(batch.corners, batch.examples.items, strict=True)]
    for index, (corners, item) in enumerate(seen):
        stored = data.test_images.table.boxes(index).corners
        torch.testing.assert_close(item.placement.to_image(corners), stored)


def test_held_out_images_are_the_same_for_every_seed_and_never_trained_on() -> None:
    data, other = _shapes(augment="none", batch_size=1), _shapes(augment="none", batch_size=1, seed=9)
    val = _images(list(data.val_dataloader()))
    assert (data.n_train, data.n_val, len(val)) == (36, 4, 4)
    assert val == _images(list(other.val_dataloader()))
    assert not {*val} & {*_images(_batches(data))}


def test_calibration_batches_are_training_images_as_evaluation_sees_them() -> None:
    data, plain = _shapes(), _shapes(augment="none", seed=5, batch_size=1)
    batches = data.calibration_batches(2)
    assert [[x.shape for x in batch] for batch in batches] == [[(8, 3, 32, 32)]] * 2
    chosen = [image.numpy().tobytes() for (images,) in batches for image in images]
    assert len({*chosen} & {*_images(_batches(plain))}) == 16
    assert all(torch.equal(a, b) for (a,), (b,) in zip(batches, data.calibration_batches(2), strict=True))
    assert sum(len(images) for (images,) in data.calibration_batches(100)) == data.n_train


def test_calibration_batches_follow_the_seed_of_the_split_alone() -> None:
    """As those of images and texts do."""
    (first,), (same,), (other,) = (
        _shapes(seed=seed, split_seed=split).calibration_batches(1)[0] for seed, split in ((0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_truncated_image_leaves_with_its_boxes_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = contents(train=6, val=2, test=3)
    for split, content in splits.items():
        for i, annotation in enumerate(content["annotations"]):
            annotation["bbox"] = [i, {"train": 1, "val": 2, "test": 3}[split], 10, 10]
    source = coco_source(write_coco(tmp_path, splits))
    whole = _coco(source)
    _truncate(tmp_path, "train2.jpg", "test0.jpg")
    data = _coco(source, corrupt_budget=0.2, batch_size=1)
    assert [note.partition(":")[0] for note in data.notes] == ["left out images/train2.jpg", "left out images/test0.jpg"]
    assert "2 of 11 images cannot be decoded" in caplog.text
    assert (data.n_train, data.n_val, data.n_test) == (5, 2, 2)
    for loader, kept in ((data.train_dataloader(), [0, 1, 3, 4, 5]), (data.test_dataloader(), [1, 2])):
        items = [(item, batch.labels[0]) for batch in loader for item in batch.examples.items]
        assert sorted(int(item.boxes.corners[0, 0]) for item, _ in items) == kept
        assert all(labels.tolist() == [1 - int(item.boxes.corners[0, 0]) % 2] for item, labels in items)
    assert data.fingerprint != whole.fingerprint


def test_truncated_images_beyond_the_budget_stop(tmp_path: Path) -> None:
    source = coco_source(write_coco(tmp_path))
    _truncate(tmp_path, "val1.jpg")
    with pytest.raises(DataError, match=r"1 of 9 images .*corrupt_budget=0\.01 allows \(0\):\n  images/val1\.jpg"):
        _coco(source)


def test_image_of_another_size_than_annotated_is_refused_by_name(tmp_path: Path) -> None:
    source = coco_source(write_coco(tmp_path))
    rectangles(HEIGHT, WIDTH).save(tmp_path / "images" / "test1.jpg")
    with pytest.raises(DataError, match=r"images/test1\.jpg is 40x60 pixels, its annotations are for 60x40"):
        _coco(source)


def test_notes_of_the_source_are_passed_on(tmp_path: Path) -> None:
    splits = contents()
    splits["train"]["annotations"][0]["bbox"] = [-5, 0, 20, 10]
    source = coco_source(write_coco(tmp_path, splits))
    assert len(source.notes) == 1
    assert _coco(source).notes == source.notes


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_fingerprint_changes_with_any_box(tmp_path: Path, split: str) -> None:
    splits = contents()
    before = _coco(coco_source(write_coco(tmp_path, splits))).fingerprint
    assert before == _coco(coco_source(tmp_path), seed=3, augment="flip", batch_size=1).fingerprint
    splits[split]["annotations"][1]["bbox"][2] += 0.5
    assert _coco(coco_source(write_coco(tmp_path, splits))).fingerprint != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "shift"}, "unknown augment 'shift' of images with boxes"),
        ({"batch_size": 0}, r"data\.batch_size must be at least 1"),
        ({"batch_size": 37}, r"data\.batch_size=37, but shapes has 36 training samples"),
        ({"limit_val": 0}, r"data\.limit_val must be at least 1"),
        ({"val_fraction": 0}, r"data\.val_fraction must lie between 0 and 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _shapes(**options)
