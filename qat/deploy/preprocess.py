"""How an evaluation input is made; a float model carries it as a type, an artifact as its record.

Needs Pillow and torch only, so that whoever loads an artifact can redo it without timm. For images equal to timm's
evaluation transform, bit for bit; a test holds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from qat.errors import ConfigError, DataError, NotANumberError

INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}
CROP_MODES = ("center", "squash", "border")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an image stands in the model's input: x_input = x_image * scale_x + left, and y alike; pixels."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_input(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) as x1, y1, x2, y2 on the image -> on the input."""
        return boxes * self._scale() + self._shift()

    def to_image(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) on the input -> on the image; those in the border lie outside of it."""
        return (boxes - self._shift()) / self._scale()

    def _scale(self) -> Tensor:
        return torch.tensor([self.scale_x, self.scale_y] * 2)

    def _shift(self) -> Tensor:
        return torch.tensor([self.left, self.top] * 2)


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """Resize, crop, scale to [0, 1], subtract the mean, divide by the standard deviation.

    Args:
        channels: 1 or 3.
        height, width: of the result, pixels.
        resize: height and width that the image is resized to before the crop, see `crop_mode`.
        crop_mode: "center" keeps the aspect ratio and covers `resize`, "border" keeps it and fits inside (the rest is
            filled with the mean), "squash" resizes to exactly that; then the centre is cropped.
        interpolation: Pillow's name, lower case.
        mean, std: per channel, in units of the [0, 1] pixel range.
    """

    channels: int
    height: int
    width: int
    resize: tuple[int, int]
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ConfigError(f"images have 1 or 3 channels, the model wants {self.channels}")
        if self.crop_mode not in CROP_MODES or self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"unknown crop_mode {self.crop_mode!r} or interpolation {self.interpolation!r}. "
                f"Allowed: {', '.join(CROP_MODES)}; {', '.join(INTERPOLATIONS)}."
            )
        if min(self.height, self.width, *self.resize) < 1:
            raise ConfigError(f"image sizes must be positive, got {self.height}x{self.width} from {self.resize}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ConfigError(f"mean {self.mean} and std {self.std} must have {self.channels} values each")
        if not all(math.isfinite(mean) for mean in self.mean) or not all(0 < std < math.inf for std in self.std):
            raise ConfigError(f"mean must be finite and std positive, got {self.mean} and {self.std}")

    def to_record(self) -> dict[str, Any]:
        """Plain JSON data; `value_range` is that of the pixels before the mean is subtracted."""
        return {
            "kind": "image",
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "resize": {"height": self.resize[0], "width": self.resize[1]},
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "value_range": [0, 1],
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ImagePreprocess:
        """Read what `to_record` wrote.

        Raises:
            ConfigError: a record of another kind, or one that lacks an entry.
        """
        if record.get("kind") != "image" or list(record.get("value_range", ())) != [0, 1]:
            raise ConfigError(f"not a preprocessing record of kind 'image' with value_range [0, 1]: {dict(record)}")
        try:
            return cls(
                channels=record["channels"],
                height=record["height"],
                width=record["width"],
                resize=(record["resize"]["height"], record["resize"]["width"]),
                crop_mode=record["crop_mode"],
                interpolation=record["interpolation"],
                mean=tuple(record["mean"]),
                std=tuple(record["std"]),
            )
        except KeyError as error:
            raise ConfigError(f"the preprocessing record lacks {error}") from error

    def __call__(self, image: Image.Image) -> Tensor:
        """One image of any mode → what the model takes, shape (1, channels, height, width), float32."""
        fitted = self.fit(to_8_bit(image, self.channels))
        return self.normalise(np.asarray(fitted).reshape(1, self.height, self.width, self.channels))

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize and crop an image of mode "L" or "RGB" to `height` x `width`."""
        size = self._resized(image.width, image.height)
        if size != image.size:
            image = image.resize(size, INTERPOLATIONS[self.interpolation])
        fill = tuple(round(255 * mean) for mean in self.mean) if self.crop_mode == "border" else (0,) * self.channels
        return _center(image, self.width, self.height, fill)

    def placement(self, width: int, height: int) -> Placement:
        """Where an image of this size stands in what `fit` makes of it."""
        to_width, to_height = self._resized(width, height)
        return Placement(
            scale_x=to_width / width,
            scale_y=to_height / height,
            left=-_offset(to_width, self.width),
            top=-_offset(to_height, self.height),
        )

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """(pixels / 255 - mean) / std.

        Args:
            pixels: shape (N, height, width, channels), uint8.

        Returns:
            Shape (N, channels, height, width), float32, contiguous.
        """
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(torch.float32).div_(255)
        mean, std = torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)
        return images.sub_(mean).div_(std)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        to_height, to_width = self.resize
        if self.crop_mode == "squash":
            return to_width, to_height
        if self.crop_mode == "center" and to_height == to_width:  # timm hands squares to torchvision, which truncates
            if width <= height:
                return to_width, int(to_width * height / width)
            return int(to_height * width / height), to_height
        choose = max if self.crop_mode == "border" else min
        ratio = choose(height / to_height, width / to_width)
        return round(width / ratio), round(height / ratio)


@dataclass(frozen=True, kw_only=True)
class TextPreprocess:
    """A tokenizer's outputs as inputs of the network.

    Args:
        inputs: names of the network's inputs, in its order: `input_ids`, `attention_mask`, `token_type_ids`.
        max_length: tokens that the network takes.
    """

    inputs: tuple[str, ...]
    max_length: int

    def to_record(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"kind": "text", "inputs": list(self.inputs), "max_length": self.max_length}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TextPreprocess:
        """Read what `to_record` wrote; `ConfigError` when it is of another kind or lacks an entry."""
        if record.get("kind") != "text":
            raise ConfigError(f"not a preprocessing record of kind 'text': {dict(record)}")
        try:
            return cls(inputs=tuple(record["inputs"]), max_length=int(record["max_length"]))
        except KeyError as error:
            raise ConfigError(f"the preprocessing record lacks {error}") from error


Preprocess = ImagePreprocess | TextPreprocess


def preprocess_of(record: Mapping[str, Any]) -> Preprocess:
    """Read the record of an artifact; `ConfigError` where it is none."""
    return TextPreprocess.from_record(record) if record.get("kind") == "text" else ImagePreprocess.from_record(record)


def to_8_bit(image: Image.Image, channels: int) -> Image.Image:
    """Any loaded image → mode "L" (1 channel) or "RGB" (3): grey is repeated, colour weighted to grey.

    Raises:
        NotANumberError: the image holds NaN.
        DataError: it has 32-bit pixels, whose range nobody states.
    """
    if image.mode in ("F", "I"):
        if np.isnan(np.asarray(image, dtype=np.float32)).any():
            raise NotANumberError("holds NaN")
        raise DataError(f"has 32-bit pixels (mode {image.mode!r}) without a stated range: store 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when palette transparency meets RGB directly
    return image.convert("L" if channels == 1 else "RGB")


def _center(image: Image.Image, width: int, height: int, fill: tuple[int, ...]) -> Image.Image:
    """Crop the centre; where the image is smaller, `fill` surrounds it."""
    left, top = _offset(image.width, width), _offset(image.height, height)
    if left >= 0 and top >= 0:
        return image.crop((left, top, left + width, top + height))
    canvas = Image.new(image.mode, (width, height), fill if len(fill) > 1 else fill[0])
    canvas.paste(image, (-left, -top))
    return canvas


def _offset(have: int, want: int) -> int:
    return round((have - want) / 2) if have >= want else -((want - have) // 2)
