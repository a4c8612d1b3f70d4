from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qat.data.images.digits import digits_source
from qat.data.images.folder import folder_source
from qat.data.images.module import ImageData
from qat.errors import ConfigError, DataError
from tests.data.samples import all_targets, batches_of, image_data, levels, make_preprocess, write_folder


def _digits(**options: Any) -> ImageData:
    options = {"augment": "shift", "batch_size": 16, "limit_train": 100, "limit_test": 50, **options}
    return image_data(digits_source(), preprocessing=make_preprocess(12), **options)


def _equal(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(images, others) and torch.equal(targets, other_targets)
        for (images, targets), (others, other_targets) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("augment", ["shift", "timm"])
def test_train_batches_do_not_depend_on_workers(augment: str) -> None:
    alone, pair = _digits(augment=augment).train_dataloader(), _digits(augment=augment, num_workers=2).train_dataloader()
    for epoch in (0, 1):
        assert _equal(batches_of(alone, epoch), batches_of(pair, epoch))


@pytest.mark.parametrize("workers", [0, 2])
def test_train_batches_after_a_skip_equal_the_uninterrupted_ones(workers: int) -> None:
    whole = batches_of(_digits().train_dataloader(), epoch=3)
    assert _equal(batches_of(_digits(num_workers=workers).train_dataloader(), epoch=3, skip=2), whole[2:])


def test_train_batches_differ_between_epochs_and_seeds_in_order_and_augmentation() -> None:
    loader, other = _digits().train_dataloader(), _digits(seed=1).train_dataloader()
    first, second = batches_of(loader, 0), batches_of(loader, 1)
    assert not _equal(first, second)
    assert not _equal(first, batches_of(other, 0))
    assert len({image.numpy().tobytes() for images, _ in [*first, *second] for image in images}) == 2 * 6 * 16


def test_batches_have_the_promised_form() -> None:
    data = _digits()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, targets = next(iter(loader))
        assert images.shape == (16, 3, 12, 12)
        assert (images.dtype, targets.dtype, targets.shape) == (torch.float32, torch.int64, (16,))
        assert images.min() >= -1
        assert images.max() <= 1


def test_evaluation_drops_nothing_and_repeats() -> None:
    data = _digits(eval_batch_size=20)
    first, second = list(data.test_dataloader()), list(data.test_dataloader())
    assert [len(targets) for _, targets in first] == [20, 20, 10]
    assert data.n_test == 50
    assert _equal(first, second)


def test_calibration_batches_are_a_fixed_sample_as_evaluation_sees_it() -> None:
    data, plain = _digits(), _digits(augment="none", seed=5)
    batches = data.calibration_batches(3)
    assert [[x.shape for x in batch] for batch in batches] == [[(16, 3, 12, 12)]] * 3
    assert all(torch.equal(a, b) for (a,), (b,) in zip(batches, plain.calibration_batches(3), strict=True))
    train = {image.numpy().tobytes() for images, _ in batches_of(plain.train_dataloader()) for image in images}
    assert sum(image.numpy().tobytes() in train for (batch,) in batches for image in batch) >= 40
    assert sum(len(images) for (images,) in data.calibration_batches(1000)) == data.n_train


def test_held_out_images_are_the_same_for_every_seed_and_never_trained_on() -> None:
    data, other = _digits(augment="none", limit_train=None), _digits(augment="none", limit_train=None, seed=9)
    val = list(data.val_dataloader())
    assert _equal(val, list(other.val_dataloader()))
    train = {image.numpy().tobytes() for images, _ in batches_of(data.train_dataloader()) for image in images}
    assert not any(image.numpy().tobytes() in train for images, _ in val for image in images)


def test_fingerprint_tells_the_images_used_apart() -> None:
    assert _digits().fingerprint == _digits(seed=3, batch_size=8, augment="none").fingerprint
    assert len({_digits().fingerprint, _digits(limit_test=49).fingerprint, _digits(split_seed=1).fingerprint}) == 3


def test_corrupt_image_leaves_with_its_target(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path / "data", per_class=20)
    whole = image_data(folder_source(root), preprocessing=make_preprocess(), batch_size=4)
    for name in ("class0/3.png", "class1/7.png", "class2/11.png"):
        (root / name).write_bytes((root / name).read_bytes()[:40])
    data = image_data(
        folder_source(root), preprocessing=make_preprocess(), batch_size=4, corrupt_budget=0.05, augment="none", num_workers=0
    )
    assert sorted(entry.partition(":")[0] for entry in data.corrupt) == ["class0/3.png", "class1/7.png", "class2/11.png"]
    assert "3 of 60 images cannot be decoded" in caplog.text
    assert data.n_train + data.n_val + data.n_test == whole.n_train + whole.n_val + whole.n_test - 3
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for images, targets in loader:
            assert levels(images) == [60 * target for target in targets.tolist()]
    assert data.fingerprint != whole.fingerprint


def test_corrupt_images_beyond_the_budget_stop(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    (root / "class0" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 30 images .*corrupt_budget=0.01 allows \(0\):\n  class0/0.png"):
        image_data(folder_source(root), preprocessing=make_preprocess(), batch_size=4)


def test_corrupt_image_is_named_when_nothing_was_verified(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    for file in root.glob("class0/*.png"):
        file.write_bytes(b"")
    data = image_data(folder_source(root), preprocessing=make_preprocess(), batch_size=4, verify=False)
    with pytest.raises(DataError, match=r"class0/\d\.png cannot be decoded"):
        list(data.train_dataloader())


def test_grey_model_gets_grey_images() -> None:
    data = image_data(
        digits_source(), preprocessing=make_preprocess(8, channels=1), batch_size=16, limit_train=32, limit_test=16
    )
    assert next(iter(data.test_dataloader()))[0].shape == (16, 1, 8, 8)


def test_limit_is_stratified() -> None:
    data = _digits(limit_test=50)
    assert {all_targets(data).count(target) for target in range(10)} <= {4, 5, 6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size must be at least 1"),
        ({"limit_test": 0}, "data.limit_test must be at least 1"),
        ({"num_workers": -1}, "data.num_workers must be at least 0"),
        ({"val_fraction": 1.0}, "data.val_fraction must lie between 0 and 1"),
        ({"corrupt_budget": 5}, "data.corrupt_budget is a fraction"),
        ({"batch_size": 101}, "data.batch_size=101, but digits has 100 training samples"),
        ({"augment": "shft"}, "Did you mean 'shift'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _digits(**options)
