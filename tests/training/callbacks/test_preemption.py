from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.utilities.exceptions import SIGTERMException

from qat.errors import PreemptedError
from qat.training.callbacks.preemption import Preemption, ends_when_told


@pytest.fixture(autouse=True)
def handler_kept() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def trainer(paths: list[Path]) -> Any:
    signals = SimpleNamespace(received_sigterm=False)
    return SimpleNamespace(current_epoch=3, global_step=127, save_checkpoint=paths.append, _signal_connector=signals)


@pytest.mark.parametrize(("exception", "saved"), [(SIGTERMException(), 1), (KeyboardInterrupt(), 0), (ValueError(), 0)])
def test_only_a_request_to_end_saves_a_checkpoint(exception: BaseException, saved: int, tmp_path: Path) -> None:
    paths: list[Path] = []
    Preemption(tmp_path).on_exception(trainer(paths), None, exception)  # type: ignore[arg-type]
    assert paths == [tmp_path / "0003-0000127.ckpt"] * saved


def test_signal_in_a_step_ends_the_training_behind_it(tmp_path: Path) -> None:
    callback, training = Preemption(tmp_path), trainer([])
    with ends_when_told(tmp_path):  # that one would raise in the middle of the step
        callback.on_train_start(training, None)  # type: ignore[arg-type]
        callback.on_train_batch_end(training)
        assert not training._signal_connector.received_sigterm
        signal.raise_signal(signal.SIGTERM)
        callback.on_train_batch_end(training)
        assert training._signal_connector.received_sigterm
    callback.on_train_start(training, None)  # type: ignore[arg-type]
    training._signal_connector.received_sigterm = False
    callback.on_train_batch_end(training)
    assert not training._signal_connector.received_sigterm, "told once, for one training"


def test_signal_outside_of_a_training_ends_the_block_with_advice(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match=r"resume=true output=.*run") as caught, ends_when_told(tmp_path / "run"):
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
