"""What keeping sums within 16 bits costs: weight SQNR per layer, and accuracy per target.

python scripts/targets.py weights FILE RUN    MobileNetV2's ImageNet weights for timm, and a run of cifar10_mobilenetv2; writes
                                              docs/weight_sqnr.json and the table in docs/numerics.md
python scripts/targets.py accuracy RUN ...    finished runs; PTQ for each bound from the FP32 weights, and INT8 from their QAT
                                              checkpoints; writes docs/targets.json and docs/targets.md
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import timm
import torch
from pages import measured_on
from rich.console import Console
from torch import Tensor

from qat.cli.launch import read_config
from qat.environment import environment
from qat.evaluation.evaluate import Evaluation, paired_difference
from qat.files import write_json, write_text
from qat.models.weights import load_weights_
from qat.pipeline.loading import load_prepared
from qat.pipeline.run import Run, open_run, prepare_model, score
from qat.quantization.analysis.weight_error import weight_sqnr
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.fake_quantize import WeightFakeQuantize
from qat.quantization.graph.capture import capture
from qat.quantization.graph.nodes import fx_value, layer_name
from qat.quantization.layouts import Layout
from qat.quantization.prepare import bounded_layouts
from qat.quantization.targets import get_target
from qat.training.callbacks.checkpoint import load_weights, newest_loadable

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- weight SQNR: written by scripts/targets.py -->", "<!-- end of weight SQNR -->"


class TwoLargest:
    """The bound of an earlier qat: the two largest |w| of an output channel, wherever they stand."""

    def rows(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1).abs()
        return rows.topk(min(2, rows.shape[1]), dim=1).values if rows.shape[1] > 1 else torch.nn.functional.pad(rows, (0, 1))


# --- weights ----------------------------------------------------------------------------------------------------------


BOUNDS = ("unbounded", "neighbours", "two_largest")


def weights(file: Path, tuned: Path) -> None:
    """Weight SQNR of every layer of MobileNetV2, batch norms folded, for three bounds, of `file` and after fine-tuning.

    Args:
        file: ImageNet weights.
        tuned: a run of `cifar10_mobilenetv2`, which went on from them.
    """
    model = timm.create_model("mobilenetv2_100", pad_type="same")
    load_weights_(model, file, classifiers=["classifier"])
    path = newest_loadable(tuned / "checkpoints" / "fp32")
    assert path is not None, f"{tuned} has no FP32 checkpoint"
    other = timm.create_model("mobilenetv2_100", pad_type="same", num_classes=10)
    other.load_state_dict(load_weights(path))
    layers = [{**given, "tuned": after["given"]} for given, after in zip(sqnr_rows(model), sqnr_rows(other), strict=True)]
    write_json(DOCS / "weight_sqnr.json", {"model": "mobilenetv2_100", "environment": asdict(environment()), "layers": layers})
    before, begin, rest = (DOCS / "numerics.md").read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"docs/numerics.md has no {BEGIN}"
    assert end, f"docs/numerics.md has no {END}"
    write_text(DOCS / "numerics.md", f"{before}{BEGIN}\n{weight_table(layers)}\n{END}{after}")


def sqnr_rows(model: torch.nn.Module) -> list[dict[str, Any]]:
    """The layers of a network with their weight SQNR under every bound."""
    network, rows = capture(model, (torch.randn(2, 3, 96, 96),)).module, []
    for node in network.graph.nodes:
        if str(node.target) not in ("aten.conv2d.default", "aten.linear.default"):
            continue
        weight = fx_value(network, node.args[1])
        layouts: dict[str, tuple[Layout, ...]] = {
            "unbounded": (),
            "neighbours": bounded_layouts(node, network, get_target("x86")),
            "two_largest": (TwoLargest(),),
        }
        kind = "linear" if weight.dim() == 2 else "depthwise" if weight.shape[1] == 1 else "x".join(map(str, weight.shape[2:]))
        values = {name: round(weight_sqnr(weight, layouts[name]), 2) for name in BOUNDS}
        rows.append({"layer": layer_name(node), "kind": kind, "given": values})
    return rows


def weight_table(rows: list[dict[str, Any]]) -> str:
    """One line per layer, and the mean of each kind; the given weights are not shown unbounded, see docs/numerics.md."""
    columns = [("given", name) for name in BOUNDS[1:]] + [("tuned", name) for name in BOUNDS]
    lines = [
        "| layer | kind | ImageNet: neighbours | two largest | fine-tuned: unbounded | neighbours | two largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row['layer']}` | {row['kind']} | " + " | ".join(f"{row[of][name]:.1f}" for of, name in columns) + " |"
        )
    for kind in dict.fromkeys(row["kind"] for row in rows):
        chosen = [row for row in rows if row["kind"] == kind]
        means = " | ".join(f"**{sum(row[of][name] for row in chosen) / len(chosen):.1f}**" for of, name in columns)
        lines.append(f"| mean of {len(chosen)} | {kind} | {means} |")
    return "\n".join(lines)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def accuracy(folders: list[Path]) -> None:
    """PTQ with three bounds for every recipe, and INT8 after QAT of every run; a recipe measured before is replaced."""
    file, console = DOCS / "targets.json", Console()
    found: dict[str, Any] = json.loads(file.read_text())["recipes"] if file.exists() else {}
    recipes: dict[str, list[Path]] = {}
    for folder in folders:
        recipes.setdefault(read_config(folder / "config.yaml").recipe, []).append(folder)
    for recipe, runs in recipes.items():
        found[recipe] = measure(runs, console)
        write_json(file, {"environment": asdict(environment()), "recipes": dict(sorted(found.items()))})
        write_text(DOCS / "targets.md", page(json.loads(file.read_text())))


def measure(folders: list[Path], console: Console) -> dict[str, Any]:
    """Every evaluation of one recipe, and what it differs by from that of target `x86_vnni` in the same stage."""
    run = opened(folders[0], console)
    path = newest_loadable(Path(run.config.baseline or folders[0]) / "checkpoints" / "fp32")
    assert path is not None, f"{folders[0]} has no FP32 checkpoint"
    run.model.module.load_state_dict(load_weights(path))
    fp32 = score(run, run.model.module.eval(), "fp32")
    evaluations = {("ptq", name): ptq(run, name) for name in ("x86", "x86_vnni", "two largest")}
    for folder in folders:
        own = opened(folder, console)
        checkpoint = newest_loadable(folder / "checkpoints" / "qat")
        if checkpoint is not None:
            own = replace(own, config=replace(own.config, checkpoint=str(checkpoint)))
            program = convert(load_prepared(own))
            evaluations["qat", program.target] = score(own, lower(program, own.config.engines[0]), f"qat {program.target}")
    rows = []
    for (stage, name), found in evaluations.items():
        row = {"stage": stage, "bound": name, "metric": round(found.metric, 4), "drop": _difference(fp32, found)}
        other = evaluations.get((stage, "x86_vnni"))
        rows.append({**row, "below_vnni": _difference(other, found) if other is not None and other is not found else None})
    return {
        "data": f"{run.data.name} ({run.data.fingerprint})",
        "n": fp32.count,
        "seed": run.config.seed,
        "metric": next(iter(fp32.formulas)),
        "fp32": round(fp32.metric, 4),
        "rows": rows,
    }


def opened(folder: Path, console: Console) -> Run:
    return open_run(read_config(folder / "config.yaml"), None, console)


def ptq(run: Run, bound: str) -> Evaluation:
    """INT8 straight after calibration, for a target or with the earlier bound."""
    config = run.config.quantization
    target = "x86" if bound == "two largest" else bound
    changed = replace(run, config=replace(run.config, quantization=replace(config, target=target)))
    prepared = prepare_model(changed, run.model.module)
    if bound == "two largest":
        for module in prepared.modules():
            if isinstance(module, WeightFakeQuantize):
                module.layouts = (TwoLargest(),)
    calibrate(prepared, run.data.calibration_batches(config.calibration_batches), bias_correction=config.bias_correction)
    return score(run, lower(convert(prepared), run.config.engines[0]), f"ptq {bound}")


def _difference(a: Evaluation, b: Evaluation) -> list[float]:
    found = paired_difference(a, b)
    return [round(value, 3) for value in (found.value, *found.ci95)]


def page(content: dict[str, Any]) -> str:
    """The table of every recipe."""
    lines = [
        "# Accuracy per target",
        "",
        "`x86` runs on every x86 CPU: neighbouring weights of one sign add up to at most 128 in every layer. `x86_vnni` asks",
        "that of depthwise layers alone. *Two largest* is what an earlier qat asked of every layer on CPUs without VNNI: the",
        "two largest weights of a channel, wherever they stand. INT8 in points of the metric, on kernels; differences with",
        "95 % intervals of the paired bootstrap, positive is worse. Written by `scripts/targets.py`.",
        "",
        "| recipe | metric | n | FP32 | stage | bound | INT8 | drop from FP32 | below `x86_vnni` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for recipe, found in content["recipes"].items():
        for row in found["rows"]:
            cells = [
                f"`{recipe}` (seed {found['seed']})",
                found["metric"],
                found["n"],
                f"{found['fp32']:.2f}",
                row["stage"].upper(),
                f"`{row['bound']}`" if "x86" in row["bound"] else row["bound"],
                f"{row['metric']:.2f}",
                _words(row["drop"]),
                _words(row["below_vnni"]) if row["below_vnni"] else "",
            ]
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", measured_on(content), ""]
    return "\n".join(lines)


def _words(difference: list[float]) -> str:
    value, low, high = difference
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    both = verbs.add_parser("weights")
    both.add_argument("file", type=Path)
    both.add_argument("tuned", type=Path)
    verbs.add_parser("accuracy").add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    if options.verb == "weights":
        weights(options.file, options.tuned)
    else:
        accuracy(options.runs)


if __name__ == "__main__":
    main()
