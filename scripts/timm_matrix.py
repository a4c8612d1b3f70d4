"""Run timm families through the whole flow and write docs/timm_matrix.json and docs/timm_matrix.md.

    python scripts/timm_matrix.py [NAMES_FILE]      one model name per line; the default is scripts/timm_families.txt

Per model, with random weights: capture, prepare, calibrate, one training step, convert, run on `fbgemm`, compare with
`reference` bit for bit, count coverage. A model that fails is listed with its reason.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from matrix import pixels, sqnr, summary, train_step
from pages import Content, measured_on, publish, why_float
from rich.progress import track
from torch import nn

import qat

ROOT = Path(__file__).parents[1]


def check(name: str) -> dict[str, Any]:
    """One model through the flow; `reason` is None when everything held."""
    torch.manual_seed(0)
    start = time.perf_counter()
    row: dict[str, Any] = {"model": name, "reason": None}
    try:
        model = timm.create_model(name, num_classes=10)
        size = pixels(model)
        x, y = torch.randn(2, 3, size, size), torch.tensor([1, 7])
        _settle_batch_norms(model, torch.randn(4, 3, size, size))
        prepared = qat.prepare(model, (x,))
        row["prepare_s"] = round(time.perf_counter() - start, 1)
        qat.calibrate(prepared, [x])
        row["step_loss"] = train_step(prepared, lambda logits: nn.functional.cross_entropy(logits, y), (x,))
        program = qat.convert(prepared)
        reference, fbgemm = qat.lower(program, "reference"), qat.lower(program, "fbgemm")
        row["bit_equal"] = bool(torch.equal(reference(x), fbgemm(x)))
        single = fbgemm(x[:1])
        coverage = qat.coverage(prepared, [x[:1]])
        row["macs_int8"] = round(coverage.macs_int8, 4)
        row["integer_ops"] = sum(coverage.integer_ops.values())
        row["float_ops"] = summary(coverage)
        with torch.no_grad():
            simulated = prepared(x)
        row["sqnr_db"] = sqnr(simulated, fbgemm(x))
        if not row["bit_equal"]:
            row["reason"] = "fbgemm differs from reference"
        elif not bool(torch.isfinite(single).all()) or not math.isfinite(row["step_loss"]):
            row["reason"] = "NaN or infinity"
    except Exception as error:
        row["reason"] = f"{type(error).__name__}: {str(error)[:200]}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def _settle_batch_norms(model: nn.Module, x: torch.Tensor) -> None:
    """Running statistics of one random batch, as a trained network has some; fresh ones let deep networks overflow."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    model.eval()


def page(content: Content) -> str:
    rows = content["rows"]
    passed = sum(row["reason"] is None for row in rows)
    lines = [
        "# timm families",
        "",
        f"Written by `make matrix`. {passed} of {len(rows)} models pass: captured with a free batch size, prepared, "
        "calibrated, trained one step, converted, run on `fbgemm` and equal to `reference` bit for bit. Random weights and "
        "images of the model's own size. SQNR: fake-quant simulation against INT8 at the logits.",
        measured_on(content, "timm"),
        "",
        "| model | passes | MACs in INT8 | integer ops | float ops | SQNR dB | prepare s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        floats = ", ".join(f"{name} {text.split(':')[0]}" for name, text in row.get("float_ops", {}).items()) or "none"
        share = f"{row['macs_int8']:.1%}" if "macs_int8" in row else ""
        sqnr = "equal" if row.get("sqnr_db", 0) is None else row.get("sqnr_db", "")
        cells = [row["model"], "yes" if row["reason"] is None else row["reason"], share, row.get("integer_ops", ""), floats]
        lines.append("| " + " | ".join(str(c) for c in [*cells, sqnr, row.get("prepare_s", "")]) + " |")
    return "\n".join([*lines, *why_float(rows)]) + "\n"


def main() -> None:
    names_file = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "scripts" / "timm_families.txt"
    names = names_file.read_text().split()
    warnings.simplefilter("ignore")
    rows = []
    for name in track(names, description="timm families"):
        rows.append(check(name))
        gc.collect()
        print(json.dumps(rows[-1]), flush=True)
    publish("timm_matrix", {"rows": rows}, page)
    sys.exit(any(row["reason"] is not None for row in rows))


if __name__ == "__main__":
    main()
