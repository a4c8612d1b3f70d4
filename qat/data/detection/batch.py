"""Batches of images of one size with their boxes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from qat.data.batch import Examples
from qat.data.detection.augment import BoxAugment
from qat.data.detection.source import Boxes, BoxTable
from qat.data.images.decode import decode
from qat.data.parts import Part
from qat.data.sampler import Key
from qat.deploy.preprocess import ImagePreprocess, Placement


class Seen(NamedTuple):
    """One image of a batch as the annotations have it.

    Args:
        width, height: of the stored image, pixels.
        placement: where it stands in the input; of a training image, where its augmented view does.
        boxes: in pixels of the stored image.
    """

    width: int
    height: int
    placement: Placement
    boxes: Boxes


class DetectionBatch(NamedTuple):
    """Images with boxes.

    Args:
        inputs: (images,) of shape (N, channels, height, width), float32 normalised.
        corners: per image (M, 4), x1, y1, x2, y2 in pixels of the input; without those of crowds.
        labels: per image (M,), int64.
        examples: one `Seen` per image.
    """

    inputs: tuple[Tensor]
    corners: list[Tensor]
    labels: list[Tensor]
    examples: Examples[Seen]


class DetectionDataset(Dataset[DetectionBatch]):
    """`dataset[keys]` is a batch.

    Args:
        part: the images.
        preprocess: the model's.
        augment: of images with their boxes; seeded by (seed, epoch, index of the image in its table).
        seed: of the augmentation.
    """

    def __init__(self, part: Part[BoxTable], preprocess: ImagePreprocess, augment: BoxAugment, seed: int = 0) -> None:
        self.table = part.table
        self.indices = part.indices.tolist()
        self.preprocess = preprocess
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, position: int) -> Image.Image:
        """The stored image, 8 bits per channel; `DataError` when it is damaged."""
        return decode(self.table, self.indices[position], self.preprocess.channels)

    def __getitem__(self, keys: Sequence[Key]) -> DetectionBatch:
        shape = self.preprocess.height, self.preprocess.width, self.preprocess.channels
        pixels = np.empty((len(keys), *shape), dtype=np.uint8)
        corners, labels, seen = [], [], []
        for row, (epoch, position) in enumerate(keys):
            image, boxes = self.image(position), self.table.boxes(self.indices[position])
            width, height = image.size
            rng = random.Random(f"{self.seed}/{epoch}/{self.indices[position]}")
            view, view_corners, view_labels = self.augment(image, boxes.corners[~boxes.crowd], boxes.labels[~boxes.crowd], rng)
            placement = self.preprocess.placement(*view.size)
            pixels[row] = np.asarray(self.preprocess.fit(view)).reshape(shape)
            corners.append(placement.to_input(view_corners))
            labels.append(view_labels)
            seen.append(Seen(width=width, height=height, placement=placement, boxes=boxes))
        return DetectionBatch(
            inputs=(self.preprocess.normalise(pixels),), corners=corners, labels=labels, examples=Examples(seen)
        )
