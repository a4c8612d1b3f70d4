"""The artifact folder on disk: written whole or not at all, read with distrust.

    manifest.json      schema version; sha256 and size of every other file; target and whatever the caller adds
    graph.json         nodes, inputs, output
    model.safetensors  int8 weights, scales and the float tensors that remain

Reading checks, in this order: the manifest, every file's name, size and hash, the graph's ops and references, the tensors.
Nothing is unpickled, imported or executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save_file

from qat.errors import ArtifactError
from qat.quantization.program.program import Int8Program
from qat.quantization.program.serialize import from_json, to_json

#: 2: a target is one word, and its weights are bounded by neighbours instead of by the two largest of a channel.
SCHEMA_VERSION = 2
MANIFEST, GRAPH, TENSORS = "manifest.json", "graph.json", "model.safetensors"


def save(
    program: Int8Program,
    folder: str | Path,
    *,
    metadata: Mapping[str, object] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write an artifact folder; it appears complete, by one rename, or not at all. `qat.load` reads it.

    Args:
        folder: must not exist yet, or be an earlier artifact, which is replaced.
        metadata: JSON data for the manifest, beside what is always there.
        files: further files by relative path.

    Raises:
        ArtifactError: the folder holds something else or cannot be written.
    """
    folder = Path(folder)
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not empty and not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{folder} exists and is no artifact; give a new folder, or empty this one")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ArtifactError(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        (staging / GRAPH).write_text(json.dumps(to_json(program), indent=1))
        save_file({name: tensor.clone() for name, tensor in program.tensors.items()}, staging / TENSORS)
        for name, content in (files or {}).items():
            path = staging / _relative(name)
            if path in (staging / MANIFEST, staging / GRAPH, staging / TENSORS):
                raise ArtifactError(f"{name!r} is a file of every artifact; give yours another name")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "target": program.target,
            **(metadata or {}),
            "files": {p.relative_to(staging).as_posix(): _entry(p) for p in sorted(staging.rglob("*")) if p.is_file()},
        }
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _sync(staging)
        staging.chmod(0o755)
        _swap(staging, folder)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise ArtifactError(f"cannot write {folder}: {error}") from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return folder


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an artifact whose files all have the sizes and hashes that it names.

    Raises:
        ArtifactError: not an artifact, unknown schema version, missing, truncated or altered file, unsafe path.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = dict(manifest["files"])
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is no artifact: it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / MANIFEST} cannot be read: {type(error).__name__}: {error}") from error
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            f"{folder} has schema version {manifest.get('schema_version')!r}; this qat reads version {SCHEMA_VERSION}. "
            "Make it again (qat-train baseline=RUN takes over the FP32 weights of its run), or install the qat that made it."
        )
    for name in (GRAPH, TENSORS):
        if name not in files:
            raise ArtifactError(f"{folder / MANIFEST} does not name {name}")
    for name, entry in files.items():
        path = folder / _relative(name)
        if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
            raise ArtifactError(f"{name!r} leads outside {folder}")
        if not path.is_file():
            raise ArtifactError(f"{folder} lacks {name}")
        if not isinstance(entry, dict):
            raise ArtifactError(f"{folder / MANIFEST} gives no size and hash for {name}")
        found = _entry(path)
        if found != entry:
            kind = "size" if found["bytes"] != entry.get("bytes") else "sha256"
            raise ArtifactError(
                f"{path} was truncated or altered: {kind} is {found[_KEY[kind]]}, the manifest says {entry.get(_KEY[kind])}"
            )
    return dict(manifest)


def load_program(folder: str | Path) -> Int8Program:
    """Read and validate the program of an artifact folder.

    Raises:
        ArtifactError: see `read_manifest`; also for damaged tensors.
        ProgramError: op outside the allowlist, dangling reference, missing or extra tensor.
    """
    folder = Path(folder)
    read_manifest(folder)
    try:
        tensors = parse_safetensors((folder / TENSORS).read_bytes())
        graph = json.loads((folder / GRAPH).read_text())
    except (SafetensorError, ValueError, OSError) as error:
        raise ArtifactError(f"{folder} cannot be read: {error}") from error
    return from_json(graph, tensors)


_KEY = {"size": "bytes", "sha256": "sha256"}


def _entry(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _relative(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
        raise ArtifactError(f"{name!r} is no path inside an artifact folder")
    return path


def _swap(staging: Path, folder: Path) -> None:
    """Move `staging` to `folder`; what was there goes only when the new one stands, and comes back when it does not."""
    previous = staging.with_name(staging.name + ".previous")
    if folder.exists():
        os.replace(folder, previous)
    try:
        os.replace(staging, folder)
    except BaseException:
        if previous.exists():
            os.replace(previous, folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
