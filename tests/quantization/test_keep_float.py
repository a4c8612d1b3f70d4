"""keep_float: which layers a pattern means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qat.errors import KeepFloatError
from qat.quantization.graph.capture import capture
from qat.quantization.placement import place
from qat.quantization.targets import TARGETS


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(8, 8, 1)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)) for _ in range(2)])
        self.head = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.head(x)
        return y


#: In order: stem, blocks.0.0, blocks.0.2, blocks.1.0, blocks.1.2, head
ALL = {"conv2d": "stem", **{f"conv2d_{i + 1}": f"blocks.{i // 2}.{i % 2 * 2}" for i in range(4)}, "conv2d_5": "head"}


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (["head"], {"head"}),
        (["blocks.1.0"], {"blocks.1.0"}),
        (["blocks.1"], {"blocks.1.0", "blocks.1.2"}),
        (["blocks"], {"blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2"}),
        (["blocks.*.2"], {"blocks.0.2", "blocks.1.2"}),
        (["*ea?"], {"head"}),
        (["stem", "head"], {"stem", "head"}),
    ],
)
def test_keep_float_matches_names_globs_and_enclosing_modules(patterns: list[str], kept: set[str]) -> None:
    graph = capture(Nested().eval(), (torch.randn(2, 8, 4, 4),)).module.graph
    placement = place(graph, TARGETS["x86"], keep_float=patterns)
    layers = {ALL[name] for name in placement.kernels if name in ALL}
    assert layers == set(ALL.values()) - kept
    assert {ALL[name] for name, reason in placement.reasons.items() if "keep_float" in reason and name in ALL} == kept


@pytest.mark.parametrize(("pattern", "hint"), [("haed", "head"), ("blocks.1.1x", "blocks.1.1"), ("steem.*", "stem")])
def test_keep_float_refuses_a_pattern_that_matches_nothing(pattern: str, hint: str) -> None:
    graph = capture(Nested().eval(), (torch.randn(2, 8, 4, 4),)).module.graph
    with pytest.raises(KeepFloatError) as error:
        place(graph, TARGETS["x86"], keep_float=["stem", pattern])
    assert repr(pattern) in str(error.value)
    assert "Did you mean" in str(error.value)
    assert repr(hint) in str(error.value).split("Allowed")[0]
