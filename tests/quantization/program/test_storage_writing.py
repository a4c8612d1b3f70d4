"""The artifact folder is whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qat.errors import ArtifactError
from qat.quantization.program import storage
from qat.quantization.program.storage import (
    GRAPH,
    MANIFEST,
    TENSORS,
    load_program,
    save,
)
from tests.quantization.networks import converted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact with one extra file in a folder."""
    return save(converted("conv"), tmp_path / "artifact", metadata={"task": "test"}, files={"labels/names.txt": b"a\nb\n"})


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_writing_replaces_an_earlier_artifact(folder: Path) -> None:
    save(converted("sequence"), folder)
    assert load_program(folder).nodes == converted("sequence").nodes
    assert not (folder / "labels").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_writing_makes_the_folders_above(tmp_path: Path) -> None:
    assert load_program(save(converted("conv"), tmp_path / "a" / "b" / "c")).nodes


def test_writing_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    assert load_program(save(converted("conv"), tmp_path / "artifact")).nodes


def test_writing_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="no artifact"):
        save(converted("conv"), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_writing_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_text("a file")
    with pytest.raises(ArtifactError):
        save(converted("conv"), path)
    assert path.read_text() == "a file"


@pytest.mark.parametrize("name", ["../escape", "/escape", "a/../../escape", MANIFEST, GRAPH, TENSORS, f"./{GRAPH}"])
def test_writing_refuses_a_file_that_leads_outside_or_stands_for_another(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError):
        save(converted("conv"), tmp_path / "artifact", files={name: b"x"})
    assert list(tmp_path.iterdir()) == []


def fails(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["save_file", "_sync", "replace", "second replace", "write_text", "write_bytes"])
def test_a_failed_write_leaves_the_previous_artifact(folder: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(folder)
    replace = os.replace
    if step == "replace":
        monkeypatch.setattr(os, "replace", fails)
    elif step == "second replace":
        calls: list[int] = []

        def second(source: str | Path, target: str | Path) -> None:
            calls.append(1)
            if len(calls) == 2:
                fails()
            replace(source, target)

        monkeypatch.setattr(os, "replace", second)
    elif step.startswith("write"):
        monkeypatch.setattr(Path, step, fails)
    else:
        monkeypatch.setattr(storage, step, fails)
    with pytest.raises(ArtifactError, match="No space left"):
        save(converted("sequence"), folder, files={"a.txt": b"a"})
    monkeypatch.undo()
    assert content(folder) == before
    assert load_program(folder).nodes == converted("conv").nodes
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_an_interrupted_write_leaves_the_previous_artifact(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "_sync", interrupt)
    before = content(folder)
    with pytest.raises(KeyboardInterrupt):
        save(converted("sequence"), folder)
    assert content(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
