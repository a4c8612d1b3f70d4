"""What the tests of artifacts write."""

from __future__ import annotations

from typing import Any

from tests.quantization.networks import CASES

METADATA: dict[str, Any] = {
    "task": "classification",
    "model": "tiny",
    "labels": ["a", "b", "c", "d", "e"],
    "preprocessing": {"kind": "image", "mean": [0.5], "std": [0.5]},
    "metrics": {"fp32": 90.0, "int8": 89.5},
    "recipe": "test",
    "commit": "abc",
}


PROGRAM = ("conv", "any")


INPUTS = CASES["conv"].inputs(2, seed=7)
