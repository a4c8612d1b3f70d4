"""Measure qat against FP32 eager and PyTorch's FX mode, interleaved in one process; writes docs/speed.json and docs/speed.md.

python scripts/speed.py [--threads 2] [--repeats 40] [--models resnet50 mobilenetv2_100 ...]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from matrix import pixels
from pages import measured_on, publish
from torch import nn
from torch.ao.quantization import get_default_qat_qconfig_mapping, get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx

import qat
from qat.deploy.artifact import size_bytes
from qat.evaluation.benchmark import measure

DOCS = Path(__file__).parents[1] / "docs"
MODELS = ("resnet50", "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0")
TRAINED = ("resnet50", "mobilenetv2_100")
ENGINES = ("fbgemm", "x86")


def inference(name: str, repeats: int) -> dict[str, Any]:
    """FP32 eager, FX mode and qat on both engines: one image of the model's own size, random weights."""
    model = timm.create_model(name).eval()
    size = pixels(model)
    x, calibration = torch.randn(1, 3, size, size), torch.randn(4, 3, size, size)
    start = time.perf_counter()
    prepared = qat.prepare(model, (calibration,))
    qat.calibrate(prepared, [calibration])
    calibrated = time.perf_counter()
    program = qat.convert(prepared)
    models: dict[str, nn.Module] = {"fp32": model}
    seconds = {"prepare_calibrate": calibrated - start, "convert": time.perf_counter() - calibrated}
    for engine in ENGINES:
        models[engine] = qat.lower(program, engine)
        models[f"fx_{engine}"] = _fx(model, calibration, engine)
    found = measure({key: partial(m, x) for key, m in models.items()}, repeats=repeats)
    with tempfile.TemporaryDirectory() as folder:
        size_ratio = size_bytes(qat.save(program, Path(folder) / "artifact")) / sum(
            t.numel() * t.element_size() for t in model.state_dict().values()
        )
    return {
        "size_px": size,
        "ms": {key: round(latency.p50, 2) for key, latency in found.items()},
        "p95_ms": {key: round(latency.p95, 2) for key, latency in found.items()},
        "speedup": {key: round(found["fp32"].p50 / found[key].p50, 2) for key in models if key != "fp32"},
        "seconds": {key: round(value, 2) for key, value in seconds.items()},
        "artifact_ratio": round(size_ratio, 4),
    }


def training(name: str, repeats: int) -> dict[str, Any]:
    """One step of FP32, FX mode and qat: 16 images of 128 px, forward to optimizer step."""
    options: dict[str, Any] = {"zero_init_last": False} if name.startswith("resnet") else {}  # FX mode divides by gamma
    model = timm.create_model(name, num_classes=10, **options).train()
    x, y = torch.randn(16, 3, 128, 128), torch.randint(0, 10, (16,))
    prepared = qat.prepare(model, (x,)).train()
    prepared.set_observing_(True)
    mapping = get_default_qat_qconfig_mapping("fbgemm")
    rival = prepare_qat_fx(copy.deepcopy(model).train(), mapping, (x,))
    candidates = {"fp32": copy.deepcopy(model), "qat": prepared, "fx": rival}
    frozen = copy.deepcopy(prepared)
    frozen(x)
    frozen.set_observing_(False)
    candidates["qat_frozen"] = frozen
    found = measure({key: _step(m, x, y) for key, m in candidates.items()}, repeats=repeats, warmup=2)
    return {
        "ms": {key: round(latency.p50, 1) for key, latency in found.items()},
        "ratio": {key: round(found[key].p50 / found["fp32"].p50, 3) for key in candidates if key != "fp32"},
    }


def _fx(model: nn.Module, calibration: torch.Tensor, engine: str) -> nn.Module:
    torch.backends.quantized.engine = engine
    prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping(engine), (calibration,))
    prepared(calibration)
    return convert_fx(prepared)


def _step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)

    def step() -> None:
        with torch.enable_grad():
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()

    return step


def page(result: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    lines = [
        "# Speed",
        "",
        "Written by `make bench`. Medians of interleaved rounds in one process, rivals among them; batch 1, random weights.",
        measured_on(result),
        "",
        "## Inference, ms (speed-up over FP32 eager)",
        "",
        "| model | px | FP32 | fbgemm | x86 | FX mode fbgemm | FX mode x86 | artifact / FP32 | prepare, convert |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, r in result["inference"].items():
        cells = [f"{r['ms'][k]} ({r['speedup'][k]}×)" for k in ("fbgemm", "x86", "fx_fbgemm", "fx_x86")]
        seconds = f"{r['seconds']['prepare_calibrate']} s, {r['seconds']['convert']} s"
        lines.append(
            f"| {name} | {r['size_px']} | {r['ms']['fp32']} | {' | '.join(cells)} | {r['artifact_ratio']} | {seconds} |"
        )
    lines += [
        "",
        "## One training step, 16 images of 128 px, ratio to the FP32 step",
        "",
        "| model | FP32 ms | qat | qat, ranges frozen | FX mode |",
        "|---|---|---|---|---|",
    ]
    for name, r in result["training"].items():
        ratio = r["ratio"]
        lines.append(f"| {name} | {r['ms']['fp32']} | {ratio['qat']} | {ratio['qat_frozen']} | {ratio['fx']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"inference": {}, "training": {}}
    for name in arguments.models:
        result["inference"][name] = inference(name, arguments.repeats)
        print(name, result["inference"][name], flush=True)
    for name in [n for n in TRAINED if n in arguments.models]:
        result["training"][name] = training(name, max(5, arguments.repeats // 4))
        print(name, result["training"][name], flush=True)
    publish("speed", result, page)


if __name__ == "__main__":
    main()
