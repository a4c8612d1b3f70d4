"""Run torchvision's models through the whole flow and write docs/torchvision_matrix.json and docs/torchvision_matrix.md.

    python scripts/torchvision_matrix.py [MODEL ...]    the default is every builder of classification, segmentation, detection

See `timm_matrix.py`. Detectors of torchvision choose boxes inside of forward, which no graph can hold: they are tried as they
are, and as what stands in front of that choice, the network of features and heads.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import torch
from matrix import Row, failed, flow, settle_batch_norms, table, verdict
from pages import Content, measured_on, publish, why_float
from rich.progress import track
from torch import Tensor, nn
from torchvision import models

#: Pixels of images, by the package of the builders.
KINDS = {"classification": 128, "segmentation": 96, "detection": 128}
OWN_PIXELS = {"inception_v3": 299, "ssd300_vgg16": 300, "maxvit_t": 224, **dict.fromkeys(("vit_b_16", "vit_b_32"), 224)}

#: A larger sibling of what is tried adds hours and no layer.
MOST = 150_000_000


class Dense(nn.Module):
    """A detector up to its choice of boxes: features and what the heads say of every place."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        return self.head(list(features.values()) if isinstance(features, dict) else [features])


def names_of(kind: str) -> list[str]:
    """Every builder of a kind, without those of quantized and video models."""
    package = models if kind == "classification" else getattr(models, kind)
    names: list[str] = models.list_models(module=package)
    return names


def check(name: str, kind: str) -> list[Row]:
    """One model through the flow; detectors twice."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": None}
    if kind != "classification":
        options |= {"weights_backbone": None, "num_classes": 5}
    if models.get_model_weights(name).DEFAULT.meta["num_params"] > MOST:
        return []
    model = models.get_model(name, **options).eval()
    if hasattr(model, "aux_logits"):
        model.aux_logits = False
    size = OWN_PIXELS.get(name, KINDS[kind])
    x = torch.randn(2, 3, size, size)
    if kind == "detection":
        images = ([x[0], x[1]],)
        return [{"model": name, **flow(model, images)}, {"model": f"{name}, features and heads", **flow(Dense(model), x)}]
    settle_batch_norms(model, torch.randn(4, 3, size, size))
    return [{"model": name, **flow(model, x, other=torch.randn(1, 3, size, size), small=x[:1])}]


def page(content: Content) -> str:
    lines = ["# torchvision", "", "Written by `make matrix`, see [timm families](timm_matrix.md).", ""]
    for kind, rows in content["kinds"].items():
        tried = {row["model"] for row in rows}
        large = ", ".join(f"`{name}`" for name in names_of(kind) if name not in tried)
        lines += [f"## {kind.capitalize()}", "", f"{verdict(rows)}.", "", *table(rows), ""]
        lines += [f"Not tried, with over {MOST // 10**6} M parameters, but smaller siblings: {large}.", ""] if large else []
    rows = [row for each in content["kinds"].values() for row in each]
    return "\n".join([*lines, measured_on(content, "torchvision"), *why_float(rows)]) + "\n"


def main() -> None:
    warnings.simplefilter("ignore")
    kinds: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    chosen = [(kind, name) for kind in KINDS for name in names_of(kind) if not sys.argv[1:] or name in sys.argv[1:]]
    for kind, name in track(chosen, description="torchvision"):
        for row in check(name, kind):
            kinds[kind].append(row)
            print(json.dumps(row), flush=True)
    if not sys.argv[1:]:
        publish("torchvision_matrix", {"kinds": kinds}, page)
    sys.exit(failed([row for rows in kinds.values() for row in rows]))


if __name__ == "__main__":
    main()
