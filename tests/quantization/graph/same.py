from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree


def assert_same(got: Any, expected: Any) -> None:
    """Equal structure; numbers equal up to the rounding of folded batch norms."""
    flat_got, structure_got = pytree.tree_flatten(got)
    flat_expected, structure_expected = pytree.tree_flatten(expected)
    assert structure_got == structure_expected
    for a, b in zip(flat_got, flat_expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
