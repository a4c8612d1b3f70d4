"""torchvision's own detectors, to hold against: they have the anchors that their papers give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList

#: torchvision's names of the outputs, in the order of `DenseDetector`.
NAMES = ("cls_logits", "bbox_regression", "bbox_ctrness")


class _Backbone(nn.Module):
    out_channels = 32


def torchvision_detector(head: str, record: Mapping[str, Any], *, num_classes: int) -> Any:
    """The detector for five levels that keeps what the postprocessing record says; its layers are never run."""
    return {"fcos": FCOS, "retinanet": RetinaNet}[head](
        _Backbone(),
        num_classes,
        score_thresh=record["min_score"],
        nms_thresh=record["max_overlap"],
        detections_per_img=record["limit"],
        topk_candidates=record["candidates"],
    )


def torchvision_anchors(detector: Any, record: Mapping[str, Any]) -> list[Tensor]:
    """Its anchors of one image by level, shape (L_i, 4)."""
    size, grids = (record["height"], record["width"]), [level["grid"] for level in record["levels"]]
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    everything: Tensor = detector.anchor_generator(ImageList(torch.zeros(1, 3, *size), [size]), maps)[0]
    per_position = detector.anchor_generator.num_anchors_per_location()
    sizes = [rows * columns * count for (rows, columns), count in zip(grids, per_position, strict=True)]
    return list(torch.split(everything, sizes))
