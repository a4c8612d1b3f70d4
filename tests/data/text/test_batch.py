from __future__ import annotations

import pickle

import torch
from pytorch_lightning.utilities import move_data_to_device

from qat.data.batch import Examples
from qat.data.text.batch import IGNORED, TextBatch, UnitDataset
from qat.data.text.grammar import grammar_source
from tests.data.text.samples import encoder


def _dataset(kind: str, *, training: bool = False, count: int = 12) -> UnitDataset:
    parts = encoder(kind, max_length=24 if kind == "questions" else 64, stride=6)
    units, _ = parts.encode(grammar_source(kind=kind, train=count, test=1).train.examples, training=training)
    return UnitDataset(units, padding=parts.padding)


def _keys(*positions: int) -> list[tuple[int, int]]:
    return [(0, position) for position in positions]


def test_batch_is_padded_to_its_own_longest() -> None:
    dataset = _dataset("sentences")
    batch = dataset[_keys(0, 1, 2)]
    lengths = [dataset.units[i].length for i in range(3)]
    assert batch.inputs[0].shape == (3, max(lengths))
    assert batch.inputs[1].sum(1).tolist() == lengths
    assert torch.equal(batch.inputs[0] == 0, batch.inputs[1] == 0), "padding is [PAD], and only padding is"
    assert batch.targets.shape == (3,)


def test_tags_are_padded_with_what_cross_entropy_ignores() -> None:
    batch = _dataset("tags")[_keys(0, 1, 2, 3)]
    assert batch.targets.shape == batch.inputs[0].shape
    assert bool((batch.targets[batch.inputs[1] == 0] == IGNORED).all())


def test_question_brings_all_its_windows_and_knows_its_rows() -> None:
    dataset = _dataset("questions")
    batch = dataset[_keys(3, 4)]
    rows = [row for item in batch.examples.items for row in item.windows]
    assert rows == list(range(len(batch.inputs[0])))
    assert len(rows) > 2
    assert batch.targets.shape == (len(rows), 2)


def test_batch_moves_to_a_device_and_keeps_its_examples() -> None:
    batch = _dataset("tags")[_keys(0, 1)]
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, TextBatch)
    assert moved.inputs[0].device.type == "meta"
    assert moved.examples is batch.examples


def test_batch_travels_between_processes() -> None:
    batch = pickle.loads(pickle.dumps(_dataset("questions")[_keys(0)]))
    assert isinstance(batch.examples, Examples)
