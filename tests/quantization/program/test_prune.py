from __future__ import annotations

import torch
from torch.fx.immutable_collections import immutable_dict, immutable_list

from qat.quantization.program.program import Node, Ref, TensorRef
from qat.quantization.program.prune import alive, plain


def _node(name: str, *args: object) -> Node:
    return Node(name=name, op="aten.add.Tensor", args=args, kwargs={}, grid=None, layer="")


def test_what_no_output_depends_on_is_left_out_in_order() -> None:
    nodes = [
        _node("a", Ref("x"), TensorRef("w")),
        _node("unused", Ref("a"), TensorRef("v")),
        _node("b", Ref("a"), Ref("a")),
        _node("behind", Ref("unused")),
    ]
    tensors = {"w": torch.ones(1), "v": torch.zeros(1)}
    kept, used = alive(nodes, (Ref("b"), [Ref("x")]), tensors)
    assert [node.name for node in kept] == ["a", "b"]
    assert used.keys() == {"w"}


def test_containers_of_fx_become_plain_ones() -> None:
    value = (immutable_list([1, immutable_dict({"a": immutable_list([2])})]), "x")
    found = plain(value)
    assert found == ([1, {"a": [2]}], "x")
    assert type(found[0]) is list
    assert type(found[0][1]) is dict
