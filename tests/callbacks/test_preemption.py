from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.utilities.exceptions import SIGTERMException

from qat.callbacks.preemption import Preemption


@pytest.mark.parametrize(("exception", "saved"), [(SIGTERMException(), 1), (KeyboardInterrupt(), 0), (ValueError(), 0)])
def test_only_a_request_to_end_saves_a_checkpoint(exception: BaseException, saved: int, tmp_path: Path) -> None:
    paths: list[Path] = []
    trainer: Any = SimpleNamespace(current_epoch=3, global_step=127, save_checkpoint=paths.append)
    Preemption(tmp_path).on_exception(trainer, None, exception)  # type: ignore[arg-type]
    assert paths == [tmp_path / "0003-0000127.ckpt"] * saved
