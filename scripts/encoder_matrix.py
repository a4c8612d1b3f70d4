"""Run Hugging Face encoders through the whole flow and write docs/encoder_matrix.json and docs/encoder_matrix.md.

    python scripts/encoder_matrix.py [MODEL_TYPE ...]

Per model type, built from its configuration with two layers and random weights, for `fbgemm` and `qnnpack`: capture with free
batch and length, prepare, calibrate, one training step, convert, run; `fbgemm` must equal `reference` bit for bit, `qnnpack`
may differ from it by one step given the same input, and both must take other batches, lengths and masks than those captured.
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

import torch
from matrix import sqnr, summary, train_step
from pages import Content, measured_on, publish, why_float
from rich.progress import track
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification

import qat
from qat.models.hf_common import fresh_config, fresh_model
from qat.models.hf_text import EncoderModel, inputs_of
from qat.quantization.analysis.parity import engine_parity

ROOT = Path(__file__).parents[1]
ENGINES = ("fbgemm", "qnnpack")
VOCABULARY = 1000

#: Two layers of small width; names where a configuration calls them otherwise.
COMMON = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
OPTIONS: dict[str, dict[str, Any]] = {
    "bert": COMMON,
    "distilbert": {"n_layers": 2, "dim": 64, "n_heads": 4, "hidden_dim": 128},
    "roberta": COMMON,
    "electra": COMMON,
    "mobilebert": {"num_hidden_layers": 2, "hidden_size": 64, "intra_bottleneck_size": 32, "embedding_size": 32},
    "albert": {**COMMON, "embedding_size": 32},
    "mpnet": COMMON,
    "xlm-roberta": COMMON,
    "deberta-v2": {**COMMON, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 32},
    "modernbert": {**COMMON, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "squeezebert": {**COMMON, "embedding_size": 64},
    "convbert": {**COMMON, "embedding_size": 32},
}


def check(name: str) -> dict[str, Any]:
    """One model type through the flow on both engines; `reason` is None when everything held."""
    row: dict[str, Any] = {"model": name, "engines": {engine: _check(name, engine) for engine in ENGINES}}
    reasons = [f"{engine}: {r['reason']}" for engine, r in row["engines"].items() if r["reason"] is not None]
    row["reason"] = "; ".join(reasons) or None
    return row


def build(name: str, options: dict[str, Any]) -> EncoderModel:
    """A classifier of three classes from a configuration."""
    config = fresh_config(name, {**options, "vocab_size": VOCABULARY, "id2label": {0: "a", 1: "b", 2: "c"}})
    network = fresh_model(
        AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, config, what="classifier"
    )
    return EncoderModel(network, ("logits",)).eval()


def batch(inputs: tuple[str, ...], rows: int, length: int, *, padded: int) -> tuple[torch.Tensor, ...]:
    """Random tokens; the first row ends with padding."""
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[0, length - padded :] = 0
    ids = torch.randint(5, VOCABULARY, (rows, length)) * mask
    values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(values[n] for n in inputs)


def _check(name: str, engine: str) -> dict[str, Any]:
    torch.manual_seed(0)
    start = time.perf_counter()
    row: dict[str, Any] = {"reason": None}
    try:
        model = build(name, OPTIONS[name])
        inputs = inputs_of(model.model, ("input_ids", "attention_mask", "token_type_ids"))
        example, other = batch(inputs, 3, 16, padded=5), batch(inputs, 2, 23, padded=9)
        target = "any" if engine == "qnnpack" else "x86"
        prepared = qat.prepare(model, example, dynamic_dims=[(0, 1)] * len(inputs), target=target)
        row["prepare_s"] = round(time.perf_counter() - start, 1)
        qat.calibrate(prepared, [example, other])
        targets = torch.tensor([0, 1, 2])
        row["step_loss"] = train_step(prepared, lambda logits: nn.functional.cross_entropy(logits, targets), example)
        program = qat.convert(prepared)
        reference, lowered = qat.lower(program, "reference"), qat.lower(program, engine)
        parity = engine_parity(program, engine, other)
        row["max_steps"] = max(layer.max_steps for layer in parity)
        row["bit_equal"] = all(bool(torch.equal(reference(*x), lowered(*x))) for x in (example, other))
        single = lowered(*batch(inputs, 1, 7, padded=0))
        found = qat.coverage(prepared, example)
        row["macs_int8"], row["float_ops"] = round(found.macs_int8, 4), summary(found)
        row["integer_ops"] = found.integer_ops
        with torch.no_grad():
            row["sqnr_db"] = sqnr(prepared(*other), lowered(*other))
        if engine == "fbgemm" and not (row["bit_equal"] and row["max_steps"] == 0):
            row["reason"] = "fbgemm differs from reference"
        elif row["max_steps"] > 1:
            row["reason"] = f"a layer is {row['max_steps']} steps from reference"
        elif not bool(torch.isfinite(single).all()) or not math.isfinite(row["step_loss"]):
            row["reason"] = "NaN or infinity"
    except Exception as error:
        row["reason"] = f"{type(error).__name__}: {str(error)[:300]}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def page(content: Content) -> str:
    rows = content["rows"]
    passed = sum(row["reason"] is None for row in rows)
    lines = [
        "# Hugging Face encoders",
        "",
        f"Written by `make matrix`. {passed} of {len(rows)} model types pass on `fbgemm` and `qnnpack`: built from their "
        "configuration with two layers, captured with free batch and length, prepared, calibrated, trained one step, "
        "converted, and run on other batches and lengths. `fbgemm` equals `reference` bit for bit; `qnnpack` is within one "
        "step per layer. "
        "Random weights; MACs at 16 tokens. SQNR: fake-quant simulation against INT8 at the logits.",
        measured_on(content, "transformers"),
        "",
        "| model type | engine | passes | MACs in INT8 | layers | tables | float ops | SQNR dB | prepare s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for engine, r in row["engines"].items():
            floats = ", ".join(f"{name} {text.split(':')[0]}" for name, text in r.get("float_ops", {}).items()) or "none"
            ops = r.get("integer_ops", {})
            layers = sum(n for op, n in ops.items() if op in ("int8.linear", "int8.conv1d", "int8.conv2d"))
            share = f"{r['macs_int8']:.1%}" if "macs_int8" in r else ""
            decibel = "equal" if r.get("sqnr_db", 0) is None else r.get("sqnr_db", "")
            cells = [
                row["model"],
                engine,
                "yes" if r["reason"] is None else r["reason"],
                share,
                layers,
                ops.get("int8.embedding", 0),
            ]
            lines.append("| " + " | ".join(str(c) for c in [*cells, floats, decibel, r.get("prepare_s", "")]) + " |")
    return "\n".join([*lines, *why_float(r for row in rows for r in row["engines"].values())]) + "\n"


def main() -> None:
    names = sys.argv[1:] or list(OPTIONS)
    warnings.simplefilter("ignore")
    rows = []
    for name in track(names, description="encoders"):
        rows.append(check(name))
        gc.collect()
        print(json.dumps(rows[-1]), flush=True)
    if not sys.argv[1:]:
        publish("encoder_matrix", {"rows": rows}, page)
    sys.exit(any(row["reason"] is not None for row in rows))


if __name__ == "__main__":
    main()
