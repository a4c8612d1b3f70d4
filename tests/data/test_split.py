from __future__ import annotations

import numpy as np
import pytest

from qat.data.split import hold_out, stratified

TARGETS = np.repeat(np.arange(4), [400, 200, 100, 100]).astype(np.int64)


@pytest.mark.parametrize("count", [8, 80, 333, 800])
def test_stratified_keeps_the_share_of_every_class(count: int) -> None:
    chosen = stratified(TARGETS, count, seed=3)
    assert len(set(chosen.tolist())) == count
    expected = np.bincount(TARGETS) * count / len(TARGETS)
    assert np.abs(np.bincount(TARGETS[chosen], minlength=4) - expected).max() <= 1


def test_stratified_smaller_choice_is_part_of_a_larger_one() -> None:
    assert np.array_equal(stratified(TARGETS, 500, seed=1)[:50], stratified(TARGETS, 50, seed=1))


def test_stratified_depends_on_the_seed_alone() -> None:
    assert np.array_equal(stratified(TARGETS, 50, seed=1), stratified(TARGETS, 50, seed=1))
    assert not np.array_equal(stratified(TARGETS, 50, seed=1), stratified(TARGETS, 50, seed=2))


def test_hold_out_covers_every_sample_once() -> None:
    kept, held = hold_out(TARGETS, 0.2, seed=0)
    assert len(held) == 160
    assert sorted([*kept, *held]) == list(range(800))


def test_hold_out_takes_at_least_one() -> None:
    kept, held = hold_out(np.zeros(3, dtype=np.int64), 0.01, seed=0)
    assert (len(kept), len(held)) == (2, 1)
