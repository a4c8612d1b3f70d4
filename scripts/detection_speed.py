"""Measure detectors against FP32 eager, interleaved in one process: the network alone, and from image to boxes; writes
docs/detection_speed.json and docs/detection_speed.md.

python scripts/detection_speed.py [--threads 2] [--repeats 40]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pages import measured_on, publish
from PIL import Image
from torch import nn

import qat
from qat.cli.check import compose_config
from qat.config import chosen
from qat.data.detection.shapes import shapes_source
from qat.deploy.detector import Detector
from qat.deploy.postprocess import decoder
from qat.deploy.preprocess import ImagePreprocess
from qat.evaluation.benchmark import measure
from qat.models import build_model
from qat.models.float_model import FloatModel

LABELS = ("a", "b", "c")
ENGINES = ("fbgemm", "x86")

#: Recipes whose networks are measured, with random weights, and what is changed.
MODELS: dict[str, tuple[str, ...]] = {
    "FCOS, MobileNetV2, 320 px": ("recipe=bccd_fcos_mobilenetv2", "model.path=null"),
    "FCOS, ResNet-50 (256 channels, 4 convolutions), 320 px": ("recipe=coco_fcos_resnet50", "model.image_size=320"),
    "D-FINE nano, 320 px": ("recipe=bccd_dfine_nano",),
    "D-FINE nano with learnable affine blocks, 320 px": (
        "recipe=bccd_dfine_nano",
        "model.options.backbone_config.use_learnable_affine_block=true",
    ),
}


def build(overrides: Sequence[str]) -> tuple[FloatModel, list[str]]:
    """The configured network for three classes with random weights, and what it keeps float."""
    torch.manual_seed(0)
    config = compose_config([*overrides, "model.pretrained=false", "data.root=unused", "output=unused"])
    data = replace(shapes_source(train=1, test=1), labels=LABELS)
    model = build_model(chosen("model", config.model), task="detection", data=data, **vars(config.model))
    return model, list(config.quantization.keep_float)


def inference(overrides: Sequence[str], repeats: int) -> dict[str, Any]:
    """Medians of the network at batch 1, and of image to boxes on a photograph of noise of 640 x 480 pixels."""
    model, kept = build(overrides)
    network = model.module.eval()
    prepared = qat.prepare(network, model.example_inputs, keep_float=kept)
    qat.calibrate(prepared, [model.example_inputs])
    program = qat.convert(prepared)
    networks: dict[str, nn.Module] = {"fp32": network, **{engine: qat.lower(program, engine) for engine in ENGINES}}
    x = model.example_inputs[0][:1].contiguous()
    alone = measure({name: partial(m, x) for name, m in networks.items()}, repeats=repeats)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    record, preprocess = model.task_options["postprocessing"], model.preprocessing
    assert isinstance(preprocess, ImagePreprocess)
    detectors = {
        name: Detector(network=m, preprocess=preprocess, decode=decoder(record), labels=LABELS) for name, m in networks.items()
    }
    whole = measure({name: partial(d.detect, image) for name, d in detectors.items()}, repeats=repeats)
    found = qat.coverage(prepared, [x])
    return {
        "macs": found.macs,
        "macs_int8": round(found.macs_int8, 4),
        "network_ms": {name: round(latency.p50, 2) for name, latency in alone.items()},
        "whole_ms": {name: round(latency.p50, 2) for name, latency in whole.items()},
    }


def page(result: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    lines = [
        "# Speed of detectors",
        "",
        "Written by `make bench`. Medians of interleaved rounds in one process, batch 1, random weights. The network is "
        "what was captured; the whole goes from a picture of 640 x 480 pixels through letterbox, network, decoding and "
        "suppression to boxes. With random weights nearly every anchor is a candidate: the worst case.",
        measured_on(result),
        "",
        "| detector | GMACs, in INT8 | network FP32 ms | "
        + " | ".join(f"{e} ms" for e in ENGINES)
        + " | whole FP32 ms | "
        + " | ".join(f"{e} ms" for e in ENGINES)
        + " |",
        "|---" * (4 + 2 * len(ENGINES)) + "|",
    ]
    for name, r in result["models"].items():
        cells = [name, f"{r['macs'] / 1e9:.2f}, {r['macs_int8']:.1%}"]
        for times in (r["network_ms"], r["whole_ms"]):
            cells += [str(times["fp32"]), *(f"{times[e]} ({times['fp32'] / times[e]:.2f}×)" for e in ENGINES)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"models": {}}
    for name, overrides in MODELS.items():
        result["models"][name] = inference(overrides, arguments.repeats)
        print(name, result["models"][name], flush=True)
    publish("detection_speed", result, page)


if __name__ == "__main__":
    main()
