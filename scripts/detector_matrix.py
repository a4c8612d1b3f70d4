"""Run detectors through the whole flow and write docs/detector_matrix.json and docs/detector_matrix.md.

    python scripts/detector_matrix.py [NAME ...]

Per detector, built small from its configuration with random weights, for `fbgemm` and `qnnpack`: capture with a free batch,
prepare, calibrate, one training step with its own loss, convert, run on another batch size, decode. `fbgemm` must equal
`reference` bit for bit and be within `MIN_SQNR` of the fake-quant simulation at every raw output; `qnnpack` may differ from
`reference` by one step given the same input.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matrix import sqnr, summary, train_step
from pages import Content, measured_on, publish, why_float
from rich.progress import track
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import qat  # noqa: E402
from qat.data.detection.shapes import shapes_source  # noqa: E402
from qat.deploy.postprocess import decoder  # noqa: E402
from qat.models.dense import build_dense  # noqa: E402
from qat.models.float_model import FloatModel  # noqa: E402
from qat.models.hf_detector import build_hf_detector  # noqa: E402
from qat.quantization.analysis.parity import engine_parity  # noqa: E402
from tests.models.detectors import DETECTORS  # noqa: E402

ENGINES = ("fbgemm", "qnnpack")
LABELS = ("a", "b", "c")

#: dB between simulation and INT8 at every raw output, free-running: single roundings that flip spread, and through a deep
#: network of random weights, whose outputs differ little from image to image, they weigh most. So does a query that changes
#: places with another of nearly equal score.
MIN_SQNR = 10.0

DENSE = {f"{head} on {name}": (head, name) for head in ("fcos", "retinanet") for name in ("mobilenetv2_100", "resnet18")}


def build(name: str) -> FloatModel:
    """A detector of three classes at 96 pixels. Weights that start at zero get values, so that something can differ, and batch
    norms get statistics: with those of a fresh network activations die out, and layer norms of nothing explode."""
    torch.manual_seed(0)
    if name in DENSE:
        head, backbone = DENSE[name]
        model = build_dense(name=backbone, num_classes=3, head=head, image_size=96, head_options={"channels": 32})
    else:
        data = replace(shapes_source(train=1, test=1), labels=LABELS)
        model = build_hf_detector(data=data, name=name, image_size=96, options=DETECTORS[name])
    for parameter in model.module.parameters():
        if parameter.dim() > 1 and not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        for _ in range(20):
            model.module.train()(torch.randn(8, 3, 96, 96))
    model.module.eval()
    return model


def check(name: str) -> dict[str, Any]:
    """One detector through the flow on both engines; `reason` is None when everything held."""
    row: dict[str, Any] = {"model": name, "engines": {engine: _check(name, engine) for engine in ENGINES}}
    reasons = [f"{engine}: {r['reason']}" for engine, r in row["engines"].items() if r["reason"] is not None]
    row["reason"] = "; ".join(reasons) or None
    return row


def _check(name: str, engine: str) -> dict[str, Any]:
    start = time.perf_counter()
    row: dict[str, Any] = {"reason": None}
    try:
        model = build(name)
        images, other = torch.randn(4, 3, 96, 96), torch.randn(5, 3, 96, 96)
        target = "any" if engine == "qnnpack" else "x86"
        prepared = qat.prepare(model.module, model.example_inputs, target=target)
        row["prepare_s"] = round(time.perf_counter() - start, 1)
        qat.calibrate(prepared, [(images,)])
        corners = [torch.tensor([[10.0, 20.0, 50.0, 60.0], [40.0, 30.0, 90.0, 80.0]])] * 3 + [torch.zeros(0, 4)]
        labels = [torch.tensor([0, 2])] * 3 + [torch.zeros(0, dtype=torch.int64)]
        criterion = model.task_options["criterion"]
        row["step_loss"] = train_step(prepared, lambda outputs: criterion(outputs, corners, labels), (images,))
        program = qat.convert(prepared)
        reference, lowered = qat.lower(program, "reference"), qat.lower(program, engine)
        with torch.no_grad():
            outputs, exact, simulated = lowered(other), reference(other), prepared.eval()(other)
        row["finite"] = all(bool(torch.isfinite(x).all()) for x in outputs)
        row["bit_equal"] = all(torch.equal(a, b) for a, b in zip(outputs, exact, strict=True))
        row["max_steps"] = max(layer.max_steps for layer in engine_parity(program, engine, (other,)))
        row["sqnr_db"] = [sqnr(a, b) for a, b in zip(simulated, outputs, strict=True)]
        found = qat.coverage(prepared, [images[:1]])
        row["macs_int8"], row["float_ops"], row["integer_ops"] = round(found.macs_int8, 4), summary(found), found.integer_ops
        row["boxes"] = [len(image) for image in decoder(model.task_options["postprocessing"])(outputs)]
        row["reason"] = _reason(row, engine)
    except Exception as error:
        row["reason"] = f"{type(error).__name__}: {str(error)[:300]}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def _reason(row: dict[str, Any], engine: str) -> str | None:
    if engine == "fbgemm" and not (row["bit_equal"] and row["max_steps"] == 0):
        return "fbgemm differs from reference"
    if row["max_steps"] > 1:
        return f"a layer is {row['max_steps']} steps from reference"
    if not math.isfinite(row["step_loss"]) or not row["finite"] or len(row["boxes"]) != 5:
        return "NaN or infinity, or not five images of boxes"
    low = [decibel for decibel in row["sqnr_db"] if decibel is not None and decibel < MIN_SQNR and engine == "fbgemm"]
    return f"SQNR {min(low)} dB" if low else None


def page(content: Content) -> str:
    rows = content["rows"]
    passed = sum(row["reason"] is None for row in rows)
    lines = [
        "# Detectors",
        "",
        f"Written by `make matrix`. {passed} of {len(rows)} detectors pass on `fbgemm` and `qnnpack`: built small with random "
        "weights, captured with a free batch, prepared, calibrated, trained one step with their own loss, converted, run on "
        f"another batch size and decoded. `fbgemm` equals `reference` bit for bit; `qnnpack` is within one step per layer. "
        f"SQNR: fake-quant simulation against INT8 at each raw output (logits, boxes, ...), free-running; on `fbgemm` at least "
        f"{MIN_SQNR:g}. Where queries are chosen by score, one that changes places moves a whole row.",
        measured_on(content, "transformers"),
        "",
        "| detector | engine | passes | MACs in INT8 | layers | float ops | SQNR dB | prepare s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for engine, r in row["engines"].items():
            floats = ", ".join(f"{name} {text.split(':')[0]}" for name, text in r.get("float_ops", {}).items()) or "none"
            layers = sum(n for op, n in r.get("integer_ops", {}).items() if op in ("int8.linear", "int8.conv2d"))
            decibel = " / ".join("equal" if x is None else str(x) for x in r.get("sqnr_db", []))
            share = f"{r['macs_int8']:.1%}" if "macs_int8" in r else ""
            cells = [row["model"], engine, "yes" if r["reason"] is None else r["reason"], share, layers, floats, decibel]
            lines.append("| " + " | ".join(str(c) for c in [*cells, r.get("prepare_s", "")]) + " |")
    return "\n".join([*lines, *why_float(r for row in rows for r in row["engines"].values())]) + "\n"


def main() -> None:
    names = sys.argv[1:] or [*DENSE, *DETECTORS]
    warnings.simplefilter("ignore")
    rows = []
    for name in track(names, description="detectors"):
        rows.append(check(name))
        gc.collect()
        print(json.dumps(rows[-1]), flush=True)
    if not sys.argv[1:]:
        publish("detector_matrix", {"rows": rows}, page)
    sys.exit(any(row["reason"] is not None for row in rows))


if __name__ == "__main__":
    main()
