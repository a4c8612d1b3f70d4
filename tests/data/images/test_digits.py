from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from qat.data.images.digits import digits_source
from tests.data.samples import all_targets, image_data, make_preprocess


def test_digits_source_holds_every_digit_once() -> None:
    source = digits_source()
    assert source.labels == tuple("0123456789")
    assert len(source.test.targets) == round(0.2 * 1797)
    stored = [table.open(index).tobytes() for table in (source.train, source.test) for index in range(len(table.targets))]
    original = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(stored) == sorted(image.tobytes() for image in original)


def test_digits_targets_follow_their_images() -> None:
    digits = load_digits()
    known = {
        np.round(image * (255 / 16)).astype(np.uint8).tobytes(): target
        for image, target in zip(digits.images, digits.target, strict=True)
    }
    table = digits_source().test
    assert [known[table.open(index).tobytes()] for index in range(len(table.targets))] == table.targets.tolist()


def test_digits_splits_are_stratified() -> None:
    data = image_data(digits_source(), preprocessing=make_preprocess())
    assert (data.n_train, data.n_val, data.n_test, data.num_classes) == (1294, 144, 359, 10)
    assert {all_targets(data).count(target) for target in range(10)} <= set(range(34, 38))
