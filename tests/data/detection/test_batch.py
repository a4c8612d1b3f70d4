from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qat.data.detection.augment import BoxAugment
from qat.data.detection.batch import DetectionBatch, DetectionDataset
from qat.data.detection.coco import coco_source
from qat.data.detection.shapes import shapes_source
from qat.data.detection.source import BoxTable
from qat.data.parts import Part
from qat.errors import DataError
from tests.data.detection.samples import HEIGHT, WIDTH, contents, extent, write_coco
from tests.data.samples import make_preprocess


def _dataset(
    table: BoxTable, *, indices: list[int] | None = None, augment: str = "none", seed: int = 0, crop_mode: str = "border"
) -> DetectionDataset:
    chosen = np.array(range(len(table.targets)) if indices is None else indices, dtype=np.int64)
    preprocess = make_preprocess(48, crop_mode=crop_mode)
    return DetectionDataset(Part(table=table, indices=chosen), preprocess, BoxAugment(augment), seed)


def _shapes(**options: object) -> DetectionDataset:
    return _dataset(shapes_source(train=12, test=1).train, augment="ssd", **options)  # type: ignore[arg-type]


def _same(a: DetectionBatch, row: int, b: DetectionBatch, other: int) -> bool:
    return all(
        torch.equal(x[row], y[other]) for x, y in ((a.inputs[0], b.inputs[0]), (a.corners, b.corners), (a.labels, b.labels))
    )


def test_batch_has_the_promised_form(tmp_path: Path) -> None:
    splits = contents()
    del splits["train"]["annotations"][1]
    batch = _dataset(coco_source(write_coco(tmp_path, splits)).train)[[(0, 0), (0, 1), (0, 2)]]
    (images,) = batch.inputs
    assert (images.shape, images.dtype) == ((3, 3, 48, 48), torch.float32)
    assert [corners.shape for corners in batch.corners] == [(1, 4), (0, 4), (1, 4)]
    assert [labels.tolist() for labels in batch.labels] == [[1], [], [1]]
    assert all((c.dtype, y.dtype) == (torch.float32, torch.int64) for c, y in zip(batch.corners, batch.labels, strict=True))
    assert [(seen.width, seen.height) for seen in batch.examples.items] == [(WIDTH, HEIGHT)] * 3


def test_batch_is_a_function_of_seed_epoch_and_index_alone() -> None:
    data = _shapes()
    batch = data[[(2, index) for index in range(12)]]
    assert all(_same(batch, index, data[[(2, index)]], 0) for index in reversed(range(12)))
    chosen = _shapes(indices=[4, 9])[[(2, 0), (2, 1)]]
    assert _same(batch, 4, chosen, 0), "of the image, not of its place among those chosen"
    assert _same(batch, 9, chosen, 1)
    for other in (data[[(3, index) for index in range(12)]], _shapes(seed=1)[[(2, index) for index in range(12)]]):
        assert not any(torch.equal(batch.inputs[0][index], other.inputs[0][index]) for index in range(12))


@pytest.mark.parametrize("crop_mode", ["border", "squash"])
def test_boxes_of_a_batch_stand_on_the_objects_of_its_inputs(tmp_path: Path, crop_mode: str) -> None:
    batch = _dataset(coco_source(write_coco(tmp_path)).train, crop_mode=crop_mode)[[(0, 0)]]
    white = (batch.inputs[0][0].mean(dim=0) > 0.5).numpy()
    torch.testing.assert_close(batch.corners[0], torch.tensor([extent(white)], dtype=torch.float32), atol=1, rtol=0)


@pytest.mark.parametrize("crop_mode", ["border", "squash", "center"])
def test_placement_of_a_batch_takes_its_boxes_back_to_the_stored_image(tmp_path: Path, crop_mode: str) -> None:
    batch = _dataset(coco_source(write_coco(tmp_path)).train, crop_mode=crop_mode)[[(0, 0), (0, 1)]]
    for corners, seen in zip(batch.corners, batch.examples.items, strict=True):
        assert not torch.allclose(corners, seen.boxes.corners, atol=1)
        torch.testing.assert_close(seen.placement.to_image(corners), seen.boxes.corners)


def test_crowds_are_kept_for_evaluation_and_not_trained_on(tmp_path: Path) -> None:
    splits = contents()
    for annotation, crowd in zip(splits["train"]["annotations"], (1, 0, 1, 0), strict=True):
        annotation.update(iscrowd=crowd, image_id=100, bbox=[annotation["id"] - 500, 0, 10, 10])
    batch = _dataset(coco_source(write_coco(tmp_path, splits)).train)[[(0, 0)]]
    (seen,) = batch.examples.items
    assert batch.labels[0].tolist() == [0, 0], "those of annotations 501 and 503"
    torch.testing.assert_close(seen.placement.to_image(batch.corners[0])[:, 0], torch.tensor([1.0, 3.0]))
    assert seen.boxes.crowd.tolist() == [True, False, True, False]


def test_damaged_image_is_named(tmp_path: Path) -> None:
    data = _dataset(coco_source(write_coco(tmp_path)).train)
    file = tmp_path / "images" / "train2.jpg"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"images/train2\.jpg cannot be decoded"):
        data[[(0, 2)]]
