"""Detection data: from a source to batches that are equal bit for bit in every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor

from qat.data.detection.augment import BoxAugment
from qat.data.detection.batch import DetectionDataset
from qat.data.detection.source import BoxSource, BoxTable
from qat.data.module import DataModule
from qat.data.options import Batching, Selection, check_at_least
from qat.data.parts import Part, choose, drop_corrupt, fingerprint
from qat.data.sampler import consecutive
from qat.data.split import stratified
from qat.deploy.preprocess import ImagePreprocess
from qat.errors import DataError


@final
class DetectionData(DataModule):
    """`DetectionBatch`es of a source; see `DataModule` for what it shares with others.

    Args:
        source: the images and their boxes.
        preprocessing: of the float model or of an artifact.
        batching: how batches are made.
        selection: which images are used; unreadable ones leave with their boxes.
        augment: "none", "flip", "ssd" or "ssd_any_side_up".
        verify: decode every image once, now, and compare its size with the one that its boxes were drawn for.

    Raises:
        ConfigError: an unknown augmentation, or too few images for a batch.
        DataError: more undecodable images than the budget allows, or an image of another size than annotated.
    """

    def __init__(
        self,
        source: BoxSource,
        *,
        preprocessing: ImagePreprocess,
        batching: Batching = Batching(),
        selection: Selection = Selection(),
        augment: str = "none",
        verify: bool = True,
    ) -> None:
        super().__init__(source, batching, split_seed=selection.split_seed)
        plain = BoxAugment("none")
        parts = choose(source, selection)
        corrupt: tuple[str, ...] = ()
        if verify:
            parts, corrupt = drop_corrupt(parts, selection.corrupt_budget)
            for part in parts.values():
                _check_sizes(part)
        self.notes = (*source.notes, *(f"left out {name}" for name in corrupt))
        self.fingerprint = fingerprint(source.labels, parts)
        self._calibration = DetectionDataset(parts["train"], preprocessing, plain)
        self.hold_(
            DetectionDataset(parts["train"], preprocessing, BoxAugment(augment), self.seed),
            DetectionDataset(parts["val"], preprocessing, plain),
            DetectionDataset(parts["test"], preprocessing, plain),
        )

    @property
    def test_images(self) -> DetectionDataset:
        """The test images, for whoever wants to look at some."""
        assert isinstance(self._test, DetectionDataset)
        return self._test

    def calibration_batches(self, count: int) -> list[tuple[Tensor, ...]]:
        """A fixed random choice of training images as evaluation sees them."""
        check_at_least(1, calibration_batches=count)
        targets = self._calibration.table.targets[self._calibration.indices]
        chosen = stratified(targets, count * self.batch_size, seed=self.split_seed)
        return [self._calibration[keys].inputs for keys in consecutive(chosen.tolist(), self.batch_size)]

    def test_names(self) -> list[str]:
        return [self.test_images.table.name(index) for index in self.test_images.indices]

    def test_truths(self) -> list[str]:
        """How many boxes of each class; a crowd is none."""
        boxes = map(self.test_images.table.boxes, self.test_images.indices)
        return [counted(each.labels[~each.crowd].tolist(), self.labels) for each in boxes]


def counted(labels: Sequence[int], names: Sequence[str]) -> str:
    """How many boxes of each class, in words."""
    return ", ".join(f"{labels.count(i)} {name}" for i, name in enumerate(names) if i in labels) or "nothing"


def _check_sizes(part: Part[BoxTable]) -> None:
    """Refuse an image whose boxes were drawn for another size; only headers are read."""
    for index in part.indices.tolist():
        found, stated = part.table.open(index).size, part.table.size(index)
        if found != stated:
            raise DataError(
                f"{part.table.name(index)} is {found[0]}x{found[1]} pixels, its annotations are for {stated[0]}x{stated[1]}: "
                "the boxes would stand elsewhere. Correct the annotations or the file."
            )
