"""Training loops of one's own around a prepared model: accumulation, clipping, autocast, distributed."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.prepared import PreparedModel
from tests.quantization.networks import CASES, calibrated

X = CASES["conv"].inputs(8)
TARGETS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])


def trainable() -> PreparedModel:
    """Calibrated, with frozen ranges; its dropout off, so that steps can be compared."""
    prepared = calibrated("conv").eval()
    prepared.set_observing_(False)
    return prepared


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def step(model: nn.Module, x: Tensor = X, targets: Tensor = TARGETS, *, share: float = 1.0) -> Tensor:
    loss = F.cross_entropy(model(x).float(), targets) * share
    torch.autograd.backward(loss)
    return loss.detach()


def test_accumulated_gradients_are_those_of_the_big_batch() -> None:
    whole, parts = trainable(), trainable()
    step(whole)
    for half in (slice(0, 4), slice(4, 8)):
        step(parts, X[half], TARGETS[half], share=0.5)
    for one, other in zip(gradients(whole), gradients(parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_clipped_steps_lower_the_loss_and_convert() -> None:
    prepared = trainable()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.5)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(float(step(prepared)))
        assert float(nn.utils.clip_grad_norm_(prepared.parameters(), 0.1)) > 0.1
        assert float(torch.stack([grad.norm() for grad in gradients(prepared)]).norm()) <= 0.1001
        optimizer.step()
    assert losses[-1] < losses[0]
    assert bool(torch.isfinite(lower(convert(prepared), "fbgemm")(X)).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_gradients_by_its_rounding_and_grids_not_at_all(dtype: torch.dtype) -> None:
    exact, rounded = trainable(), trainable()
    step(exact)
    grids = rounded.grids()
    with torch.autocast("cpu", dtype=dtype):
        step(rounded)
    assert rounded.grids() == grids
    for one, other in zip(gradients(exact), gradients(rounded), strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).norm() / one.norm()) < 0.1
    assert torch.equal(lower(convert(rounded), "fbgemm")(X), lower(convert(exact), "fbgemm")(X))


def test_ranges_observed_under_autocast_are_within_its_rounding() -> None:
    exact, rounded = trainable(), trainable()
    for prepared in (exact, rounded):
        prepared.set_observing_(True)
    exact.train()(X[:4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded.train()(X[:4])
    theirs = dict(exact.fake_quantizes())
    for name, module in rounded.fake_quantizes():
        assert float(module.scale) == pytest.approx(float(theirs[name].scale), rel=0.05), name


def test_a_prepared_model_trains_in_ddp_and_is_the_same_inside() -> None:
    alone, wrapped = trainable(), trainable()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        ddp = DistributedDataParallel(wrapped)
        step(ddp)
    finally:
        dist.destroy_process_group()
    step(alone)
    for one, other in zip(gradients(alone), gradients(wrapped), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(lower(convert(wrapped), "fbgemm")(X), lower(convert(alone), "fbgemm")(X))


def test_a_network_in_evaluation_never_moves_ranges() -> None:
    """Whatever the switches say, in a loop that validates between its steps."""
    prepared = calibrated("conv")
    prepared.set_observing_(True)
    before = prepared.grids()
    with torch.no_grad():
        prepared.eval()(X * 50)
    assert prepared.grids() == before
    prepared.train()(X * 50)
    assert prepared.grids() != before
