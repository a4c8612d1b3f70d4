"""Run timm families through the whole flow and write docs/timm_matrix.json and docs/timm_matrix.md.

    python scripts/timm_matrix.py [MODEL ...]      the default is scripts/timm_families.txt: one of every module file of timm

Per model, with random weights: capture, prepare, calibrate, one training step, convert, run on `fbgemm`, compare with
`reference` bit for bit, count coverage. A model that fails is listed with its reason.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import timm
import torch
from matrix import Row, check_all, failed, flow, pixels, settle_batch_norms, table, verdict
from pages import Content, measured_on, publish, why_float
from torch import nn

ROOT = Path(__file__).parents[1]

#: Images are no larger where a model takes smaller ones.
PIXELS = (224, 240, 256)


def build(name: str) -> tuple[nn.Module, int]:
    """A model of ten classes and the pixels that it takes."""
    model = timm.create_model(name, num_classes=10)
    if pixels(model) <= PIXELS[-1]:
        return model, pixels(model)
    for size in PIXELS:
        try:
            smaller = timm.create_model(name, num_classes=10, img_size=size).eval()
            with torch.no_grad():
                smaller(torch.zeros(1, 3, size, size))
            return smaller, size
        except (TypeError, ValueError, RuntimeError, AssertionError):
            continue
    return model, pixels(model)


def check(name: str) -> Row:
    """One model through the flow."""
    torch.manual_seed(0)
    model, size = build(name)
    settle_batch_norms(model, torch.randn(4, 3, size, size))
    x = torch.randn(2, 3, size, size)
    return {"model": name, **flow(model, x, other=torch.randn(1, 3, size, size), small=x[:1])}


def page(content: Content) -> str:
    rows = content["rows"]
    lines = [
        "# timm families",
        "",
        f"Written by `make matrix`: the smallest variant of every module file of timm. {verdict(rows)}. To pass is to be "
        "captured with a free batch size, prepared, calibrated, trained one step, converted, run on `fbgemm` and equal to "
        "`reference` bit for bit. Random weights and images of the model's own size, at most 256 pixels where it takes them. "
        "SQNR: fake-quant simulation against INT8 at the logits.",
        measured_on(content, "timm"),
        "",
        *table(rows),
    ]
    return "\n".join([*lines, *why_float(rows)]) + "\n"


def main() -> None:
    names = sys.argv[1:] or (ROOT / "scripts" / "timm_families.txt").read_text().split()
    warnings.simplefilter("ignore")
    rows = check_all(names, check, description="timm families")
    if not sys.argv[1:]:
        publish("timm_matrix", {"rows": rows}, page)
    sys.exit(failed(rows))


if __name__ == "__main__":
    main()
