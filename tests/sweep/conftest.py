"""Searches that train nothing and draw nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweep.searches import Search


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and pages take most of the time of a search that trains nothing."""
    monkeypatch.setattr("qat.sweep.search.draw", lambda *_: None)
    monkeypatch.setattr("qat.sweep.search.write_comparison", lambda *_, **__: None)


@pytest.fixture
def run(tmp_path: Path, blind: None) -> Search:
    return Search(tmp_path)


@pytest.fixture(params=["database", "journal"])
def again(request: pytest.FixtureRequest, tmp_path: Path, blind: None) -> Search:
    """A search in either kind of storage."""
    return Search(tmp_path, database=request.param == "database")
