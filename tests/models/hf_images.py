"""Small configurations of Hugging Face's image classifiers, and data of three classes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

DATA: Any = SimpleNamespace(labels=("x", "y", "z"))

VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 8,
}

CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
