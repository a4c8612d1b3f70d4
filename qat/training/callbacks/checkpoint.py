"""Checkpoints that survive a kill at any moment, and runs that continue bit for bit."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from qat.errors import QatError
from qat.files import atomic_write
from qat.training.callbacks.best import KeepBest
from qat.training.callbacks.preemption import Preemption


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, then renames: the previous file stays whole until the new one is.

    (Lightning's own write moves a file out of TMPDIR; across file systems a kill destroys the previous good one.)
    """

    def save_checkpoint(self, checkpoint: dict[str, object], path: Any, storage_options: object | None = None) -> None:
        with atomic_write(Path(path)) as handle:
            torch.save(checkpoint, handle)

    def load_checkpoint(self, path: Any, *_: object, **__: object) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint


class RngState(Callback):
    """Saves and restores the random states of PyTorch, NumPy and Python, so that dropout continues where it stopped."""

    def state_dict(self) -> dict[str, object]:
        kind, keys, position, has_gauss, cached = np.random.get_state()
        version, state, gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "numpy": [str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
            "python": [version, list(state), gauss],
        }

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._loaded = state_dict
        self._restore()  # at once, too: of a stage that is already finished no training starts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def _restore(self) -> None:
        state = getattr(self, "_loaded", None)
        if state is None:
            return
        torch.set_rng_state(state["torch"])
        kind, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        version, python_state, gauss = state["python"]
        random.setstate((version, tuple(python_state), gauss))


def checkpoint_callback(folder: Path) -> ModelCheckpoint:
    """Keeps the last two epochs: should the newest be damaged, `newest_loadable` falls back to the one before."""
    return ModelCheckpoint(
        dirpath=folder,
        filename="{epoch:04d}-{step:07d}",
        monitor="step",
        mode="max",
        save_top_k=2,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        auto_insert_metric_name=False,
    )


def newest_loadable(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that can be read; damaged ones are named in a warning and passed over."""
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            warnings.warn(f"{path} cannot be read ({type(error).__name__}); trying the one before", stacklevel=2)
        else:
            return path
    return None


def load_weights(path: Path) -> dict[str, Any]:
    """The state dict of the `model` inside a checkpoint of a task.

    Raises:
        QatError: the file is damaged or holds no task.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise unrelated types for a damaged file
        raise QatError(f"{path} cannot be read as a checkpoint: {type(error).__name__}") from error
    weights = {k.removeprefix("model."): v for k, v in checkpoint.get("state_dict", {}).items() if k.startswith("model.")}
    best = checkpoint.get("callbacks", {}).get(KeepBest.__qualname__, {})  # it trains on with the last ones and means the best
    weights = best.get("weights") or weights
    if not weights:
        raise QatError(f"{path} is no checkpoint of a training run")
    return weights


def callbacks_for(folder: Path) -> Sequence[Callback]:
    """What every resumable training needs."""
    return (checkpoint_callback(folder), RngState(), Preemption(folder))
