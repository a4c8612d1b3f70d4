"""A detector's artifact, from an image to named boxes. Needs torch, numpy and Pillow only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from qat.deploy.artifact import load
from qat.deploy.postprocess import Decoder, Detections, decoder
from qat.deploy.preprocess import ImagePreprocess
from qat.errors import ArtifactError, ConfigError
from qat.quantization.program.storage import read_manifest


@dataclass(frozen=True, kw_only=True)
class Box:
    """Something found on an image; corners in pixels of the image as it was given."""

    label: str
    score: float
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A network between its preprocessing and its postprocessing.

    Args:
        network: images (N, C, H, W) -> raw outputs.
        preprocess, decode: see `qat.deploy.preprocess` and `qat.deploy.postprocess`.
        labels: class names.
    """

    network: Callable[[Tensor], Sequence[Tensor]]
    preprocess: ImagePreprocess
    decode: Decoder
    labels: tuple[str, ...]

    def __call__(self, image: Image.Image, min_score: float = 0.5) -> list[Box]:
        """The boxes on one image of any size and mode, best first."""
        found = self.detect(image)
        chosen = found[found.scores >= min_score]
        return [
            Box(label=self.labels[label], score=score, x1=x1, y1=y1, x2=x2, y2=y2)
            for (x1, y1, x2, y2), score, label in zip(
                chosen.boxes.tolist(), chosen.scores.tolist(), chosen.labels.tolist(), strict=True
            )
        ]

    def detect(self, image: Image.Image) -> Detections:
        """Everything that postprocessing keeps, in pixels of the image."""
        with torch.no_grad():
            found = self.decode(self.network(self.preprocess(image)))[0]
        placement = self.preprocess.placement(*image.size)
        return found.placed(placement.to_image(found.boxes), *image.size)


def load_detector(folder: str | Path, engine: str = "fbgemm") -> Detector:
    """Load the artifact of a detector with all that stands before and behind its network.

    Raises:
        ArtifactError: it is no detector's, damaged or foreign; also everything that `qat.load` raises.
    """
    manifest = read_manifest(folder)
    try:
        return Detector(
            network=load(folder, engine),
            preprocess=ImagePreprocess.from_record(manifest["preprocessing"]),
            decode=decoder(manifest["postprocessing"]),
            labels=tuple(manifest["labels"]),
        )
    except (KeyError, ConfigError) as error:
        raise ArtifactError(f"{folder} is not the artifact of a detector: {error}") from error
