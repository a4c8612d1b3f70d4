"""Which samples of a source are used for what."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from qat.data.budget import check_budget
from qat.data.images.decode import find_corrupt
from qat.data.options import Selection
from qat.data.source import ImageTable, Source, Table
from qat.data.split import hold_out, stratified
from qat.errors import DataError

AnyTable = TypeVar("AnyTable", bound=Table)
AnyImages = TypeVar("AnyImages", bound=ImageTable)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part(Generic[AnyTable]):
    """Some samples of a table.

    Args:
        table: the samples.
        indices: which of them, ascending, shape (N,).
    """

    table: AnyTable
    indices: npt.NDArray[np.int64]

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """Class of each of them, shape (N,)."""
        return self.table.targets[self.indices]

    def limited(self, count: int | None, *, seed: int) -> Part[AnyTable]:
        """A stratified choice of at most `count` of them; None keeps all."""
        if count is None:
            return self
        return Part(table=self.table, indices=np.sort(self.indices[stratified(self.targets, count, seed=seed)]))


def choose(source: Source[AnyTable], selection: Selection) -> dict[str, Part[AnyTable]]:
    """The parts "train", "val" and "test" of a source.

    Where it has no validation split, some of the training samples are held out, before any limit.
    """
    seed = selection.split_seed
    train, test = _whole(source.train), _whole(source.test)
    if source.val is not None:
        val = _whole(source.val)
    else:
        kept, held = hold_out(source.train.targets, selection.val_fraction, seed=seed)
        train, val = Part(table=source.train, indices=kept), Part(table=source.train, indices=held)
    parts = {"train": train, "val": val, "test": test}
    return {name: part.limited(selection.limits[name], seed=seed) for name, part in parts.items()}


def drop_corrupt(parts: Mapping[str, Part[AnyImages]], budget: float) -> tuple[dict[str, Part[AnyImages]], tuple[str, ...]]:
    """Leave out the images that cannot be decoded, each with its target.

    Returns:
        The parts that remain, and the name and reason of every image left out.

    Raises:
        DataError: more than `budget`, a fraction of all, or a part of which nothing remains.
    """
    kept: dict[str, Part[AnyImages]] = {}
    corrupt: list[str] = []
    for name, part in parts.items():
        found = find_corrupt(part.table, part.indices)
        corrupt += found.values()
        kept[name] = Part(table=part.table, indices=np.setdiff1d(part.indices, list(found)).astype(np.int64))
    check_budget(corrupt, sum(len(part.indices) for part in parts.values()), budget)
    for name, part in kept.items():
        if len(part.indices) == 0:
            raise DataError(f"no image of the split {name!r} can be decoded")
    return kept, tuple(corrupt)


def fingerprint(labels: tuple[str, ...], parts: Mapping[str, Part[AnyTable]]) -> str:
    """16 hex digits over the labels and the identity, target and part of every sample that is used."""
    digest = hashlib.sha256("\n".join(labels).encode())
    for name, part in parts.items():
        digest.update(f"\n{name}".encode())
        for index, target in zip(part.indices.tolist(), part.targets.tolist(), strict=True):
            digest.update(f"\n{part.table.identity(index)}\t{target}".encode())
    return digest.hexdigest()[:16]


def _whole(table: AnyTable) -> Part[AnyTable]:
    return Part(table=table, indices=np.arange(len(table.targets), dtype=np.int64))
