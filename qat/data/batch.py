"""What batches of every kind share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar, final

Item = TypeVar("Item")


@final
class Examples(Generic[Item]):
    """What a task reads of each example beside the tensors; opaque, so that moving a batch to a device leaves it alone."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = tuple(items)
