"""Measure encoders against FP32 eager and PyTorch's quantize_dynamic on the same kernels, interleaved in one process; writes
docs/text_speed.json and docs/text_speed.md.

python scripts/text_speed.py [--threads 2] [--repeats 40] [--models minilm-l6 bert-base]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from pages import measured_on, publish
from torch import nn
from torch.ao.quantization import quantize_dynamic
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification

import qat
from qat.deploy.artifact import size_bytes
from qat.evaluation.benchmark import measure
from qat.models.hf_common import fresh_config, fresh_model
from qat.models.hf_text import EncoderModel

DOCS = Path(__file__).parents[1] / "docs"
MODELS: dict[str, dict[str, int]] = {
    "minilm-l6": {"hidden_size": 384, "num_attention_heads": 12, "num_hidden_layers": 6, "intermediate_size": 1536},
    "bert-base": {},
}
BATCHES, TOKENS = (1, 8, 32), 128


def inputs(rows: int) -> tuple[torch.Tensor, ...]:
    """Random tokens without padding: ids, mask, types."""
    ids = torch.randint(1000, 30000, (rows, TOKENS), generator=torch.Generator().manual_seed(rows))
    return ids, torch.ones_like(ids), torch.zeros_like(ids)


def inference(options: dict[str, int], repeats: int) -> dict[str, Any]:
    """One encoder with random weights and a classifier of two classes."""
    torch.manual_seed(0)
    config = fresh_config("bert", options)
    network = fresh_model(
        AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, config, what="classifier"
    )
    model = EncoderModel(network, ("logits",)).eval()
    prepared = qat.prepare(model, inputs(4), dynamic_dims=[(0, 1)] * 3)
    qat.calibrate(prepared, [inputs(4)])
    program = qat.convert(prepared)
    torch.backends.quantized.engine = "fbgemm"
    models: dict[str, nn.Module] = {
        "fp32": model,
        "qat": qat.lower(program, "fbgemm"),
        "dynamic": quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8),  # type: ignore[no-untyped-call]
    }
    result: dict[str, Any] = {"batches": {}}
    for rows in BATCHES:
        x = inputs(rows)
        calls = {name: (lambda m=m, x=x: m(*x)) for name, m in models.items()}
        found = measure(calls, repeats=max(5, repeats // rows), warmup=3)
        result["batches"][str(rows)] = {
            "ms": {name: round(latency.p50, 2) for name, latency in found.items()},
            "speedup": {name: round(found["fp32"].p50 / found[name].p50, 2) for name in ("qat", "dynamic")},
        }
        print(rows, result["batches"][str(rows)], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        result["artifact_ratio"] = round(size_bytes(qat.save(program, Path(folder) / "artifact")) / fp32, 4)
    return result


def page(result: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    lines = [
        "# Speed of encoders",
        "",
        "Written by `make bench`. Medians of interleaved rounds in one process; 128 tokens, random weights, FBGEMM kernels. "
        "The rival is PyTorch's `quantize_dynamic` on the same kernels, whose tables stay float.",
        measured_on(result),
        "",
        "| model | batch | FP32 ms | qat ms | quantize_dynamic ms | artifact / FP32 |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in result["models"].items():
        for rows, found in r["batches"].items():
            cells = [f"{found['ms'][k]} ({found['speedup'][k]}×)" for k in ("qat", "dynamic")]
            lines.append(f"| {name} | {rows} | {found['ms']['fp32']} | {' | '.join(cells)} | {r['artifact_ratio']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"models": {}}
    for name in arguments.models:
        print(name, flush=True)
        result["models"][name] = inference(MODELS[name], arguments.repeats)
    publish("text_speed", result, page)


if __name__ == "__main__":
    main()
