"""Small inputs for the data tests."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from qat.data.images.module import ImageData
from qat.data.loader import BatchLoader
from qat.data.options import grouped
from qat.data.source import ImageSource
from qat.deploy.preprocess import ImagePreprocess


def make_preprocess(size: int = 8, *, channels: int = 3, **changes: Any) -> ImagePreprocess:
    """What `make_record` says."""
    return ImagePreprocess.from_record(make_record(size, channels=channels, **changes))


def make_record(size: int = 8, *, channels: int = 3, **changes: Any) -> dict[str, Any]:
    """A preprocessing record that takes square images as they are and scales them to [-1, 1]."""
    return {
        "kind": "image",
        "channels": channels,
        "height": size,
        "width": size,
        "resize": {"height": size, "width": size},
        "crop_mode": "center",
        "interpolation": "bicubic",
        "value_range": [0, 1],
        "mean": [0.5] * channels,
        "std": [0.5] * channels,
        **changes,
    }


def make_image(width: int = 8, height: int = 8, *, level: int | None = None, seed: int = 0) -> Image.Image:
    """An RGB image: noise, or one grey level."""
    if level is not None:
        return Image.new("RGB", (width, height), (level, level, level))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    """The image as the bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_folder(root: Path, classes: int = 3, per_class: int = 10) -> Path:
    """`root/class{c}/{i}.png`; every image of class c has the grey level 60 * c."""
    for target in range(classes):
        (root / f"class{target}").mkdir(parents=True)
        for index in range(per_class):
            make_image(level=60 * target).save(root / f"class{target}" / f"{index}.png")
    return root


def levels(images: Tensor) -> list[int]:
    """The grey level of every image that `make_record` normalised."""
    return [round(level) for level in ((images.mean(dim=(1, 2, 3)) * 0.5 + 0.5) * 255).tolist()]


def batches_of(loader: BatchLoader[tuple[Tensor, Tensor]], epoch: int = 0, skip: int = 0) -> list[tuple[Tensor, Tensor]]:
    """The batches of one training epoch."""
    loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    loader.sampler.skip_batches = skip  # type: ignore[union-attr]
    return list(loader)


def image_data(source: ImageSource, *, preprocessing: ImagePreprocess, **options: Any) -> ImageData:
    """The module of these images, with flat options as of a configuration."""
    batching, selection, others = grouped(options)
    return ImageData(source, preprocessing=preprocessing, batching=batching, selection=selection, **others)


def all_targets(data: ImageData) -> list[int]:
    """The targets of all test images, in order."""
    return [target for _, targets in data.test_dataloader() for target in targets.tolist()]
