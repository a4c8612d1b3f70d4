"""Files that are written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qat.files import atomic_write, write_json


def test_write_that_fails_leaves_the_previous_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_atomic_write_makes_the_folder_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"first", b"second"):
        with atomic_write(path) as handle:
            handle.write(content)
    assert path.read_bytes() == b"second"
