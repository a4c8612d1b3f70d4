"""What data loaders yield, in every form, and what is refused in words."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from qat.errors import CalibrationError, ConfigError
from qat.quantization.batches import inputs_of
from qat.quantization.calibrate import calibrate
from qat.quantization.graph.calls import InputSpec
from qat.quantization.prepare import prepare

IMAGES = InputSpec(name="x", dtype=torch.float32, shape=(None, 3, 8, 8))
IDS = InputSpec(name="input_ids", dtype=torch.int64, shape=(None, None))
MASK = InputSpec(name="attention_mask", dtype=torch.int64, shape=(None, None))

X, Y = torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)
A, B = torch.ones(4, 7, dtype=torch.int64), torch.zeros(4, 7, dtype=torch.int64)


def _inside(name: str) -> InputSpec:
    return InputSpec(name=name, dtype=torch.int64, shape=(None, None))


TAKEN: dict[str, tuple[Any, list[InputSpec], list[Tensor]]] = {
    "tensor": (X, [IMAGES], [X]),
    "tuple of one": ((X,), [IMAGES], [X]),
    "list with labels": ([X, Y], [IMAGES], [X]),
    "tuple with labels and paths": ((X, Y, ["a", "b", "c", "d"]), [IMAGES], [X]),
    "inputs of their own, then labels": (((A, B), Y), [IDS, MASK], [A, B]),
    "list of lists": ([[X], [Y]], [IMAGES], [X]),
    "dict": ({"x": X, "labels": Y}, [IMAGES], [X]),
    "dict in another order": ({"labels": Y, "attention_mask": B, "input_ids": A}, [IDS, MASK], [A, B]),
    "ordered dict, then labels": ((OrderedDict(input_ids=A, attention_mask=B), Y), [IDS, MASK], [A, B]),
    "two inputs and labels in a row": ([A, B, Y], [IDS, MASK], [A, B]),
    "an argument that is a dict": (({"b": B, "a": A}, Y), [_inside("batch_a"), _inside("batch_b")], [A, B]),
    "a tuple of inputs, one more, and labels": (((A, B), X, Y), [_inside("pair_0"), _inside("pair_1"), IMAGES], [A, B, X]),
}


@pytest.mark.parametrize("name", TAKEN)
def test_inputs_are_found_in_a_batch(name: str) -> None:
    batch, specs, expected = TAKEN[name]
    found = inputs_of(batch, specs)
    assert len(found) == len(expected)
    assert all(one is other for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("batch", "specs", "words"),
    [
        (
            {"images": X, "labels": Y},
            [IMAGES],
            r"a mapping with 'images', 'labels', and the model takes x: float32 \(any, 3, 8, 8\)",
        ),
        (
            X,
            [IDS, MASK],
            r"a float32 tensor of shape \(4, 3, 8, 8\), .* takes input_ids: int64 \(any, any\), attention",
        ),
        ((A,), [IDS, MASK], r"a tuple of a int64 tensor"),
        ([], [IMAGES], "a list of nothing"),
        ("x", [IMAGES], "a str, and the model"),
        (None, [IMAGES], "a NoneType"),
        ([Y, X], [IMAGES], r"input 'x' must be a torch.float32 tensor .* got torch.int64 of shape \(4,\)"),
        (torch.randn(4, 3, 9, 9), [IMAGES], r"got torch.float32 of shape \(4, 3, 9, 9\)"),
        ((A.float(), B), [IDS, MASK], "input 'input_ids' must be a torch.int64 tensor .* got torch.float32"),
    ],
)
def test_batch_without_the_inputs_is_refused_in_words(batch: object, specs: list[InputSpec], words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        inputs_of(batch, specs)


def test_calibrate_takes_a_data_loader_of_images_and_labels_up_to_a_limit() -> None:
    loader = DataLoader(TensorDataset(torch.randn(40, 3, 8, 8), torch.zeros(40)), batch_size=8)
    prepared = prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4)), (X,))
    seen: list[int] = []
    assert calibrate(prepared, loader, limit=3, progress=seen.append) == 3
    assert seen == [1, 2, 3]
    assert calibrate(prepared, loader, limit=99) == 5
    with pytest.raises(ConfigError, match="limit of at least 1 batch, got 0"):
        calibrate(prepared, loader, limit=0)
