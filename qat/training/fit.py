"""One training: a module, its data and Lightning's Trainer."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException

from qat.errors import ConfigError, PreemptedError
from qat.ranks import together, world_size
from qat.training.callbacks.checkpoint import AtomicCheckpointIO, callbacks_for, newest_loadable
from qat.training.callbacks.divergence import DivergenceGuard
from qat.training.module import TrainingModule


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How long and on what.

    Args:
        epochs: 0 trains nothing.
        max_steps: stop after so many optimizer steps; None means `epochs` decide.
        accelerator: `cpu`, `gpu` or `auto`.
        precision: Lightning's name, `32-true` or `bf16-mixed`, ...
        gradient_clip: largest norm of the gradient; None does not clip.
    """

    epochs: int = 1
    max_steps: int | None = None
    accelerator: str = "cpu"
    precision: str = "32-true"
    gradient_clip: float | None = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 0 or (self.max_steps is not None and self.max_steps < 1):
            raise ConfigError(f"epochs must be >= 0 and max_steps >= 1, got {self.epochs} and {self.max_steps}")


def fit(
    module: TrainingModule,
    data: LightningDataModule,
    options: FitOptions,
    *,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> None:
    """Train the network of `module` in place; checkpoints go to `folder`, and an interrupted training there is continued.

    Raises:
        DivergedError: the loss became NaN, infinite or exploded.
        PreemptedError: SIGTERM came; a checkpoint of this very step was written.
    """
    trainer = Trainer(
        max_epochs=options.epochs,
        max_steps=options.max_steps if options.max_steps is not None else -1,
        accelerator=options.accelerator,
        **_processes(),
        precision=options.precision,  # type: ignore[arg-type]
        gradient_clip_val=options.gradient_clip,
        callbacks=[*callbacks_for(folder), DivergenceGuard(), *callbacks],
        logger=list(loggers) or False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
    )
    resume = newest_loadable(folder) if folder.is_dir() else None
    with warnings.catch_warnings():
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None, weights_only=True)
        except SIGTERMException:
            raise PreemptedError(
                f"told to end (SIGTERM) at step {trainer.global_step}; the checkpoint is in {folder}. Continue with "
                "resume=true and the same output."
            ) from None


def _processes() -> dict[str, Any]:
    """Arguments of a Trainer in one process, or in the ranks that torchrun has started."""
    if not together():
        return {"devices": 1, "plugins": [AtomicCheckpointIO()]}
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "devices": here,
        "num_nodes": world_size() // here,
        "strategy": DDPStrategy(find_unused_parameters=True),  # detectors have heads that QAT gives no gradient
        "plugins": [AtomicCheckpointIO(), TorchElasticEnvironment()],  # within a SLURM job Lightning would take SLURM's
        "use_distributed_sampler": False,  # the loaders share the samples among the ranks themselves
    }


#: Lightning's remarks about choices that are made on purpose here.
_EXPECTED = (
    r".*does not have many workers.*",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r"Checkpoint directory .* exists and is not empty.*",
    r"The dirpath has changed from .*",  # a run folder may be moved before it is resumed
    r".*GPU available but not used.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",
)

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
