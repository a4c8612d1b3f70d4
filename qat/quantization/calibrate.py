"""Calibrate: run batches through the observers, no gradient. This alone is post-training quantization (PTQ)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch

from qat.errors import CalibrationError, ConfigError
from qat.quantization.batches import inputs_of
from qat.quantization.prepared import PreparedModel
from qat.quantization.ptq.bias_correction import BiasCorrection
from qat.quantization.ptq.smoothing import Outliers, smooth_

_LOG = logging.getLogger(__name__)


def calibrate(
    prepared: PreparedModel,
    batches: Iterable[object],
    *,
    limit: int | None = None,
    bias_correction: bool = True,
    smoothing: bool = True,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Measure every activation's range on float activations, then switch rounding on and freeze the ranges.

    In a distributed training all ranks calibrate, each on as many batches of its own; they end with the same ranges.

    Args:
        batches: a data loader, or any iterable of batches: tensors, lists or tuples that begin with the inputs (labels may
            follow), dicts that have them by name. They are moved to where the model is.
        limit: take so many batches at most.
        smoothing: move outlier channels into the weights that read them, judged by the first batch (see smoothing.py).
        bias_correction: let biases take back the mean shift that rounding the weights makes (see bias_correction.py).
        progress: called after every batch with the number of batches seen.

    Returns:
        The number of batches seen.

    Raises:
        CalibrationError: no batch, a batch without the inputs, or one that leads to NaN or infinity.
        ConfigError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"calibrate takes a limit of at least 1 batch, got {limit}")
    device = prepared.device
    prepared.set_observing_(True)
    prepared.set_quantizing_(False)
    correction = BiasCorrection(prepared)
    count = 0
    with torch.no_grad(), prepared.evaluating():
        for _, module in prepared.fake_quantizes():
            module.train()  # ranges move in training mode, and dropouts drop
        for count, batch in enumerate(islice(batches, limit), start=1):
            inputs = tuple(tensor.to(device) for tensor in inputs_of(batch, prepared.inputs))
            if smoothing and count == 1:
                _say(smooth_(prepared, inputs))
            if bias_correction:
                correction.observe(*inputs)
            else:
                prepared(*inputs)
            _check_finite(prepared, count)
            if progress is not None:
                progress(count)
    if count == 0:
        raise CalibrationError("the calibration set is empty; give at least one batch (calibration.batches >= 1)")
    correction.apply_()
    for _, module in prepared.fake_quantizes():
        module.refresh_()
    prepared.set_observing_(False)
    prepared.set_quantizing_(True)
    return count


def _say(outliers: Sequence[Outliers]) -> None:
    """Log the tensors whose outlier channels cost the others most of the grid, and what helps."""
    if not outliers:
        return
    worst = sorted(outliers, key=lambda found: -found.ratio)[:3]
    named = ", ".join(f"{found.tensor} ({found.ratio:.0f} times the median channel)" for found in worst)
    layers = ", ".join(repr(layer) for found in worst for layer in found.layers)
    _LOG.warning(
        "outlier channels in front of linear layers: %s%s. The others share what is left of the grid. Compare layers in float "
        "and INT8 (qat-inspect, column 'float dB'); keep_float=[%s] takes them off the grid",
        named,
        f" and {len(outliers) - 3} more" if len(outliers) > 3 else "",
        layers,
    )


def _check_finite(prepared: PreparedModel, count: int) -> None:
    names, modules = zip(*prepared.fake_quantizes(), strict=True)
    ranges = torch.stack([module.extent() for module in modules])
    bad = (~torch.isfinite(ranges)).nonzero().flatten().tolist()
    if bad:
        raise CalibrationError(
            f"calibration batch {count} gives NaN or infinity, first in tensor {names[bad[0]]!r}; "
            "check the data for NaN and the weights for overflow"
        )
