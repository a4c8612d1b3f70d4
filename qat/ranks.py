"""The processes of a distributed training, called ranks; without one, this process is rank 0 of 1.

What is reduced here has to be asked for by every rank, in the same order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

Item = TypeVar("Item")

#: Rank 0 evaluates alone while the others wait; one that dies is noticed by its closed connection, not by this.
PATIENCE = timedelta(days=7)


def together() -> bool:
    """Whether there are other ranks."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """Which one this process is."""
    return distributed.get_rank() if together() else 0


def world_size() -> int:
    """How many there are."""
    return distributed.get_world_size() if together() else 1


def leads() -> bool:
    """Whether this is the rank that converts, evaluates and writes."""
    return rank() == 0


def join(*, accelerator: str) -> None:
    """Meet the ranks that torchrun has started; gloo on CPUs, NCCL between GPUs."""
    backend = "gloo" if accelerator == "cpu" or not torch.cuda.is_available() else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=PATIENCE)


def range_over_ranks(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest `low` and the largest `high` of all ranks, of any one shape: what one process would have seen that has the
    batches of all."""
    if not together():
        return low, high
    ends = torch.stack([-low, high])
    distributed.all_reduce(ends, op=distributed.ReduceOp.MAX)
    return -ends[0], ends[1]


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks; any shape, the same on all."""
    if together():
        x = x.clone()
        distributed.all_reduce(x)
    return x


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """What this rank takes of items that all ranks have: as many on every rank; all of them where there are too few."""
    each = len(items) // world_size()
    return items[rank() : each * world_size() : world_size()] if each else items


def any_rank(said: bool) -> bool:
    """Whether one of them says so."""
    return bool(sum_over_ranks(torch.tensor(int(said)))) if together() else said


def differences(values: Mapping[str, object]) -> str:
    """Where plain nested values differ between the ranks, in words, the same on every rank; empty when they are equal."""
    if not together():
        return ""
    flat = _flat(values)
    hashes: list[object] = [None] * world_size()
    distributed.all_gather_object(hashes, hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest())
    if len(set(hashes)) == 1:
        return ""
    everyone: list[Any] = [None] * world_size()
    distributed.all_gather_object(everyone, flat)
    keys = sorted({key for each in everyone for key in each} | everyone[0].keys())
    differing = [key for key in keys if any(each.get(key) != everyone[0].get(key) for each in everyone)]
    return "; ".join(
        f"{key}: " + ", ".join(f"rank {i} {each.get(key)!r}" for i, each in enumerate(everyone)) for key in differing
    )


def _flat(value: object, name: str = "") -> dict[str, object]:
    """Dotted key -> plain value."""
    if isinstance(value, Mapping) and value:
        parts = [_flat(part, f"{name}.{key}" if name else str(key)) for key, part in value.items()]
        return {key: part for each in parts for key, part in each.items()}
    return {name: value}
