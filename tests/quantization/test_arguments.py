from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qat.quantization.arguments import convolution_settings, map_nodes
from qat.quantization.graph.capture import capture
from tests.quantization.networks import Inline


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ((1, 1), (0, 0), (1, 1), 1)),
        ({"stride": 2, "padding": (1, 2), "groups": 2}, ((2, 2), (1, 2), (1, 1), 2)),
        ({"dilation": (2, 1)}, ((1, 1), (0, 0), (2, 1), 1)),
    ],
)
def test_settings_of_a_convolution_are_given_in_full(options: dict[str, Any], expected: object) -> None:
    graph = capture(Inline(lambda m, x: m.conv(x), conv=nn.Conv2d(4, 4, 3, **options)), torch.randn(2, 4, 9, 9)).module.graph
    (node,) = [node for node in graph.nodes if str(node.target) == "aten.conv2d.default"]
    assert convolution_settings(node, 2) == expected


def test_nodes_are_replaced_wherever_they_stand() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    assert map_nodes(([x, 1], {"a": (x,)}), lambda node: node.name) == (["x", 1], {"a": ("x",)})
