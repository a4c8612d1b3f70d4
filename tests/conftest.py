"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_one_seed() -> Iterator[None]:
    """Networks here are tiny: threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data: $QAT_SHARED_DATA, or shared/data beside the project; its absence fails in CI."""
    default = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("QAT_SHARED_DATA", default))
    if not path.is_dir():
        message = f"no real data at {path}; set QAT_SHARED_DATA"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
