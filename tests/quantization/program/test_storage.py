"""The artifact folder: whole or not at all on the way out, distrusted on the way in."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import qat
from qat.errors import ArtifactError, ProgramError
from qat.quantization.engines import lower
from qat.quantization.program.storage import (
    GRAPH,
    MANIFEST,
    SCHEMA_VERSION,
    TENSORS,
    load_program,
    read_manifest,
    save,
)
from tests.quantization.networks import CASES, converted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact with one extra file in a folder."""
    return save(converted("conv"), tmp_path / "artifact", metadata={"task": "test"}, files={"labels/names.txt": b"a\nb\n"})


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


def rehash(folder: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed: what somebody with bad intentions would do."""
    blob = (folder / name).read_bytes()
    entry = {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    rewrite_manifest(folder, lambda data: data["files"].update({name: entry}))


@pytest.mark.parametrize("name", CASES)
def test_storage_round_trip_is_equal(name: str, tmp_path: Path) -> None:
    program = converted(name)
    again = load_program(qat.save(program, tmp_path / "artifact"))
    assert again.nodes == program.nodes
    assert again.output == program.output
    assert again.inputs == program.inputs
    assert again.tensors.keys() == program.tensors.keys()
    for key, value in program.tensors.items():
        assert again.tensors[key].dtype == value.dtype
        assert torch.equal(again.tensors[key], value)
    x = CASES[name].inputs(3)
    assert torch.equal(lower(again, "fbgemm")(x), lower(program, "fbgemm")(x))


def test_manifest_names_every_other_file_with_size_and_hash(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest["schema_version"] == SCHEMA_VERSION
    assert (manifest["target"], manifest["task"]) == ("x86", "test")
    files = content(folder)
    del files[MANIFEST]
    assert manifest["files"] == {
        name: {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()} for name, blob in files.items()
    }
    assert files.keys() == {GRAPH, TENSORS, "labels/names.txt"}


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (content(save(converted("conv"), tmp_path / name)) for name in "ab")
    assert first == second


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [GRAPH, TENSORS, "labels/names.txt"])
def test_reading_refuses_one_flipped_bit(folder: Path, name: str) -> None:
    blob = bytearray((folder / name).read_bytes())
    blob[len(blob) // 2] ^= 1
    (folder / name).write_bytes(bytes(blob))
    with pytest.raises(ArtifactError, match=r"truncated or altered: sha256"):
        load_program(folder)


@pytest.mark.parametrize("name", [GRAPH, TENSORS, "labels/names.txt"])
def test_reading_refuses_a_truncated_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"truncated or altered: size"):
        load_program(folder)


@pytest.mark.parametrize("name", [GRAPH, TENSORS, "labels/names.txt"])
def test_reading_refuses_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"lacks {name}"):
        load_program(folder)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, None, "1"])
def test_reading_refuses_another_schema_version(folder: Path, version: object) -> None:
    rewrite_manifest(folder, lambda data: data.update(schema_version=version))
    with pytest.raises(ArtifactError, match=r"schema version .*reads version 2"):
        load_program(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "labels/../../secret", "a\\..\\b", "", "."])
def test_reading_refuses_a_path_that_leads_outside(folder: Path, name: str) -> None:
    secret = folder.parent / "secret"
    secret.write_bytes(b"x")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    rewrite_manifest(folder, lambda data: data["files"].update({name: entry}))
    with pytest.raises(ArtifactError, match="no path inside an artifact folder"):
        load_program(folder)


def test_reading_refuses_a_symbolic_link(folder: Path) -> None:
    outside = folder.parent / "outside.json"
    (folder / GRAPH).rename(outside)
    (folder / GRAPH).symlink_to(outside)
    with pytest.raises(ArtifactError, match="leads outside"):
        load_program(folder)


def test_reading_refuses_a_folder_that_is_a_symbolic_link(folder: Path) -> None:
    outside = folder.parent / "outside"
    (folder / "labels").rename(outside)
    (folder / "labels").symlink_to(outside)
    with pytest.raises(ArtifactError, match="leads outside"):
        load_program(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"files": 3}', '{"files": {"a": 1}, "schema_version": 1}', "null"])
def test_reading_refuses_a_manifest_that_is_none(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError):
        load_program(folder)


@pytest.mark.parametrize("entry", [None, 3, [], {}, {"bytes": 1}, "hash"])
def test_reading_refuses_a_file_entry_that_is_none(folder: Path, entry: object) -> None:
    rewrite_manifest(folder, lambda data: data["files"].update({GRAPH: entry}))
    with pytest.raises(ArtifactError):
        load_program(folder)


@pytest.mark.parametrize("name", [GRAPH, TENSORS])
def test_reading_refuses_a_manifest_that_does_not_name_the_program(folder: Path, name: str) -> None:
    rewrite_manifest(folder, lambda data: data["files"].pop(name))
    with pytest.raises(ArtifactError, match=f"does not name {name}"):
        load_program(folder)


def test_reading_refuses_what_is_no_artifact(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError, match="is no artifact"):
            load_program(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_reading_refuses_a_graph_that_is_none_even_with_the_right_hash(folder: Path, text: str) -> None:
    (folder / GRAPH).write_text(text)
    rehash(folder, GRAPH)
    with pytest.raises((ArtifactError, ProgramError)):
        load_program(folder)


def test_reading_refuses_a_forbidden_op_even_with_the_right_hash(folder: Path) -> None:
    graph = json.loads((folder / GRAPH).read_text())
    graph["nodes"][0]["op"] = "aten.from_file.default"
    (folder / GRAPH).write_text(json.dumps(graph))
    rehash(folder, GRAPH)
    with pytest.raises(ProgramError, match="not allowed"):
        load_program(folder)


@pytest.mark.parametrize("blob", [b"", b"\0" * 64, b"\xff" * 64, b"PK\x03\x04" + b"\0" * 60])
def test_reading_refuses_tensors_that_are_none_even_with_the_right_hash(folder: Path, blob: bytes) -> None:
    (folder / TENSORS).write_bytes(blob)
    rehash(folder, TENSORS)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_program(folder)


BLOCKED = "timm transformers lightning pytorch_lightning hydra omegaconf torchvision datasets tests".split()


def test_reading_needs_no_model_library(folder: Path, tmp_path: Path) -> None:
    """A fresh interpreter in which nothing of the training side can be imported loads and runs the artifact."""
    x = CASES["conv"].inputs(2)
    torch.save({"x": x, "y": lower(converted("conv"), "fbgemm")(x)}, tmp_path / "io.pt")
    code = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import torch
from qat.quantization.engines import lower
from qat.quantization.program.storage import load_program
io = torch.load({str(tmp_path / "io.pt")!r}, weights_only=True)
model = lower(load_program({str(folder)!r}), "fbgemm")
assert torch.equal(model(io["x"]), io["y"])
assert sys.modules["timm"] is None
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
