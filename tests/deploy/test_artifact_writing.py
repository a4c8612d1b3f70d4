"""An artifact is written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qat.deploy.artifact import save_artifact, verify
from qat.errors import ArtifactError
from qat.quantization.program import storage
from qat.quantization.program.storage import read_manifest
from tests.deploy.artifacts import INPUTS, METADATA, PROGRAM
from tests.quantization.networks import converted


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return save_artifact(
        converted(*PROGRAM),
        tmp_path / "net",
        golden_inputs=[INPUTS],
        metadata=METADATA,
        files={"tokenizer/vocab.txt": b"hello"},
    )


def test_foreign_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ArtifactError, match="no artifact"):
        save_artifact(converted(*PROGRAM), tmp_path, golden_inputs=[INPUTS])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("thesis.tex", "precious")]


def test_saving_again_replaces_the_artifact(artifact: Path) -> None:
    save_artifact(converted(*PROGRAM), artifact, golden_inputs=[INPUTS], metadata={**METADATA, "model": "second"})
    assert read_manifest(artifact)["model"] == "second"
    assert "tokenizer/vocab.txt" not in read_manifest(artifact)["files"]
    assert verify(artifact).passed


@pytest.mark.parametrize("step", ["save_file", "_sync", "_swap"])
def test_failed_write_leaves_the_old_artifact_and_nothing_else(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, step, fail)
    with pytest.raises(ArtifactError, match="No space left"):
        save_artifact(converted(*PROGRAM), artifact, golden_inputs=[INPUTS], metadata={"model": "second"})
    monkeypatch.undo()
    assert verify(artifact).passed
    assert read_manifest(artifact)["model"] == "tiny"
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


def test_failed_write_of_a_new_artifact_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "_swap", fail)
    with pytest.raises(KeyboardInterrupt):
        save_artifact(converted(*PROGRAM), tmp_path / "new", golden_inputs=[INPUTS])
    assert list(tmp_path.iterdir()) == []
