"""Image classification data: from a source to batches that are equal bit for bit in every run.

A training batch depends on (seed, epoch, position) alone: not on the number of workers, nor on where a run was
interrupted. Images that cannot be decoded are found by one scan at construction and leave together with their target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from pytorch_lightning import LightningDataModule
from torch import Tensor, distributed

from qat.data.augment import train_transform
from qat.data.dataset import ImageBatch, ImageDataset
from qat.data.loader import BatchLoader, position_in_epoch
from qat.data.options import check_at_least, check_fraction
from qat.data.parts import choose, drop_corrupt, fingerprint
from qat.data.preprocess import ImagePreprocess
from qat.data.sampler import EpochSampler, consecutive
from qat.data.source import ImageSource
from qat.data.split import stratified
from qat.errors import ConfigError


@final
class ImageData(LightningDataModule):
    """Training, validation, test and calibration batches of a source.

    Attributes: `name`, `labels`, `num_classes`, `n_train`, `n_val`, `n_test`, `fingerprint` (short hash of the images
    used and what for), `corrupt` (name and reason of every image left out), `notes` (the same in words).

    Args:
        source: the images.
        preprocessing: the record of the float model, see `FloatModel`.
        batch_size: training images per batch and process; the incomplete last batch of an epoch is dropped.
        eval_batch_size: None takes `batch_size`; nothing is dropped.
        workers: processes that make batches; 0 makes them in this one.
        seed: of order and augmentation.
        split_seed: of what is held out and of what a limit chooses; kept apart from `seed`, so that runs with
            several seeds are judged on the same images.
        augment: "none", "flip", "flip_crop", "shift" or "timm".
        augment_options: for "timm", see `train_transform`.
        val_fraction: share of the training images held out when the source has no validation split.
        limit_train, limit_val, limit_test: use only so many, chosen stratified; None uses all.
        corrupt_budget: share of the images that may be undecodable.
        verify: decode every image once, now. Without it an undecodable image ends the run when its turn comes.

    Raises:
        ConfigError: an option out of range.
        DataError: more undecodable images than the budget allows, or images with NaN.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        preprocessing: Mapping[str, Any],
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        augment: str = "none",
        augment_options: Mapping[str, Any] | None = None,
        val_fraction: float = 0.1,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
        corrupt_budget: float = 0.01,
        verify: bool = True,
    ) -> None:
        super().__init__()
        limits = {"train": limit_train, "val": limit_val, "test": limit_test}
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(1, **{f"limit_{name}": limit for name, limit in limits.items()})
        check_at_least(0, workers=workers, seed=seed, split_seed=split_seed)
        check_fraction("val_fraction", val_fraction)
        if not 0 <= corrupt_budget <= 1:
            raise ConfigError(f"data.corrupt_budget is a fraction in [0, 1], got {corrupt_budget}")
        preprocess = ImagePreprocess.from_record(preprocessing)
        transform = train_transform(augment, preprocess, augment_options)
        plain = train_transform("none", preprocess)
        parts = choose(source, val_fraction=val_fraction, limits=limits, seed=split_seed)
        self.corrupt: tuple[str, ...] = ()
        if verify:
            parts, self.corrupt = drop_corrupt(parts, corrupt_budget)
        self.notes = tuple(f"left out {name}" for name in self.corrupt)
        self.name = source.name
        self.labels = source.labels
        self.num_classes = len(source.labels)
        self.fingerprint = fingerprint(source.labels, parts)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.workers = workers
        self.seed = seed
        self.split_seed = split_seed
        self._train = ImageDataset(parts["train"], preprocess, transform, seed)
        self._calibration = ImageDataset(parts["train"], preprocess, plain)
        self._val = ImageDataset(parts["val"], preprocess, plain)
        self._test = ImageDataset(parts["test"], preprocess, plain)
        self.n_train, self.n_val, self.n_test = len(self._train), len(self._val), len(self._test)
        if self.n_train < batch_size:
            raise ConfigError(f"data.batch_size={batch_size}, but {self.name} has {self.n_train} training images to use")

    def train_dataloader(self) -> BatchLoader[ImageBatch]:
        """Augmented batches. A trainer sets the place by itself; elsewhere `sampler.set_epoch` and `.skip_batches` do."""
        rank, world_size = 0, 1
        if distributed.is_available() and distributed.is_initialized():
            rank, world_size = distributed.get_rank(), distributed.get_world_size()
        sampler = EpochSampler(self.n_train, batch_size=self.batch_size, seed=self.seed, rank=rank, world_size=world_size)
        return BatchLoader(self._train, sampler, workers=self.workers, position=lambda: position_in_epoch(self.trainer))

    def val_dataloader(self) -> BatchLoader[ImageBatch]:
        """All validation images in order, the same in every process."""
        return self._eval_loader(self._val)

    def test_dataloader(self) -> BatchLoader[ImageBatch]:
        """All test images in order, the same in every process."""
        return self._eval_loader(self._test)

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

    def _eval_loader(self, dataset: ImageDataset) -> BatchLoader[ImageBatch]:
        batches = consecutive(list(range(len(dataset))), self.eval_batch_size)
        return BatchLoader(dataset, batches, workers=self.workers)
