"""What the matrices of models share: the whole flow for one model, what stays float and why."""

from __future__ import annotations

import gc
import json
import math
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import qat
from qat.errors import QatError
from qat.quantization.analysis.coverage import Coverage
from qat.quantization.graph.forms import undressed

Row = dict[str, Any]

Item = TypeVar("Item")

#: Seconds after which a model counts as hanging.
PATIENCE = 300


class HangingError(Exception):
    """A stage that does not end."""


def flow(model: nn.Module, example: Any, *, other: Any = None, dynamic_dims: Any = None, small: Any = None) -> Row:
    """One model through capture, prepare, calibrate, a training step, convert and `fbgemm`, which must equal `reference` bit
    for bit on the example and on `other`.

    Args:
        example, other: inputs, see `qat.prepare`.
        small: the batch whose multiply-adds are counted; the example where it is not given.

    Returns:
        `reason` (None when everything held), `stage` where it ended, `refused` (said in words, before training), and figures.
    """
    torch.manual_seed(0)
    start = time.perf_counter()
    row: Row = {"reason": None, "stage": "prepare", "refused": False}
    try:
        with _deadline():
            _flow(row, model, example, other, dynamic_dims, small)
    except Exception as error:
        text = re.sub(r"/\S*site-packages/", "", f"{type(error).__name__}: {error}")  # no path of this machine
        row["reason"] = " ".join(text.split())[:220]
        row["refused"] = row["stage"] == "prepare" and isinstance(error, QatError)
    row["seconds"] = round(time.perf_counter() - start, 1)
    gc.collect()
    return row


def _flow(row: Row, model: nn.Module, example: Any, other: Any, dynamic_dims: Any, small: Any) -> None:
    start = time.perf_counter()
    prepared = qat.prepare(model.eval(), example, dynamic_dims=dynamic_dims)
    row["prepare_s"] = round(time.perf_counter() - start, 1)
    row["stage"] = "calibrate"
    qat.calibrate(prepared, [example])
    row["stage"] = "train"
    row["step_loss"] = train_step(prepared, _distance, example)
    row["stage"] = "convert"
    program = qat.convert(prepared)
    row["stage"] = "run"
    reference, fbgemm = qat.lower(program, "reference"), qat.lower(program, "fbgemm")
    row["bit_equal"] = True
    for inputs in [example] if other is None else [example, other]:
        ours, theirs = floats(call(fbgemm, inputs)), floats(call(reference, inputs))
        row["bit_equal"] &= all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    found = qat.coverage(prepared, list(pytree.tree_leaves(example if small is None else small)))
    row["macs"], row["macs_int8"] = found.macs, round(found.macs_int8, 4)
    row["integer_ops"], row["float_ops"] = sum(found.integer_ops.values()), summary(found)
    with torch.no_grad(), prepared.evaluating():
        row["sqnr_db"] = sqnr(floats(call(prepared, example))[0], floats(call(fbgemm, example))[0])
    row["stage"] = "done"
    if not row["bit_equal"]:
        row["reason"] = "fbgemm differs from reference"
    elif not math.isfinite(row["step_loss"]):
        row["reason"] = "NaN or infinity"


@contextmanager
def _deadline() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangingError(f"over {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call a model as its example says."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(inputs) if isinstance(inputs, Tensor) else model(*inputs)


def floats(output: Any) -> list[Tensor]:
    """The float tensors of an output; `ValueError` when there is none."""
    found = [x for x in pytree.tree_leaves(undressed(output)) if isinstance(x, Tensor) and x.dtype.is_floating_point]
    if not found:
        raise ValueError("the model returns no float tensor")
    return found


def _distance(output: Any) -> Tensor:
    """How far the outputs are from 1: heads that begin at 0 have a gradient too."""
    finite = [torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0) for x in floats(output)]
    return torch.stack([(x - 1).square().mean() for x in finite]).sum()


def settle_batch_norms(model: nn.Module, x: Any) -> None:
    """Running statistics of one random batch, as a trained network has some; fresh ones let deep networks overflow."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        call(model.train(), x)
    model.eval()


def pixels(model: nn.Module) -> int:
    """Height and width of the images that a model of timm is built for."""
    stated = model.default_cfg
    assert isinstance(stated, dict)
    return int(stated["input_size"][-1])


def train_step(prepared: nn.Module, loss_of: Callable[[Any], Tensor], inputs: Any) -> float:
    """One step of SGD; the loss. `RuntimeError` when it changed no weight."""
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in prepared.parameters()]
    loss = loss_of(call(prepared, inputs))
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(prepared.parameters(), 1.0)
    optimizer.step()
    if all(torch.equal(old, new) for old, new in zip(before, prepared.parameters(), strict=True)):
        raise RuntimeError("a training step changed no weight")
    return round(float(loss.detach()), 4)


def sqnr(simulated: Tensor, int8: Tensor) -> float | None:
    """10 log10(signal / difference) in dB; None when they are equal."""
    noise = float((simulated - int8).square().sum())
    return round(10 * math.log10(float(simulated.square().sum()) / noise), 1) if noise > 0 else None


def summary(coverage: Coverage) -> dict[str, str]:
    """Float ops by name: how many, and the first reason."""
    found: dict[str, list[str]] = {}
    for op in coverage.float_ops:
        found.setdefault(op.op.removeprefix("aten.").split(".")[0], []).append(op.reason)
    return {name: f"{len(reasons)}: {reasons[0]}" for name, reasons in sorted(found.items())}


def table(rows: list[Row]) -> list[str]:
    """The table of a matrix: models that pass, then those refused before training, then the others."""
    lines = [
        "| model | passes | MACs in INT8 | integer ops | float ops | SQNR dB | prepare s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = ", ".join(f"{name} {text.split(':')[0]}" for name, text in row.get("float_ops", {}).items()) or "none"
        share = f"{row['macs_int8']:.1%}" if "macs_int8" in row else ""
        decibels = "equal" if row.get("sqnr_db", 0) is None else row.get("sqnr_db", "")
        verdict = "yes" if row["reason"] is None else ("refused: " if row["refused"] else "no: ") + row["reason"]
        counted = [share, row.get("integer_ops", ""), found if share else ""]
        cells = [row["model"], verdict.replace("|", "\\|"), *counted, decibels, row.get("prepare_s", "")]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


def check_all(items: Sequence[Item], check: Callable[[Item], Row], *, description: str) -> list[Row]:
    """A row per item, printed as soon as it is known."""
    rows = []
    for item in track(items, description=description):
        rows.append(check(item))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def failed(rows: Sequence[Row]) -> bool:
    """Whether something was neither right nor refused in words."""
    return any(row["reason"] is not None and not row["refused"] for row in rows)


def verdict(rows: list[Row]) -> str:
    """How many pass, are refused, fail, in words."""
    passed = sum(row["reason"] is None for row in rows)
    refused = sum(row["refused"] for row in rows)
    return (
        f"{passed} of {len(rows)} pass, {refused} are refused by `prepare` in words, {len(rows) - passed - refused} fail later"
    )
