"""Images with boxes and detectors in the place of what a recipe names: the same files and kinds, small and generated."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from qat.config.data import CocoConfig
from qat.config.models import HFDetectorConfig
from qat.models.hf_detector import build_hf_detector
from tests.data.detection.samples import contents, rectangles
from tests.models.detectors import DETECTORS

#: Part of a hub name -> model type.
TYPES = {"dfine": "d_fine", "rtdetr_v2": "rt_detr_v2"}


def coco_stand_in(root: Path, data: CocoConfig) -> list[str]:
    """A COCO folder in the layout that the recipe reads, and the override that names it."""
    splits = {"train": 24, "val": 8, "test": 8}
    for split, content in contents(**splits).items():
        file = getattr(data, split)
        if file is None:
            continue
        images = root / (getattr(data, f"{split}_images") or data.train_images)
        images.mkdir(parents=True, exist_ok=True)
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text(json.dumps(content))
        for entry in content["images"]:
            rectangles(entry["width"], entry["height"], (12, 8, 36, 24)).save(images / entry["file_name"], quality=95)
    return [f"data.root={root}"]


def small_detector(root: Path, model: HFDetectorConfig) -> list[str]:
    """Overrides for the recipe's detector: at a small size, and of a local folder where the recipe's comes from the hub."""
    if not model.pretrained:
        return ["model.image_size=160", "model.options.decoder_layers=2"]
    kind = next(kind for part, kind in TYPES.items() if part in str(model.name))
    built = build_hf_detector(
        data=SimpleNamespace(labels=("x", "y", "z")),  # type: ignore[arg-type]
        name=kind,
        options=DETECTORS[kind],
        image_size=96,
    )
    built.module.model.save_pretrained(root)  # type: ignore[operator, union-attr]
    return [f"model.path={root}", "model.pretrained=false", "model.image_size=96"]
