"""`len(tensor)` during capture: the free batch size instead of a number that pins it.

Models write `len(x)` for `x.shape[0]` (RT-DETR, D-FINE and their kin do). Python's `len` must return an integer, so a traced
batch size becomes the one of the example. While the graph is traced, `len` in the files of the model's own classes returns
`x.shape[0]`; the files of PyTorch are left alone, and nothing is changed in a model that runs.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def free_lengths(model: nn.Module) -> Iterator[None]:
    """Let `len` of a tensor be its first size, in every file that defines a class of `model`."""
    names = {kind.__module__ for part in model.modules() for kind in type(part).__mro__}
    own = (name for name in names if name.partition(".")[0] not in ("torch", "builtins") and name in sys.modules)
    files = [vars(sys.modules[name]) for name in own]
    patched = [file for file in files if "len" not in file]
    for file in patched:
        file["len"] = _first_size
    try:
        yield
    finally:
        for file in patched:
            file.pop("len", None)


def _first_size(x: Sized) -> int:
    return x.shape[0] if isinstance(x, Tensor) else builtins.len(x)
