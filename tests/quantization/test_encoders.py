"""What encoders need, on one in plain PyTorch: tables, masks, shared weights, siblings, free lengths, padding."""

from __future__ import annotations

import math

import pytest
import torch

from qat.errors import ProgramError
from qat.quantization.analysis.parity import engine_parity, simulation_parity
from qat.quantization.convert import convert
from qat.quantization.engines import ENGINES, lower
from qat.quantization.fake_quantize import EmbeddingFakeQuantize, WeightFakeQuantize
from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef
from qat.quantization.qparams import quantize_weight, weight_scale
from tests.quantization.encoders import WIDTH, WORDS, TinyEncoder, encoder_inputs, prepared_encoder
from tests.quantization.networks import observed
from tests.quantization.programs import bound

SCORES = pytest.mark.parametrize("hidden_score", [-10000.0, float(torch.finfo(torch.float32).min), -math.inf])


def target_of(engine: str) -> str:
    return "any" if engine == "qnnpack" else "x86"


BOTH = pytest.mark.parametrize("engine", ["fbgemm", "qnnpack"])


@SCORES
@BOTH
def test_mask_is_never_observed_nor_added_to_integers(hidden_score: float, engine: str) -> None:
    """No range knows of the mask's value, no integer add stands anywhere, and padding gets no attention."""
    prepared = prepared_encoder(hidden_score, target=target_of(engine))
    ranges = [float(v) for _, module in prepared.fake_quantizes() for v in (observed(module).low, observed(module).high)]
    assert max(map(abs, ranges)) < 100
    program = convert(prepared)
    assert not [node for node in program.nodes if node.op == "int8.add"]
    masked = [node for node in program.nodes if node.op.startswith("aten.masked_fill")]
    assert masked
    assert all(node.grid is None for node in masked)
    ids, mask = encoder_inputs()
    other = torch.where(mask == 0, 7, ids)
    model = lower(program, engine)
    assert torch.equal(model(ids, mask), model(other, mask))
    assert bool(torch.isfinite(model(ids, mask)).all())


@SCORES
def test_fbgemm_equals_reference_on_other_batches_and_lengths(hidden_score: float) -> None:
    program = convert(prepared_encoder(hidden_score))
    fbgemm, reference = lower(program, "fbgemm"), lower(program, "reference")
    for rows, length in ((1, 2), (1, 17), (4, 9), (2, 40)):
        inputs = encoder_inputs(rows, length, padded=(length // 2,), seed=rows)
        assert torch.equal(fbgemm(*inputs), reference(*inputs))


@BOTH
def test_every_layer_agrees_with_reference_and_simulation(engine: str) -> None:
    prepared = prepared_encoder(target=target_of(engine))
    program = convert(prepared)
    inputs = encoder_inputs(4, 11, padded=(5, 2), seed=9)
    rows = engine_parity(program, engine, inputs)
    assert {row.name for row in rows} >= {node.name for node in program.layers()}
    assert max(row.max_steps for row in rows) <= (0 if engine == "fbgemm" else 1)
    simulated = simulation_parity(prepared, program, inputs)
    assert simulated
    assert max(row.max_steps for row in simulated) <= 1


def test_parity_sees_a_float_output_that_differs() -> None:
    """A layer that returns float is compared too: one weight that is another one shows as at least one step."""
    program = convert(prepared_encoder())
    inputs = encoder_inputs()
    assert all(row.max_steps == 0 for row in engine_parity(program, "fbgemm", inputs))
    name = next(program.layers()).args[1].name
    reference = lower(program, "reference").watch(*inputs)[1]
    program.tensors[name][0, :] = torch.where(program.tensors[name][0] > 0, -5, 5).to(torch.int8)
    other = lower(program, "fbgemm").watch(*inputs, replay=reference)[1]
    assert not torch.equal(other[next(program.layers()).name], reference[next(program.layers()).name])


@BOTH
def test_prepared_encoder_is_the_float_one_while_it_does_not_round(engine: str) -> None:
    torch.manual_seed(0)
    model = TinyEncoder().eval()
    prepared = prepared_encoder(target=target_of(engine))
    prepared.load_state_dict({**prepared.state_dict(), **{f"network.{k}": v for k, v in model.state_dict().items()}})
    prepared.set_quantizing_(False)
    inputs = encoder_inputs(2, 13)
    torch.testing.assert_close(prepared(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


def test_table_is_stored_as_int8_rows_with_a_scale_each() -> None:
    prepared = prepared_encoder()
    program = convert(prepared)
    table = prepared.network.get_parameter("words.weight").detach()
    scale = weight_scale(table)
    assert torch.equal(program.tensors["words.weight"], quantize_weight(table, scale))
    assert torch.equal(program.tensors["words.weight_scale"], scale)
    assert program.tensors["words.weight"].shape == (WORDS, WIDTH)


@pytest.mark.parametrize("engine", ENGINES)
def test_embedding_returns_rows_exactly(engine: str) -> None:
    program = convert(prepared_encoder(target=target_of(engine)))
    ids, mask = encoder_inputs()
    node = next(node for node in program.nodes if node.op == "int8.embedding" and node.args[1].name == "words.weight")
    found = lower(program, engine).watch(ids, mask)[1][node.name]
    weight, scale = program.tensors["words.weight"], program.tensors["words.weight_scale"]
    assert torch.equal(found, weight[ids].float() * scale[ids].unsqueeze(-1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("index", [WORDS, -1])
def test_index_outside_the_table_raises(engine: str, index: int) -> None:
    """A kernel that read past its table would return somebody else's memory."""
    program = convert(prepared_encoder(target=target_of(engine)))
    ids, mask = encoder_inputs()
    ids[0, 0] = index
    with pytest.raises((RuntimeError, IndexError), match=r"(?i)index|range"):
        lower(program, engine)(ids, mask)


def test_rounding_the_rows_that_were_looked_up_is_rounding_the_table() -> None:
    module, table = EmbeddingFakeQuantize(), torch.randn(30, 8, requires_grad=True)
    ids = torch.tensor([[3, 3, 7], [0, 29, 7]])
    integers, scale = module.quantize(table)
    rows = module(table[ids])
    assert torch.equal(rows, (integers.float() * scale.unsqueeze(1))[ids])
    rows.sum().backward()
    assert table.grad is not None
    assert torch.equal(table.grad[:, 0], torch.bincount(ids.flatten(), minlength=30).float())
    module.quantizing = False
    assert torch.equal(module(table), table)


def test_shared_weight_is_rounded_and_stored_once() -> None:
    """Two passes through one block: as many layers as calls, as many weights as the model has."""
    prepared = prepared_encoder()
    program = convert(prepared)
    quantizers = [m for m in prepared.modules() if isinstance(m, WeightFakeQuantize)]
    assert len(list(program.layers())) == 2 * 6 + 1
    assert len(quantizers) == 6 + 1
    weights = {node.args[1].name for node in program.layers()}
    assert weights == {f"{n}.weight" for n in "query key value out wide narrow head".split()}
    assert sum(name.endswith(".weight") for name in program.tensors if name.split(".")[0] != "norm") == 6 + 1 + 2


def test_one_activation_that_feeds_query_key_and_value_is_quantized_once() -> None:
    program = convert(prepared_encoder())
    sources = [node.args[0].name for node in program.layers()]
    assert max(sources.count(name) for name in sources) == 3
    model = bound(program, "fbgemm")
    merged = [step.name for step in model._steps if step.name.endswith("_and_siblings")]
    assert len(merged) == 2
    layers = {node.name for node in program.layers()}
    assert not [step.name for step in model._steps if step.name.endswith("_quantized")], "FBGEMM quantizes inside the layer"
    assert len(layers & {step.name for step in model._steps}) == len(layers), "every layer keeps its name"


def test_sample_does_not_see_its_batch() -> None:
    model = lower(convert(prepared_encoder()), "fbgemm")
    ids, mask = encoder_inputs(5, 16, padded=(7, 3))
    whole = model(ids, mask)
    for row in range(5):
        assert torch.equal(model(ids[row : row + 1], mask[row : row + 1])[0], whole[row])


@BOTH
def test_int8_depends_on_padding_no_more_than_float_does(engine: str) -> None:
    """One sentence padded to 16, 24 and 40 tokens: where float logits move by rounding, INT8 logits may move by a step."""
    torch.manual_seed(0)
    model = TinyEncoder().eval()
    int8 = lower(convert(prepared_encoder(target=target_of(engine))), engine)
    ids, mask = encoder_inputs(1, 9, padded=())
    padded = [tuple(torch.nn.functional.pad(x, (0, length - 9)) for x in (ids, mask)) for length in (16, 24, 40)]
    with torch.no_grad():
        moved = [float((model(*x) - model(*padded[0])).abs().max()) for x in padded]
    quantized = [float((int8(*x) - int8(*padded[0])).abs().max()) for x in padded]
    assert all(q == 0 or f > 0 for f, q in zip(moved, quantized, strict=True))
    assert max(quantized) <= 0.05 * float(int8(*padded[0]).abs().max())


def test_prepared_encoder_moves_its_inner_tensors_along() -> None:
    """An exported graph pins the device of `arange`; after `.to` it must be the model's."""
    prepared = prepared_encoder()
    made = [node for node in prepared.network.graph.nodes if "device" in node.kwargs]
    assert made
    prepared.to("meta")
    assert {str(node.kwargs["device"]) for node in made} == {"meta"}
    ids, mask = encoder_inputs()
    prepared.set_observing_(False)
    prepared.set_quantizing_(False)
    assert prepared(ids.to("meta"), mask.to("meta")).device.type == "meta"


@pytest.mark.parametrize(
    ("shape", "rows", "match"), [((5, 2, 3), 5, "two dimensions"), ((5, 3), 4, "its scale float32 of shape")]
)
def test_malformed_table_is_refused(shape: tuple[int, ...], rows: int, match: str) -> None:
    program = convert(prepared_encoder())
    node = Node(name="rows", op="int8.embedding", args=(Ref("ids"), TensorRef("t"), TensorRef("s")))
    with pytest.raises(ProgramError, match=match):
        Int8Program(
            inputs=program.inputs,
            nodes=(node,),
            output=Ref("rows"),
            tensors={"t": torch.zeros(shape, dtype=torch.int8), "s": torch.ones(rows)},
            target="x86",
        )


def test_training_moves_the_rows_that_were_read() -> None:
    prepared = prepared_encoder().train()
    ids, mask = encoder_inputs()
    prepared(ids, mask).square().sum().backward()
    gradient = prepared.network.get_parameter("words.weight").grad
    assert gradient is not None
    read = torch.zeros(WORDS, dtype=torch.bool).index_fill_(0, ids[mask == 1], True)
    assert bool((gradient[read].abs().sum(1) > 0).all())
    assert not bool(gradient[~read].any())
