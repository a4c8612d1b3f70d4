"""Whole runs on text: the report, the artifact from raw text, and the commands on both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import qat
from qat.data import build_source
from qat.errors import ConfigError, DataError, EngineError
from qat.pipeline.deployed import benchmark_deployed, evaluate_deployed, export_checkpoint, inspect_deployed
from qat.pipeline.train import train
from tests.contract import check_report
from tests.runs import TINY_TEXT, quiet, tiny_config, trained


@pytest.fixture(scope="module")
def report(finished_text: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished_text / "report.json").read_text())
    return content


def _texts() -> tuple[list[str], list[int]]:
    source = build_source("grammar", train=TINY_TEXT["data.train"], test=TINY_TEXT["data.test"])
    return [e.text for e in source.test.examples], source.test.targets.tolist()  # type: ignore[union-attr]


def test_report_of_text_keeps_the_contract(report: dict[str, Any]) -> None:
    check_report(report)
    assert (report["task"], report["metric"]["name"]) == ("text_classification", "accuracy")
    assert report["metrics"]["int8"].keys() == {"accuracy", "f1", "matthews"}
    assert report["metrics"]["int8"]["accuracy"] == report["stages"]["int8"]
    assert all(gate["passed"] for gate in report["gates"])
    assert report["engines"]["fbgemm"]["agreement"] == 1.0
    assert report["coverage"]["integer_ops"] == {"int8.embedding": 3, "int8.linear": 14}


def test_kernel_gate_of_text_compares_every_layer(report: dict[str, Any]) -> None:
    (gate,) = [gate for gate in report["gates"] if gate["name"] == "kernel/fbgemm"]
    assert gate["detail"].startswith("17 tensors compared"), "14 linear layers that return float, and 3 tables"


def test_artifact_decides_from_raw_text_as_the_report_says(finished_text: Path, report: dict[str, Any]) -> None:
    """With the artifact's own tokenizer and labels, one text at a time: no padding, no batch, the same predictions."""
    artifact = finished_text / "artifact"
    manifest, tokenizer = qat.read_manifest(artifact), AutoTokenizer.from_pretrained(artifact / "tokenizer")
    model = qat.load(artifact)
    texts, targets = _texts()
    right = 0
    for text, target in zip(texts, targets, strict=True):
        batch = tokenizer([text], return_tensors="pt")
        logits = model(*(batch[spec["name"]] for spec in manifest["inputs"]))
        right += int(logits.argmax(-1)) == target
    assert manifest["labels"] == ["negative", "positive"]
    assert 100 * right / len(texts) == pytest.approx(report["stages"]["int8"], abs=1e-3)


def test_artifact_holds_tables_as_int8(finished_text: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(finished_text / "artifact" / "model.safetensors")
    tables = [t for name, t in tensors.items() if name.endswith("embeddings.weight")]
    assert len(tables) == 3
    assert {t.dtype for t in tables} == {torch.int8}
    weights = {name: t.dtype for name, t in tensors.items() if t.dim() == 2 and "position_ids" not in name}
    assert len(weights) == 14 + 3
    assert set(weights.values()) == {torch.int8}, "no weight travels in float"


def test_commands_work_on_what_a_text_run_left(finished_text: Path, tmp_path: Path, report: dict[str, Any]) -> None:
    artifact, console = str(finished_text / "artifact"), quiet()
    checkpoint = str(max((finished_text / "checkpoints" / "qat").glob("*.ckpt")))
    found = evaluate_deployed(tiny_config(tmp_path / "a", base=TINY_TEXT, artifact=artifact), console)
    assert found["fbgemm"] == pytest.approx(report["stages"]["int8"], abs=1e-3)
    again = evaluate_deployed(tiny_config(tmp_path / "b", base=TINY_TEXT, checkpoint=checkpoint), console)
    assert again["fake_quant"] == pytest.approx(report["stages"]["fake_quant"], abs=1e-3)
    rows = inspect_deployed(tiny_config(tmp_path / "c", base=TINY_TEXT, artifact=artifact), console)["layers"]
    assert len(rows) == 17
    assert {row["max_steps"] for row in rows} == {0}
    times = benchmark_deployed(tiny_config(tmp_path / "d", base=TINY_TEXT, artifact=artifact), console)
    assert times.keys() == {"fp32", "fbgemm"}
    assert "batch 1, 24" in " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    folder = export_checkpoint(tiny_config(tmp_path / "e", base=TINY_TEXT, checkpoint=checkpoint), console)
    assert qat.verify(folder).equal
    assert (folder / "tokenizer" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("task", "kind", "metric"), [("token_classification", "tags", "f1"), ("question_answering", "questions", "exact_match")]
)
def test_other_tasks_run_to_a_report_on_qnnpack_too(task: str, kind: str, metric: str, tmp_path: Path) -> None:
    """One portable artifact: every linear layer returns a grid, so both engines run it."""
    config = tiny_config(
        tmp_path / "run",
        base=TINY_TEXT,
        task=task,
        task__metric=metric,
        data__kind=kind,
        data__train=64,
        data__test=30,
        data__stride=4,
        fp32__max_epochs=1,
        quantization__target="any",
        engines=["fbgemm", "qnnpack"],
        gate__enforce=False,
    )
    content = trained(config)
    check_report(content)
    assert content["metric"]["name"] == metric
    assert content["engines"].keys() == {"fbgemm", "qnnpack"}
    gates = {gate["name"]: gate for gate in content["gates"]}
    assert gates["kernel/fbgemm"]["passed"], gates
    for engine in ("fbgemm", "qnnpack"):
        assert qat.verify(tmp_path / "run" / "artifact", engine).passed


def _tsv(root: Path, rows: list[tuple[str, str]]) -> dict[str, Any]:
    root.mkdir()
    lines = [f"{text}\t{label}" for text, label in rows]
    for name in ("train.tsv", "test.tsv"):
        (root / name).write_text("\n".join(["text\tlabel", *lines]) + "\n")
    return {"data": "text", "data__root": str(root), "data__train": "train.tsv", "data__test": "test.tsv"}


GOOD = [
    (f"the {colour} key in the {place} is {word} .", str(i % 2))
    for i, (colour, place, word) in enumerate(
        (c, p, w) for c in ("red", "blue", "old") for p in ("car", "garden") for w in ("dull", "warm", "cold", "bright")
    )
]


@pytest.mark.parametrize(
    ("rows", "changes", "error", "message"),
    [
        ([(" ", "0"), *GOOD], {"data__corrupt_budget": 0.0}, DataError, r"texts are empty.*\n.*train\.tsv:2: empty text"),
        (
            [*GOOD, ("the key " * 60, "1")],
            {"data__truncation": "refuse"},
            DataError,
            r"train\.tsv:26: \d+ tokens, the model takes 48",
        ),
        ([*GOOD, ("a\tb", "1")], {}, DataError, r"train\.tsv:26: 3 columns"),
        (
            GOOD,
            {"task": "token_classification"},
            ConfigError,
            "task=token_classification reads tagged words, the data has sentences",
        ),
        (GOOD, {"task": "classification"}, ConfigError, "task=classification reads images, the data has sentences"),
        (GOOD, {"task__metric": "accuracyy"}, ConfigError, "Did you mean 'accuracy'"),
        (GOOD, {"engines": ["qnnpack"]}, EngineError, "qnnpack is for quantization=arm"),
        (GOOD, {"data__truncation": "cut"}, ConfigError, "data.truncation=cut: unknown truncation"),
    ],
)
def test_bad_text_is_refused_before_training_and_leaves_nothing(
    rows: list[tuple[str, str]], changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    config = tiny_config(
        tmp_path / "run", base=TINY_TEXT, **{**_tsv(tmp_path / "data", rows), "data__batch_size": 4, **changes}
    )
    with pytest.raises(error, match=message):
        train(config, console=quiet())
    assert not (tmp_path / "run").exists()


def test_truncation_is_said(tmp_path: Path) -> None:
    rows = [*GOOD, ("the key " * 60, "1")]
    changes = {**_tsv(tmp_path / "data", rows), "data__batch_size": 4, "fp32__max_steps": 1, "qat__max_steps": 1}
    console = quiet()
    train(tiny_config(tmp_path / "run", base=TINY_TEXT, **changes, gate__enforce=False), console=console)
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "note truncated 1 of 25 test texts to 48 tokens" in text
