"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.avx2 import hide_avx512

if os.environ.get("QAT_TEST_CPU") == "avx2":  # before torch is imported
    assert hide_avx512(), "this PyTorch build has no flags to clear"

import pytest
import torch
from filelock import FileLock

from tests.runs import TINY, TINY_SHAPES, TINY_TEXT, tiny_overrides, train


@pytest.fixture(autouse=True)
def one_thread_one_seed() -> Iterator[None]:
    """Networks here are tiny: threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def trained(factory: pytest.TempPathFactory, recipe: str, base: Mapping[str, Any] = TINY, **changes: Any) -> Path:
    """The run folder of a finished `qat-train`: the first test process that wants it trains, the others wait for it."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    root = factory.getbasetemp() if alone else factory.getbasetemp().parent
    folder = root / f"finished_{recipe}"
    with FileLock(root / f"finished_{recipe}.lock"):
        if not folder.exists():
            folder.mkdir()
            torch.set_num_threads(1)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                assert train([f"recipe={recipe}", *tiny_overrides(folder / "run", base=base, **changes)], patch) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `qat-train`; read it only."""
    return trained(tmp_path_factory, "digits_resnet", logger="csv")


@pytest.fixture(scope="session")
def finished_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `qat-train` on text; read it only."""
    return trained(tmp_path_factory, "tiny_text", TINY_TEXT)


@pytest.fixture(scope="session")
def finished_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `qat-train` on shapes; read it only."""
    return trained(tmp_path_factory, "tiny_shapes", TINY_SHAPES)


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
