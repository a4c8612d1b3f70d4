"""What is traced is the model itself, whole; what is wrapped around it does not count."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from qat.errors import CaptureError
from qat.quantization.graph.plain import plain_copy
from tests.quantization.networks import ConvNet


def test_the_copy_is_in_eval_mode_in_float32_and_leaves_the_model_alone() -> None:
    model = ConvNet().train().half().to(memory_format=torch.channels_last)
    copied = plain_copy(model)
    assert not any(module.training for module in copied.modules())
    assert all(parameter.dtype == torch.float32 and parameter.is_contiguous() for parameter in copied.parameters())
    assert all(module.training for module in model.modules())
    assert all(parameter.dtype == torch.float16 for parameter in model.parameters())


def test_wrappers_are_taken_off() -> None:
    model = ConvNet()
    assert type(plain_copy(torch.compile(nn.DataParallel(model)))) is ConvNet  # type: ignore[arg-type]


def test_sharded_models_are_refused_with_what_to_do() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(CaptureError, match=r"is sharded by FSDP.*Prepare the model before"):
            plain_copy(model)
    finally:
        dist.destroy_process_group()
    old = type(FullyShardedDataParallel.__name__, (nn.Module,), {})  # it needs an accelerator to be made
    with pytest.raises(CaptureError, match=r"is sharded by FSDP"):
        plain_copy(nn.Sequential(old()))
