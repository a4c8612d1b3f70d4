"""Time convolutions of every shape, INT8 against FP32, and write docs/kernel_sweep.json and docs/kernel_sweep.md.

    python scripts/kernel_sweep.py

Each stands where it stands in networks: between two pointwise convolutions, as in an inverted residual. One thread, batch 1,
interleaved, medians.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from pages import Content, measured_on, publish
from rich.progress import track
from torch import nn

import qat
from qat.evaluation.benchmark import measure

ENGINES = ("fbgemm", "x86")

#: What a row may cost at most, as a share of FP32.
BAR = 1.1
ROUNDS = 30


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A convolution over images (two kernel sizes) or signals (one)."""

    kind: str
    kernel: tuple[int, ...]
    channels: int
    groups: int
    size: int
    stride: int = 1
    dilation: int = 1

    def layer(self) -> nn.Module:
        make = nn.Conv2d if len(self.kernel) == 2 else nn.Conv1d
        padding = tuple(self.dilation * (k - 1) // 2 for k in self.kernel)
        options: dict[str, Any] = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups, "padding": padding}
        return make(self.channels, self.channels, self.kernel, **options)  # type: ignore[arg-type]

    def network(self) -> nn.Module:
        make = nn.Conv2d if len(self.kernel) == 2 else nn.Conv1d
        point = partial(make, self.channels, self.channels, 1)
        return nn.Sequential(point(), nn.ReLU(), self.layer(), nn.ReLU(), point()).eval()

    def inputs(self) -> torch.Tensor:
        return torch.randn(1, self.channels, *([self.size] * len(self.kernel)))


def shapes() -> Iterator[Shape]:
    """Depthwise, grouped and dense, over images and signals."""
    square = [(k, k) for k in (1, 2, 3, 4, 5, 6, 7, 9, 11)]
    for kernel in [*square, (1, 7), (7, 1), (1, 11), (3, 5)]:
        for channels, size in ((32, 56), (64, 28), (144, 28), (240, 14)):
            yield Shape(kind="depthwise", kernel=kernel, channels=channels, groups=channels, size=size)
        yield Shape(kind="depthwise", kernel=kernel, channels=64, groups=64, size=56, stride=2)
        if max(kernel) > 1:
            yield Shape(kind="depthwise", kernel=kernel, channels=64, groups=64, size=28, dilation=2)
    for channels in (20, 36, 100):
        yield Shape(kind="depthwise", kernel=(3, 3), channels=channels, groups=channels, size=28)
    for kernel in ((3, 3), (5, 5), (7, 7)):
        for each in (2, 3, 4, 8, 16, 32):
            yield Shape(kind=f"grouped, {each} each", kernel=kernel, channels=96, groups=96 // each, size=28)
    for kernel in ((1, 1), (2, 2), (3, 3), (5, 5), (7, 7), (1, 7)):
        for channels, size in ((32, 56), (128, 14)):
            yield Shape(kind="dense", kernel=kernel, channels=channels, groups=1, size=size)
        yield Shape(kind="dense", kernel=kernel, channels=64, groups=1, size=28, stride=2)
        yield Shape(kind="dense", kernel=kernel, channels=64, groups=1, size=28, dilation=2)
    for length in (3, 7, 15, 31):
        for channels, size in ((64, 400), (256, 200)):
            yield Shape(kind="depthwise", kernel=(length,), channels=channels, groups=channels, size=size)
            yield Shape(kind="dense", kernel=(length,), channels=channels, groups=1, size=size)


def check(shape: Shape) -> dict[str, Any]:
    """One shape: the time of its block on every engine over that of FP32."""
    torch.manual_seed(0)
    model, x = shape.network(), shape.inputs()
    prepared = qat.prepare(model, x)
    qat.calibrate(prepared, [x])
    program = qat.convert(prepared)
    models = {"fp32": model, **{engine: qat.lower(program, engine) for engine in ENGINES}}
    times = measure({name: partial(network, x) for name, network in models.items()}, repeats=ROUNDS, warmup=3)
    ratios = {engine: round(times[engine].p50 / times["fp32"].p50, 2) for engine in ENGINES}
    return {**asdict(shape), "fp32_ms": round(times["fp32"].p50, 3), **ratios}


def page(content: Content) -> str:
    rows = content["rows"]
    slow = [row for row in rows if row["fbgemm"] > BAR]
    lines = [
        "# Convolutions of every shape",
        "",
        f"Written by `make matrix`: {len(rows)} convolutions, each between two pointwise ones, batch 1, one thread. "
        f"{len(slow)} blocks take more than {BAR} times as long as FP32 eager on `fbgemm`.",
        measured_on(content),
        "",
        "| convolution | kernel | channels | pixels or steps | stride | dilation | FP32 ms | fbgemm / FP32 | x86 / FP32 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["fbgemm"]):
        kernel = "×".join(map(str, row["kernel"]))
        cells = [row["kind"], kernel, *(row[key] for key in ("channels", "size", "stride", "dilation", "fp32_ms", *ENGINES))]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for shape in track(list(shapes()), description="convolutions"):
        rows.append(check(shape))
        print(json.dumps(rows[-1]), flush=True)
    publish("kernel_sweep", {"rows": rows}, page)
    sys.exit(any(row["fbgemm"] > BAR for row in rows))


if __name__ == "__main__":
    main()
