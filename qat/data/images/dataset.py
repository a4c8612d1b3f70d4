"""A torch data set that makes whole batches of images."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from qat.data.images.augment import Transform
from qat.data.images.decode import decode
from qat.data.parts import Part
from qat.data.sampler import Key
from qat.data.source import ImageTable
from qat.deploy.preprocess import ImagePreprocess

ImageBatch = tuple[Tensor, Tensor]


class ImageDataset(Dataset[ImageBatch]):
    """`dataset[keys]` is a batch: images (N, channels, height, width) float32 normalised, targets (N,) int64.

    Args:
        part: the images.
        preprocess: the model's.
        transform: makes the model's size of an image; seeded by (seed, epoch, index of the image in its table), so
            that an image which is left out changes nothing for the others.
        seed: of the augmentation.
    """

    def __init__(self, part: Part[ImageTable], preprocess: ImagePreprocess, transform: Transform, seed: int = 0) -> None:
        self.table = part.table
        self.indices = part.indices.tolist()
        self.targets = torch.from_numpy(part.targets)
        self.preprocess = preprocess
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, position: int) -> Image.Image:
        """The stored image, 8 bits per channel; `DataError` when it is damaged."""
        return decode(self.table, self.indices[position], self.preprocess.channels)

    def __getitem__(self, keys: Sequence[Key]) -> ImageBatch:
        shape = self.preprocess.height, self.preprocess.width, self.preprocess.channels
        pixels = np.empty((len(keys), *shape), dtype=np.uint8)
        for row, (epoch, position) in enumerate(keys):
            rng = random.Random(f"{self.seed}/{epoch}/{self.indices[position]}")
            pixels[row] = np.asarray(self.transform(self.image(position), rng)).reshape(shape)
        return self.preprocess.normalise(pixels), self.targets[[position for _, position in keys]]
