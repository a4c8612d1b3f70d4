"""The real files: every line read, counted as their descriptions say, and encoded with BERT's vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import BertTokenizerFast  # type: ignore[attr-defined]

from qat.data.text.batch import IGNORED
from qat.data.text.encode import Encoder
from qat.data.text.files import text_source
from qat.data.text.source import Tagged


@pytest.fixture(scope="module")
def encoder(shared_data: Path) -> Encoder:
    tokenizer = BertTokenizerFast.from_pretrained(str(shared_data / "bert_vocab"))  # a vocabulary alone names no class
    assert len(tokenizer) == 30522
    return Encoder(tokenizer=tokenizer, inputs=("input_ids", "attention_mask"), max_length=64)


def test_sst2_has_its_rows_and_classes(shared_data: Path, encoder: Encoder) -> None:
    source = text_source(shared_data / "sst2", train="train.tsv", test="dev.tsv", text_column="sentence", labels="labels.json")
    assert source.labels == ("negative", "positive")
    assert (len(source.train.examples), len(source.test.examples)) == (67_349, 872)
    assert np.bincount(source.train.targets).tolist() == [29_780, 37_569]
    assert np.bincount(source.test.targets).tolist() == [428, 444]
    units, cut = encoder.encode(source.test.examples, training=False)
    assert (len(units), cut) == (872, 0)
    encoder.check_known(source.test.examples)


def test_trec_has_its_rows_and_coarse_classes(shared_data: Path) -> None:
    source = text_source(
        shared_data / "trec", train="train.tsv", test="test.tsv", text_column="sentence", labels="labels.json:coarse"
    )
    assert source.labels == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    assert (len(source.train.examples), len(source.test.examples)) == (5_452, 500)


def test_wnut17_has_its_sentences_words_and_entities(shared_data: Path, encoder: Encoder) -> None:
    files = {"train": "train.conll", "val": "dev.conll", "test": "test.conll"}
    source = text_source(shared_data / "wnut17", **files, labels="labels.json")
    counts = []
    for table in source.tables().values():
        examples = [e for e in table.examples if isinstance(e, Tagged)]
        begins = [source.labels[tag].startswith("B-") for e in examples for tag in e.tags]
        counts.append((len(examples), len(begins), sum(begins)))
    assert counts == [(3_394, 62_730, 1_975), (1_009, 15_733, 836), (1_287, 23_394, 1_079)]
    units, cut = encoder.encode(source.test.examples, training=False)
    assert cut > 0, "some tweets are longer than 64 tokens"
    for unit, example in zip(units, source.test.examples, strict=True):
        assert isinstance(example, Tagged)
        target = unit.windows[0].target
        assert isinstance(target, tuple)
        assert [t for t in target if t != IGNORED] == [example.tags[word] for word in unit.item.seen]
