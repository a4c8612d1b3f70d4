"""Calibrate: run batches through the observers, no gradient. This alone is post-training quantization (PTQ)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from qat.errors import CalibrationError
from qat.quantization.prepared import PreparedModel
from qat.quantization.ptq.bias_correction import BiasCorrection


def calibrate(prepared: PreparedModel, batches: Iterable[Tensor | tuple[Tensor, ...]], *, bias_correction: bool = True) -> int:
    """Measure every activation's range on float activations, then switch rounding on and freeze the ranges.

    In a distributed training all ranks calibrate, each on as many batches of its own; they end with the same ranges.

    Args:
        batches: inputs of the model, one tensor or a tuple of tensors per batch.
        bias_correction: let biases take back the mean shift that rounding the weights makes (see bias_correction.py).

    Returns:
        The number of batches seen.

    Raises:
        CalibrationError: no batch, or a batch that leads to NaN or infinity.
    """
    prepared.set_observing_(True)
    prepared.set_quantizing_(False)
    correction = BiasCorrection(prepared)
    count = 0
    with torch.no_grad():
        for count, batch in enumerate(batches, start=1):
            inputs = batch if isinstance(batch, tuple) else (batch,)
            if bias_correction:
                correction.observe(*inputs)
            else:
                prepared(*inputs)
            _check_finite(prepared, count)
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
