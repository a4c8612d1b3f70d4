"""What could not be converted is said by prepare, before anything is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qat
from qat.errors import CalibrationError, ConvertError
from qat.quantization.convertible import check_convertible
from tests.quantization.networks import CASES, Inline


class Drawn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.histc(x, 4).expand(x.shape[0], 4) + x[:, :4]


def test_op_that_no_program_holds_is_said_with_its_layer() -> None:
    model = nn.Sequential(nn.Linear(16, 16), Drawn(), nn.Linear(4, 4)).eval()
    with pytest.raises(ConvertError, match=r"aten\.histc\.default in layer '1' is no op that an INT8 program may hold"):
        qat.prepare(model, (torch.randn(4, 16),))


def test_op_that_pytorch_makes_of_no_others_is_said() -> None:
    model = Inline(lambda m, x: torch.special.bessel_j0(m.linear(x)), linear=nn.Linear(3, 4)).eval()
    with pytest.raises(ConvertError, match="special_bessel_j0"):
        qat.prepare(model, (torch.randn(2, 3),))


@pytest.mark.parametrize("name", CASES)
def test_check_leaves_the_prepared_model_as_it_is(name: str) -> None:
    prepared = qat.prepare(CASES[name].model(), (CASES[name].inputs(),))
    before = {key: value.clone() for key, value in prepared.state_dict().items()}
    check_convertible(prepared)
    assert all(torch.equal(before[key], value) for key, value in prepared.state_dict().items())
    with pytest.raises(CalibrationError):
        qat.convert(prepared)
