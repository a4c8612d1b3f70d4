"""Calibrate: run batches through the observers, no gradient. This alone is post-training quantization (PTQ)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import torch

from qat.errors import CalibrationError, ConfigError
from qat.quantization.batches import inputs_of
from qat.quantization.prepared import PreparedModel
from qat.quantization.ptq.bias_correction import BiasCorrection


def calibrate(
    prepared: PreparedModel,
    batches: Iterable[object],
    *,
    limit: int | None = None,
    bias_correction: bool = True,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Measure every activation's range on float activations, then switch rounding on and freeze the ranges.

    In a distributed training all ranks calibrate, each on as many batches of its own; they end with the same ranges.

    Args:
        batches: a data loader, or any iterable of batches: tensors, lists or tuples that begin with the inputs (labels may
            follow), dicts that have them by name. They are moved to where the model is.
        limit: take so many batches at most.
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
    device = next(prepared.parameters()).device
    prepared.set_observing_(True)
    prepared.set_quantizing_(False)
    correction = BiasCorrection(prepared)
    count = 0
    with torch.no_grad():
        for count, batch in enumerate(islice(batches, limit), start=1):
            inputs = tuple(tensor.to(device) for tensor in inputs_of(batch, prepared.inputs))
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


def _check_finite(prepared: PreparedModel, count: int) -> None:
    names, modules = zip(*prepared.fake_quantizes(), strict=True)
    ranges = torch.stack([module.extent() for module in modules])
    bad = (~torch.isfinite(ranges)).nonzero().flatten().tolist()
    if bad:
        raise CalibrationError(
            f"calibration batch {count} gives NaN or infinity, first in tensor {names[bad[0]]!r}; "
            "check the data for NaN and the weights for overflow"
        )
