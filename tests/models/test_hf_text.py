"""Hugging Face encoders from local folders and from configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, RobertaConfig, RobertaModel

from qat.data.text.grammar import grammar_source
from qat.data.text.source import TextSource
from qat.errors import ConfigError
from qat.models.hf_text import HEADS, build_hf_text, inputs_of, positions_of
from qat.quantization.graph.capture import capture

SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}


def _data(kind: str = "sentences") -> TextSource:
    return grammar_source(kind=kind, train=100, test=10)


def _build(**changes: Any) -> Any:
    given = {"task": "text_classification", "data": _data(), "name": "bert", "options": SMALL, **changes}
    return build_hf_text(**given)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as transformers writes it, tokenizer included, with a head of two classes."""
    built = _build()
    built.module.model.save_pretrained(tmp_path)
    built.tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("task", "kind", "shapes"),
    [
        ("text_classification", "sentences", [(2, 2)]),
        ("token_classification", "tags", [(2, 16, 7)]),
        ("question_answering", "questions", [(2, 16), (2, 16)]),
    ],
)
def test_every_head_is_captured_with_free_batch_and_length(task: str, kind: str, shapes: list[tuple[int, ...]]) -> None:
    assert task in HEADS
    built = _build(task=task, data=_data(kind))
    outputs = built.module.eval()(*built.example_inputs)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    assert [tuple(y.shape) for y in outputs] == shapes
    found = capture(built.module, built.example_inputs, dynamic_dims=built.dynamic_dims)
    assert [spec.name for spec in found.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(spec.shape == (None, None) for spec in found.inputs)


def test_preprocessing_is_plain_and_the_tokenizer_travels() -> None:
    built = _build(max_length=40)
    record = {"kind": "text", "inputs": ["input_ids", "attention_mask", "token_type_ids"], "max_length": 40}
    assert json.loads(json.dumps(built.preprocessing.to_record())) == record
    assert "tokenizer/tokenizer.json" in built.files


def test_local_folder_gives_the_same_network(folder: Path) -> None:
    built = _build(path=str(folder), options=None)
    expected = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    ids, mask, types = built.example_inputs
    with torch.no_grad():
        got = built.module.eval()(ids, mask, types)
        assert torch.equal(got, expected(input_ids=ids, attention_mask=mask, token_type_ids=types).logits)


def test_weights_in_half_precision_are_trained_in_float32(folder: Path) -> None:
    weights = folder / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    built = _build(path=str(folder), options=None)
    assert {p.dtype for p in built.module.parameters()} == {torch.float32}


def test_head_for_another_number_of_classes_starts_fresh(folder: Path) -> None:
    built = _build(task="token_classification", data=_data("tags"), path=str(folder), options=None)
    assert built.module.model.classifier.weight.shape == (7, 32)


def test_body_whose_weights_are_missing_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    kept = {k: v for k, v in load_file(weights).items() if "query" not in k}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"do not fit: 2 tensors are missing .*query"):
        _build(path=str(folder), options=None)


def test_damaged_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(ConfigError, match=r"cannot be loaded"):
        _build(path=str(folder), options=None)


def test_code_in_a_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        _build(path=str(folder), options=None)
    assert not (tmp_path / "ran").exists()


def test_vocabulary_of_another_model_is_refused(folder: Path) -> None:
    other = _build(options={**SMALL, "vocab_size": 100})
    other.tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"the tokenizer has 100 entries and .* has 128 embeddings"):
        _build(path=str(folder), options=None)
    bigger = _build(options={**SMALL, "vocab_size": 140})
    bigger.tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="has 140 entries"):
        _build(path=str(folder), options=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "classification"}, "no head for task 'classification'"),
        ({"name": "bret"}, r"'bret' is no model type.*Did you mean 'bert'"),
        ({"options": {**SMALL, "hiden_size": 3}}, r"no option 'hiden_size'.*Did you mean 'hidden_size'"),
        ({"path": "nowhere"}, "no folder of a Hugging Face model"),
        ({"pretrained": True, "path": "x"}, "two sources of weights"),
        ({"name": None}, "give model.path=FOLDER, or model.name"),
        ({"max_length": 100}, r"max_length=100, but bert has positions for 48 tokens only"),
    ],
)
def test_bad_configuration_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _build(**changes)


def test_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it is asked five times, in 40 seconds
    with pytest.raises(ConfigError, match="Without network give a local folder"):
        _build(name="nobody/no-such-model", pretrained=True, options=None)


def test_models_of_robertas_kind_count_positions_from_behind_the_padding_index() -> None:
    config = RobertaConfig(**{**SMALL, "max_position_embeddings": 50, "pad_token_id": 1})
    assert positions_of(RobertaModel(config)) == 48
    assert positions_of(_build().module.model) == 48


def test_inputs_are_those_that_model_and_tokenizer_share() -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL))  # type: ignore[no-untyped-call]
    assert inputs_of(model, ("input_ids", "attention_mask")) == ("input_ids", "attention_mask")
    distil = _build(name="distilbert", options={"vocab_size": 128, "dim": 32, "n_heads": 2, "n_layers": 1, "hidden_dim": 64})
    assert len(distil.example_inputs) == 2
