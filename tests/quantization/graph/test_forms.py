"""Outputs in every structure that models return: the prepared model returns it too, INT8 its tuples, lists and dicts."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers.modeling_outputs import ImageClassifierOutput

from qat.errors import CaptureError
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.graph.forms import dressed, form_of, undressed
from qat.quantization.prepare import prepare
from qat.quantization.program.serialize import from_json, to_json
from tests.quantization.networks import ConvNet, Inline

X = torch.randn(4, 3, 8, 8)

Pair = namedtuple("Pair", "first second")


@dataclass
class Segmentation:
    logits: Tensor
    mask: Tensor
    loss: Tensor | None = None


FORMS: dict[str, Any] = {
    "list with a dict": lambda y: [y, {"a": (y * 2,)}],
    "ordered dict": lambda y: OrderedDict(out=y, aux=y * 2),
    "default dict": lambda y: defaultdict(list, b=y),
    "named tuple": lambda y: Pair(y, (y, y.argmax(1))),
    "dataclass": lambda y: Segmentation(y, y > 0),
    "model output": lambda y: ImageClassifierOutput(logits=y),
    "none and numbers": lambda y: (y, None, 3, "name"),
    "constant": lambda y: (y, torch.arange(4)),
    "batch size": lambda y: (y, y.shape[0]),
    "not a number": lambda y: (y, y * float("nan")),
}


@pytest.mark.parametrize("name", FORMS)
def test_outputs_keep_their_structure(name: str) -> None:
    torch.manual_seed(0)
    model = Inline(lambda m, x: FORMS[name](m.net(x)), net=ConvNet()).eval()
    prepared = prepare(model, X)
    calibrate(prepared, [X])
    program = convert(prepared)
    program = from_json(to_json(program), program.tensors)
    reference, exact = (lower(program, engine)(X) for engine in ("reference", "fbgemm"))
    expected, simulated = model(X), prepared(X)
    assert type(simulated) is type(expected)
    assert form_of(exact) == form_of(undressed(expected))
    leaves = (pytree.tree_leaves(undressed(value)) for value in (expected, simulated, reference, exact))
    for one, *others in zip(*leaves, strict=True):
        assert {type(other) for other in others} == {type(one)}
        if isinstance(one, Tensor):
            assert {(other.dtype, other.shape) for other in others} == {(one.dtype, one.shape)}
            torch.testing.assert_close(others[1], others[2], rtol=0, atol=0, equal_nan=True)
        else:
            assert others == [one] * 3


def test_tracing_leaves_no_dataclass_registered() -> None:
    known = set(pytree.SUPPORTED_NODES)
    prepare(Inline(lambda m, x: Segmentation(m.net(x), x), net=ConvNet()).eval(), X)
    assert set(pytree.SUPPORTED_NODES) == known


def test_forms_dress_what_they_undress() -> None:
    value = Pair([1, OrderedDict(a=2)], Segmentation(3, (4, None)))  # type: ignore[arg-type]
    assert undressed(value) == ([1, {"a": 2}], {"logits": 3, "mask": (4, None), "loss": None})
    assert dressed(undressed(value), form_of(value)) == value
    assert form_of(undressed(value)).is_plain
    assert not form_of(value).is_plain


def test_outputs_without_names_are_refused_in_words() -> None:
    model = Inline(lambda m, x: {0: m.net(x)}, net=ConvNet()).eval()
    with pytest.raises(CaptureError, match="returns a dict whose keys are no strings; wrap it"):
        prepare(model, X)


def test_prepared_models_with_named_outputs_train_as_the_model_does() -> None:
    prepared = prepare(Inline(lambda m, x: ImageClassifierOutput(logits=m.net(x)), net=ConvNet()).eval(), X)
    loss = nn.functional.cross_entropy(prepared(X).logits, torch.tensor([0, 1, 2, 3]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in prepared.parameters())
