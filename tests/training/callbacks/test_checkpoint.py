from __future__ import annotations

import io
import os
import random
import signal
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from qat.errors import QatError
from qat.training.callbacks.checkpoint import AtomicCheckpointIO, RngState, load_weights, newest_loadable
from tests.trainings import quick_fit, small_module, small_network

_save = torch.save


def _checkpoint(value: int, size: int = 1000) -> dict[str, Any]:
    return {"step": value, "state_dict": {"model.weight": torch.full((size,), float(value))}}


def _half(checkpoint: dict[str, Any], handle: Any) -> None:
    """The first half of what torch.save writes, on its way to the disk."""
    buffer = io.BytesIO()
    _save(checkpoint, buffer)
    handle.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    handle.flush()


def test_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(_checkpoint(1), path)
    found = AtomicCheckpointIO().load_checkpoint(path)
    assert found["step"] == 1
    assert torch.equal(found["state_dict"]["model.weight"], torch.ones(1000))
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_checkpoint_runs_no_code_when_it_is_read(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Payload()}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "ran").exists()


def test_write_that_dies_in_the_middle_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(_checkpoint(1), path)

    def dies(checkpoint: dict[str, Any], handle: Any) -> None:
        _half(checkpoint, handle)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint(_checkpoint(2), path)
    assert AtomicCheckpointIO().load_checkpoint(path)["step"] == 1
    assert newest_loadable(tmp_path) == path


def test_failed_write_leaves_no_half_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full stays full otherwise."""

    def dies(checkpoint: dict[str, Any], handle: Any) -> None:
        _half(checkpoint, handle)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint(_checkpoint(2), tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def _killed_while_writing(path: Path) -> int:
    """Write a checkpoint of 40 MB in a child process that kills itself halfway; returns the signal that ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: the child only writes a file
        child = os.fork()
    if child == 0:  # pragma: no cover

        def die(checkpoint: dict[str, Any], handle: Any) -> None:
            _half(checkpoint, handle)
            os.kill(os.getpid(), signal.SIGKILL)

        vars(torch)["save"] = die
        try:
            AtomicCheckpointIO().save_checkpoint(_checkpoint(2, 10_000_000), path)
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def test_kill_in_the_middle_of_a_big_write_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(_checkpoint(1), path)
    assert _killed_while_writing(path) == signal.SIGKILL
    assert max(file.stat().st_size for file in tmp_path.iterdir()) > 10_000_000, "half of it must have been written"
    assert AtomicCheckpointIO().load_checkpoint(path)["step"] == 1
    assert newest_loadable(tmp_path) == path


def test_newest_loadable_is_the_last_epoch(tmp_path: Path) -> None:
    assert newest_loadable(tmp_path) is None
    for epoch in (9, 10, 2):
        AtomicCheckpointIO().save_checkpoint(_checkpoint(epoch), tmp_path / f"{epoch:04d}-{epoch * 6:07d}.ckpt")
    assert newest_loadable(tmp_path) == tmp_path / "0010-0000060.ckpt"


@pytest.mark.parametrize("damage", ["truncated", "empty", "rubbish"])
def test_newest_loadable_passes_over_a_damaged_file_with_a_warning(tmp_path: Path, damage: str) -> None:
    good, bad = tmp_path / "0000-0000006.ckpt", tmp_path / "0001-0000012.ckpt"
    for step, path in enumerate((good, bad)):
        AtomicCheckpointIO().save_checkpoint(_checkpoint(step), path)
    content = bad.read_bytes()
    bad.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "rubbish": b"x" * 100}[damage])
    with pytest.warns(UserWarning, match=r"0001-0000012.ckpt cannot be read.*trying the one before"):
        assert newest_loadable(tmp_path) == good


def test_training_goes_on_from_the_epoch_before_a_damaged_one(tmp_path: Path) -> None:
    whole, again = small_network(), small_network()
    again.load_state_dict(whole.state_dict())
    quick_fit(small_module(whole), tmp_path / "whole", epochs=3)
    quick_fit(small_module(again), tmp_path / "again", epochs=3)
    newest = sorted((tmp_path / "again").glob("*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:500])
    other = small_network()
    with pytest.warns(UserWarning, match="cannot be read"):
        quick_fit(small_module(other), tmp_path / "again", epochs=3)
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_last_two_epochs_are_kept(tmp_path: Path) -> None:
    quick_fit(small_module(small_network()), tmp_path, epochs=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0002-0000018.ckpt", "0003-0000024.ckpt"]


def test_random_states_come_back() -> None:
    callback, restored = RngState(), RngState()
    for draw in (torch.rand, np.random.rand):  # no state is at its beginning
        draw(3)
    random.gauss(0, 1)
    np.random.randn()
    buffer = io.BytesIO()
    torch.save(callback.state_dict(), buffer)
    expected = _draws()
    buffer.seek(0)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    restored.on_train_start(cast(Any, None), cast(Any, None))
    assert _draws() == expected


def test_random_states_are_left_alone_in_a_new_run() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    RngState().on_train_start(cast(Any, None), cast(Any, None))
    assert torch.equal(torch.rand(2), expected)


def _draws() -> list[float]:
    return [
        *torch.rand(3).tolist(),
        *torch.randn(3).tolist(),
        *np.random.rand(3).tolist(),
        *np.random.randn(3).tolist(),
        random.random(),
        random.gauss(0, 1),
    ]


def test_load_weights_gives_the_state_of_the_model(tmp_path: Path) -> None:
    network = small_network()
    quick_fit(small_module(network), tmp_path, epochs=1)
    (path,) = tmp_path.glob("*.ckpt")
    weights = load_weights(path)
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_load_weights_refuses_a_file_without_a_model(tmp_path: Path) -> None:
    torch.save({"other": 1}, tmp_path / "a.ckpt")
    with pytest.raises(QatError, match="no checkpoint of a training run"):
        load_weights(tmp_path / "a.ckpt")


def test_load_weights_names_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"rubbish")
    with pytest.raises(QatError, match=r"a\.ckpt"):
        load_weights(tmp_path / "a.ckpt")
