"""Image classification data: from a source to batches that are equal bit for bit in every run.

A training batch depends on (seed, epoch, position) alone: not on the number of workers, nor on where a run was
interrupted. Images that cannot be decoded are found by one scan at construction and leave together with their target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor

from qat.data.images.augment import train_transform
from qat.data.images.dataset import ImageDataset
from qat.data.module import DataModule
from qat.data.options import Batching, Selection, check_at_least
from qat.data.parts import choose, drop_corrupt, fingerprint
from qat.data.sampler import consecutive
from qat.data.source import ImageSource
from qat.data.split import stratified
from qat.deploy.preprocess import ImagePreprocess


@final
class ImageData(DataModule):
    """Batches of (images, targets) of a source; see `DataModule` for what it shares with others.

    Attributes: `num_classes`, `corrupt` (name and reason of every image left out).

    Args:
        source: the images.
        preprocessing: of the float model or of an artifact.
        batching: how batches are made.
        selection: which images are used.
        augment: "none", "flip", "flip_crop", "shift" or "timm".
        augment_options: for "timm", see `train_transform`.
        verify: decode every image once, now. Without it an undecodable image ends the run when its turn comes.

    Raises:
        ConfigError: an unknown augmentation, or too few images for a batch.
        DataError: more undecodable images than the budget allows, or images with NaN.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        preprocessing: ImagePreprocess,
        batching: Batching = Batching(),
        selection: Selection = Selection(),
        augment: str = "none",
        augment_options: Mapping[str, object] | None = None,
        verify: bool = True,
    ) -> None:
        super().__init__(source, batching, split_seed=selection.split_seed)
        transform = train_transform(augment, preprocessing, augment_options)
        plain = train_transform("none", preprocessing)
        parts = choose(source, selection)
        self.corrupt: tuple[str, ...] = ()
        if verify:
            parts, self.corrupt = drop_corrupt(parts, selection.corrupt_budget)
        self.notes = tuple(f"left out {name}" for name in self.corrupt)
        self.num_classes = len(source.labels)
        self.fingerprint = fingerprint(source.labels, parts)
        self._calibration = ImageDataset(parts["train"], preprocessing, plain)
        self.hold_(
            ImageDataset(parts["train"], preprocessing, transform, self.seed),
            ImageDataset(parts["val"], preprocessing, plain),
            ImageDataset(parts["test"], preprocessing, plain),
        )

    def calibration_batches(self, count: int) -> list[tuple[Tensor, ...]]:
        """Training images as evaluation sees them.

        Args:
            count: number of batches of `batch_size`; fewer when the training images do not suffice.

        Returns:
            Model inputs of a fixed stratified choice, each (images,) of shape (N, channels, height, width), float32.
        """
        check_at_least(1, calibration_batches=count)
        chosen = stratified(self._calibration.targets.numpy(), count * self.batch_size, seed=self.split_seed)
        return [self._calibration[keys][:1] for keys in consecutive(chosen.tolist(), self.batch_size)]

    @property
    def test_images(self) -> ImageDataset:
        """The test images, for whoever wants to look at some."""
        assert isinstance(self._test, ImageDataset)
        return self._test

    def test_targets(self) -> list[int]:
        """Classes of the test images, in order."""
        targets: list[int] = self.test_images.targets.tolist()
        return targets

    def test_names(self) -> list[str]:
        return [self.test_images.table.name(index) for index in self.test_images.indices]

    def test_truths(self) -> list[str]:
        return [self.labels[target] for target in self.test_targets()]
