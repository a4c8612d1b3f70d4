"""Functions run by several ranks at once, on this machine with gloo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn


def in_ranks(function: Callable[[], Any], folder: Path, *, count: int = 2) -> list[Any]:
    """What `function`, importable by name, returns on each of `count` ranks."""
    spawn(_rank, args=(count, str(folder), function), nprocs=count)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _rank(rank: int, count: int, folder: str, function: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    torch.save(function(), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()
