"""Put every layer of torch.nn and its functionals into a small network each, and write docs/layer_matrix.json and .md.

    python scripts/layer_matrix.py [NAME ...]

A network is a convolution or linear layer, the layer, and a linear layer behind it. It goes through the whole flow: it runs as
INT8, in float (an island, with its reason), or is refused by `prepare` in words; nothing may fail later. Names come from the
index of torch: one that is neither listed here nor left out with a reason ends the script.
"""

from __future__ import annotations

import sys
import warnings

import torch
from layer_catalog import FUNCTIONS, LAYERS, LEFT_OUT, STEMS
from matrix import Row, call, check_all, failed, flow
from pages import Content, measured_on, publish
from torch import Tensor, nn

import qat
from qat.evaluation.benchmark import measure
from qat.quantization.graph.nodes import layer_name

#: Rounds of the timing.
ROUNDS = 40


class Network(nn.Module):
    """Stem, layer and head."""

    def __init__(self, kind: str, layer: nn.Module) -> None:
        super().__init__()
        stem, shape = STEMS[kind]
        self.stem, self.layer = stem(), layer
        with torch.no_grad():
            features = self.features(torch.randn(shape))
        self.head = nn.Linear(features.shape[1], 10)

    def features(self, x: Tensor) -> Tensor:
        y = self.layer(self.stem(x))
        first: Tensor = y[0] if isinstance(y, tuple) else y
        if first.dim() == 4:
            return first.mean((2, 3))
        return first.flatten(2).mean(2) if first.dim() > 2 else first

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x))
        return y


def check(name: str) -> Row:
    """One layer through the flow, and how long its network takes against FP32."""
    torch.manual_seed(0)
    kind, layer = {**LAYERS, **FUNCTIONS}[name]
    model, x = Network(kind, layer()).eval(), torch.randn(STEMS[kind][1])
    row: Row = {"layer": name, "kind": kind, **flow(model, x)}
    if row["reason"] is None:
        prepared = qat.prepare(model, x)
        qat.calibrate(prepared, [x])
        found = qat.coverage(prepared, [x])
        row["floats"] = {op.op.removeprefix("aten."): op.reason for op in found.float_ops if op.layer.startswith("layer")}
        integer = [n for n in prepared.network.graph.nodes if n.name in prepared.placement.kernels]
        row["int8"] = any(layer_name(n).startswith("layer") for n in integer)
        int8 = qat.lower(qat.convert(prepared), "fbgemm")
        with torch.no_grad():
            times = measure({"fp32": lambda: call(model, x), "int8": lambda: call(int8, x)}, repeats=ROUNDS, warmup=5)
        row["ratio"] = round(times["int8"].p50 / times["fp32"].p50, 2)
    return row


def _runs_as(row: Row) -> str:
    if row["reason"] is not None:
        return "refused by `prepare`" if row["refused"] else "**fails**"
    if row["floats"]:
        return "INT8 and float" if row["int8"] else "float"
    return "INT8" if row["int8"] else "nothing to compute"


def page(content: Content) -> str:
    rows = content["rows"]
    counts: dict[str, int] = {}
    for row in rows:
        counts[_runs_as(row)] = counts.get(_runs_as(row), 0) + 1
    lines = [
        "# Layers",
        "",
        "Written by `make matrix`: every layer of `torch.nn`, and functions beside them, each between two layers of a small "
        "network. " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) + ". What does not run as INT8 is "
        "named with its reason; the last column is the time of the whole small network, INT8 against FP32 eager, one thread, "
        "medians of interleaved rounds.",
        measured_on(content),
        "",
        "| layer | in a network of | runs as | float ops, or why refused | INT8 / FP32 time |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        why = row["reason"] or "; ".join(f"{op}: {reason}" for op, reason in row["floats"].items())
        cells = [f"`{row['layer']}`", row["kind"], _runs_as(row), why.replace("|", "\\|"), row.get("ratio", "")]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    left = ", ".join(f"`{name}` ({reason})" for name, reason in LEFT_OUT.items())
    return "\n".join([*lines, "", f"Left out: losses, lazy layers, {left}."]) + "\n"


def missing() -> list[str]:
    """Layers of torch's index that stand neither in `LAYERS` nor in `LEFT_OUT`."""
    index = [name for name in nn.modules.__all__ if not name.endswith("Loss") and "Lazy" not in name and "Loss" not in name]
    return sorted(set(index) - LAYERS.keys() - LEFT_OUT.keys())


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if found := missing():
        sys.exit(f"layers of torch.nn that this script does not know: {', '.join(found)}")
    rows = check_all(sys.argv[1:] or [*LAYERS, *FUNCTIONS], check, description="layers")
    if not sys.argv[1:]:
        publish("layer_matrix", {"rows": rows}, page)
    sys.exit(failed(rows))


if __name__ == "__main__":
    main()
