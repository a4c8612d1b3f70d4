"""Feature maps of a timm backbone, and where the anchors of a pyramid on them stand."""

from __future__ import annotations

from collections.abc import Sequence

from timm.models._features import FeatureGetterNet
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from qat.errors import ConfigError

#: Strides of the backbone's feature maps that enter the pyramid.
STRIDES = (8, 16, 32)


def backbone_features(model: nn.Module, name: str) -> tuple[nn.Module, list[int]]:
    """The feature maps of a timm model at `STRIDES`, and their widths."""
    info = getattr(model, "feature_info", None) or []
    at = {entry["reduction"]: i for i, entry in enumerate(info)}
    if not hasattr(model, "forward_intermediates") or not set(STRIDES) <= at.keys():
        raise ConfigError(
            f"{name} has no feature maps of strides {STRIDES} (it has {sorted(at)}); a pyramid needs them. Take a "
            "convolutional backbone such as mobilenetv2_100, resnet50 or efficientnet_b0."
        )
    indices = tuple(at[stride] for stride in STRIDES)
    features = FeatureGetterNet(model, out_indices=indices)
    return features, [int(info[i]["num_chs"]) for i in indices]


def nominal_strides(levels: Sequence[Tensor]) -> list[int]:
    """Strides as powers of two, whatever the rounding of small maps."""
    return [STRIDES[0] * 2**i for i in range(len(levels))]


def level_anchors(
    generator: AnchorGenerator, example: Tensor, levels: Sequence[Tensor]
) -> tuple[list[dict[str, object]], list[Tensor]]:
    """Grid, stride and anchors of every level for the record, and all of torchvision's anchors by level."""
    height, width = example.shape[-2:]
    everything = generator(ImageList(example[:1], [(height, width)]), list(levels))[0]
    grids = [tuple(level.shape[-2:]) for level in levels]
    described = [
        {"grid": [rows, columns], "stride": [height // rows, width // columns], "anchors": cell.tolist()}
        for (rows, columns), cell in zip(grids, generator.cell_anchors, strict=True)
    ]
    counts = [rows * columns * len(cell) for (rows, columns), cell in zip(grids, generator.cell_anchors, strict=True)]
    return described, list(everything.split(counts))
