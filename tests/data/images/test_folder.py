from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qat.data.images.folder import folder_source
from qat.errors import DataError
from tests.data.samples import image_data, levels, make_image, make_preprocess, write_folder


def test_folder_of_splits(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("val", 4), ("test", 5)):
        write_folder(tmp_path / split, per_class=count)
    data = image_data(folder_source(tmp_path), preprocessing=make_preprocess(), batch_size=4)
    assert (data.n_train, data.n_val, data.n_test) == (30, 12, 15)
    assert data.labels == ("class0", "class1", "class2")
    for images, targets in data.test_dataloader():
        assert levels(images) == [60 * target for target in targets.tolist()]


def test_folder_of_classes_is_split_without_overlap(tmp_path: Path) -> None:
    source = folder_source(write_folder(tmp_path / "data"), test_fraction=0.3)
    train = {source.train.name(index) for index in range(len(source.train.targets))}
    test = {source.test.name(index) for index in range(len(source.test.targets))}
    assert (len(train), len(test), len(train & test)) == (21, 9, 0)


def test_folder_can_test_on_the_validation_images(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_folder(tmp_path / split)
    source = folder_source(tmp_path, test_split="val")
    assert source.val is None
    assert len(source.test.targets) == 30
    with pytest.raises(DataError, match=r"no folder 'test' beside 'train'. Found: train, val"):
        folder_source(tmp_path)


def test_folder_without_images_names_the_extensions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path} has no class folders.*Accepted: .jpg, .jpeg, .png"):
        folder_source(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        folder_source(tmp_path / "nowhere")
    root = write_folder(tmp_path / "data")
    shutil.rmtree(root / "class1")
    (root / "class1").mkdir()
    (root / "class1" / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"class folder .*class1 has no images. Accepted: .jpg"):
        folder_source(root)


def test_folder_splits_must_have_the_same_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", classes=2)
    (tmp_path / "test" / "other").mkdir()
    make_image().save(tmp_path / "test" / "other" / "0.png")
    with pytest.raises(DataError, match=r"'test' has other classes.*Only in 'test': other; missing in it: class2"):
        folder_source(tmp_path)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_folder(tmp_path / split, classes=1)
    with pytest.raises(DataError, match=r"tells classes apart, and there is \w+ alone"):
        folder_source(tmp_path)
