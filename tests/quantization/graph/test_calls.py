"""Inputs in every structure that models take: captured, prepared, calibrated and run as INT8 the way the model is called."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.deploy.artifact import load
from qat.errors import CaptureError, InputError
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.graph.calls import InputSpec, flat_inputs, parsed
from qat.quantization.prepare import prepare
from qat.quantization.program.storage import save
from tests.quantization.graph.same import assert_same
from tests.quantization.networks import ConvNet

X, Z = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
ONES = torch.ones(1, 3, 1, 1)


@dataclass(frozen=True)
class Case:
    """A model that takes its inputs in some structure, and the names that they get."""

    forward: Callable[..., Tensor]
    example: Any
    names: list[str]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return free_form(self.forward, net=ConvNet())


def free_form(forward: Callable[..., Any], **layers: nn.Module) -> nn.Module:
    """A module with any signature."""
    module = type("FreeForm", (nn.Module,), {"forward": forward})()
    for name, layer in layers.items():
        module.add_module(name, layer)
    evaluated: nn.Module = module.eval()
    return evaluated


CASES = {
    "only input": Case(lambda m, x: m.net(x), X, ["x"]),
    "tuple": Case(lambda m, pair: m.net(pair[0]) + m.net(pair[1]), ((X, Z),), ["pair_0", "pair_1"]),
    "list in a dict": Case(lambda m, d: m.net(d["b"][0]) - m.net(d["a"]), ({"b": [X], "a": Z},), ["d_a", "d_b_0"]),
    "keywords": Case(lambda m, x, *, extra: m.net(x) * m.net(extra), {"extra": Z, "x": X}, ["extra", "x"]),
    "variadic": Case(lambda m, *xs: m.net(xs[0]) + m.net(xs[1]), (X, Z), ["xs_0", "xs_1"]),
    "variadic keywords": Case(lambda m, x, **kw: m.net(x) + m.net(kw["other"]), {"x": X, "other": Z}, ["x", "other"]),
    "broadcast": Case(lambda m, x, mask: m.net(x * mask), (X, ONES), ["x", "mask"]),
    "bool": Case(lambda m, x, mask: m.net(x * mask), (X, Z > 0), ["x", "mask"]),
    "bytes": Case(lambda m, x: m.net(x.float() / 255), torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8), ["x"]),
}


def call(model: nn.Module, example: Any) -> Any:
    if isinstance(example, dict):
        return model(**example)
    return model(example) if isinstance(example, Tensor) else model(*example)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_model_is_called_the_same_way_at_every_stage(case: Case) -> None:
    model = case.model()
    expected = call(model, case.example)
    prepared = prepare(model, case.example)
    assert sorted(spec.name for spec in prepared.inputs) == sorted(case.names)
    calibrate(prepared, [case.example], bias_correction=False)
    prepared.set_quantizing_(False)
    assert_same(call(prepared, case.example), expected)
    prepared.set_quantizing_(True)
    program = convert(prepared)
    exact = call(lower(program, "reference"), case.example)
    torch.testing.assert_close(exact, call(prepared, case.example), rtol=0, atol=0.02)
    assert torch.equal(call(lower(program, "fbgemm"), case.example), exact)


def test_numbers_and_none_become_part_of_the_graph() -> None:
    model = free_form(lambda m, x, scale, bias=None: m.net(x) * scale + (0 if bias is None else bias), net=ConvNet())
    prepared = prepare(model, (X, 3.0, None))
    prepared.set_quantizing_(False)
    assert_same(prepared(X), model(X, 3.0))
    with pytest.raises(InputError, match=r"an input is a float; .* part of the graph"):
        prepared(X, 2.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_in_other_floats_are_prepared_in_float32_and_take_every_float(dtype: torch.dtype) -> None:
    model = ConvNet().eval().to(dtype)
    prepared = prepare(model, X.to(dtype))
    assert {parameter.dtype for parameter in prepared.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    calibrate(prepared, [X.to(dtype)])
    int8 = lower(convert(prepared), "fbgemm")
    for network in (prepared, int8):
        assert torch.equal(network(X.to(dtype)), network(X.to(dtype).float()))


def test_inputs_named_like_pythons_own_are_given_by_their_names() -> None:
    prepared = prepare(nn.Linear(8, 8).eval(), {"input": torch.ones(4, 8)})
    calibrate(prepared, [{"input": torch.randn(4, 8), "label": torch.zeros(4)}])
    x = torch.randn(4, 8)
    assert torch.equal(prepared(input=x), prepared(x))
    int8 = lower(convert(prepared), "fbgemm")
    assert torch.equal(int8(input=x), int8(x))


def test_named_tuples_are_inputs_too() -> None:
    pair = namedtuple("pair", "a b")
    model = free_form(lambda m, p: m.net(p.a) - m.net(p.b), net=ConvNet())
    prepared = prepare(model, (pair(X, Z),))
    prepared.set_quantizing_(False)
    assert_same(prepared(pair(X, Z)), model(pair(X, Z)))


def test_models_of_buffers_alone_and_empty_batches_are_calibrated() -> None:
    model = free_form(lambda m, x: nn.functional.linear(x, m.w), w=nn.Identity())
    del model.w
    model.register_buffer("w", torch.randn(8, 8))
    prepared = prepare(model, torch.randn(4, 8))
    assert calibrate(prepared, [torch.randn(4, 8), torch.randn(0, 8)]) == 2
    assert prepared.to("cpu").device.type == "cpu"


def broken() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8))
    nn.init.constant_(model[0].weight, torch.nan)  # type: ignore[arg-type]
    return model


def test_half_precision_inside_of_forward_is_saved(tmp_path: Path) -> None:
    model = free_form(lambda m, x: m.layer((x.half() * 2).float()), layer=nn.Linear(8, 8))
    x = torch.randn(4, 8)
    prepared = prepare(model, x)
    calibrate(prepared, [x])
    program = convert(prepared)
    save(program, tmp_path / "artifact")
    assert torch.equal(load(tmp_path / "artifact")(x), lower(program, "fbgemm")(x))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: x, "the model is a function; give"),
        (nn.Sequential(nn.LazyLinear(8)), "weight '0.weight' has no shape yet"),
        (broken(), "weight '0.weight' holds NaN or infinity"),
    ],
    ids=["function", "lazy", "NaN"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_is_no_model_yet_is_refused_in_words(model: Any, words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        prepare(model, torch.randn(4, 8))


def test_index_tensors_may_be_narrow_strided_and_expanded() -> None:
    """BERT without token types expands a row of zeros."""
    model = free_form(lambda m, ids: m.layer(m.table(ids)), table=nn.Embedding(40, 16), layer=nn.Linear(16, 4))
    ids = torch.randint(0, 40, (6, 8))
    prepared = prepare(model, ids)
    calibrate(prepared, [ids])
    for engine in ("reference", "fbgemm"):
        int8 = lower(convert(prepared), engine)
        wide = torch.randint(0, 40, (8, 12)).t()
        assert torch.equal(int8(wide[::2]), int8(wide[::2].contiguous()))
        assert torch.equal(int8(ids[:1].expand(3, -1)), int8(ids[:1].repeat(3, 1)))
        assert torch.equal(int8(ids.int()), int8(ids))
        with pytest.raises(InputError, match=r"torch.int64 tensor .*got torch.float32"):
            int8(ids.float())


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((), "at least one"),
        (3, "example_inputs is a int; give a tuple of positional arguments or a dict"),
        ((X, object()), "an example input is a object"),
        ({"image": X}, "cannot be called with these example inputs: missing a required argument"),
        ((X, X, X), "cannot be called with these example inputs: too many positional arguments"),
    ],
)
def test_examples_that_no_model_takes_are_refused_in_words(inputs: Any, words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        prepare(ConvNet().eval(), inputs)


SPECS = [InputSpec(name=name, dtype=torch.int64, shape=(None, 8)) for name in ("input_ids", "attention_mask")]
IDS = torch.zeros(2, 8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((IDS,), {}, r"takes 2 inputs \(input_ids, attention_mask\), got 1"),
        ((IDS,), {"token_type_ids": IDS}, "no input 'token_type_ids'.*attention_mask"),
        ((IDS, IDS[:, :5]), {}, r"Dimension 1 was captured with the size 8 .*dynamic_dims=\[\(0, 1\), ...\]"),
        ((IDS, IDS > 0, IDS), {}, "got 3"),
    ],
)
def test_calls_that_do_not_fit_say_what_does(args: tuple[Tensor, ...], kwargs: dict[str, Tensor], words: str) -> None:
    with pytest.raises(InputError, match=words):
        flat_inputs(args, kwargs, SPECS)


def test_inputs_come_by_name_in_any_order_and_bools_count_as_integers() -> None:
    mask = IDS > 0
    found = flat_inputs((), {"attention_mask": mask, "input_ids": IDS}, SPECS)
    assert found[0] is IDS
    assert torch.equal(found[1], mask.long())
    assert flat_inputs((IDS,), {"attention_mask": mask}, SPECS)[0] is IDS
    assert flat_inputs((IDS, None), {"attention_mask": mask}, SPECS)[0] is IDS


def test_a_call_is_taken_apart_and_put_together() -> None:
    call, tensors = parsed(({"b": [X, 1], "a": Z}, None))
    assert [tensor is other for tensor, other in zip(tensors, (Z, X), strict=True)] == [True, True]
    args, kwargs = call.arguments(["first", "second"])
    assert args == ({"a": "first", "b": ["second", 1]}, None)
    assert kwargs == {}
