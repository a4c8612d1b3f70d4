"""Seeded, stratified choice of samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def stratified(targets: npt.NDArray[np.int64], count: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Choose `count` samples so that every class keeps its share, whatever `count` is.

    Within a class of n samples in random order, the k-th gets the rank (k + u) / n, with u in [0, 1) drawn once per
    class; the samples of least rank are chosen. So a smaller choice is a part of every larger one.

    Args:
        targets: class of every sample, shape (N,).
        count: how many to choose; N or more choose all.
        seed: the same seed chooses the same samples.

    Returns:
        Indices, shape (min(count, N),), classes mixed.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets))
    ranks = np.empty(len(targets), dtype=np.float64)
    for target in np.unique(targets):
        members = order[targets[order] == target]
        ranks[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(ranks, kind="stable")[:count].astype(np.int64)


def hold_out(
    targets: npt.NDArray[np.int64], fraction: float, *, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split all samples into (kept, held out), each in ascending order, by a stratified choice.

    Args:
        targets: class of every sample, shape (N,).
        fraction: share to hold out, in (0, 1); at least one sample is held out.
        seed: the same seed holds out the same samples.
    """
    held = stratified(targets, max(1, round(len(targets) * fraction)), seed=seed)
    return np.setdiff1d(np.arange(len(targets), dtype=np.int64), held), np.sort(held)
