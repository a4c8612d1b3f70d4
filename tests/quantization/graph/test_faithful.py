"""A graph has one way through the model: what goes another way for other sizes is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qat
from qat.errors import CaptureError
from qat.quantization.graph.calls import InputSpec
from qat.quantization.graph.capture import capture
from qat.quantization.graph.faithful import other_sizes
from tests.quantization.networks import CASES, Inline


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y.softmax(0) if y.shape[0] > 1 else y.sigmoid()


def test_model_that_treats_a_batch_of_one_in_another_way_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"Branching goes another way for a batch of 1 than for the example inputs"):
        qat.prepare(Branching().eval(), (torch.randn(4, 16),))


def test_model_that_takes_no_batch_of_one_is_not_asked() -> None:
    def several(m: Inline, x: Tensor) -> Tensor:
        if x.shape[0] < 2:
            raise ValueError("give several")
        y: Tensor = m.get_submodule("a")(x)
        return y

    assert capture(Inline(several, a=nn.Linear(16, 8)).eval(), (torch.randn(4, 16),)).inputs


def test_model_that_treats_a_length_in_another_way_is_refused() -> None:
    def odd(m: Inline, x: Tensor) -> Tensor:
        y: Tensor = m.get_submodule("a")(x)
        return y if x.shape[1] == 8 else -y

    with pytest.raises(CaptureError):
        capture(Inline(odd, a=nn.Linear(16, 8)).eval(), (torch.randn(4, 8, 16),), dynamic_dims=[(0, 1)])


@pytest.mark.parametrize("name", CASES)
def test_networks_are_the_same_at_every_size(name: str) -> None:
    assert capture(CASES[name].model(), (CASES[name].inputs(),)).inputs


def test_sizes_are_those_that_are_free() -> None:
    ids, mask = torch.zeros(4, 9, dtype=torch.int64), torch.ones(4, 9)
    specs = [InputSpec(name=n, dtype=x.dtype, shape=(None, None)) for n, x in (("ids", ids), ("mask", mask))]
    found = {words: [tuple(x.shape) for x in inputs] for words, inputs in other_sizes((ids, mask), specs)}
    assert found == {"a batch of 1": [(1, 9), (1, 9)], "a length of 8 in dimension 1": [(4, 8), (4, 8)]}
    fixed = [InputSpec(name="x", dtype=ids.dtype, shape=(4, 9))]
    assert list(other_sizes((ids,), fixed)) == []
