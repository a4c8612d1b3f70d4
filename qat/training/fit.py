"""One training: a module, its data and Lightning's Trainer."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException

from qat.errors import ConfigError, PreemptedError, near
from qat.ranks import together, world_size
from qat.training.callbacks.checkpoint import AtomicCheckpointIO, callbacks_for, newest_loadable
from qat.training.callbacks.divergence import DivergenceGuard
from qat.training.module import TrainingModule

#: Arguments of `Trainer` that `fit` gives itself.
OWN = {
    "callbacks",
    "devices",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "fast_dev_run",
    "gradient_clip_val",
    "logger",
    "max_epochs",
    "max_steps",
    "num_nodes",
    "overfit_batches",
    "plugins",
    "strategy",
    "use_distributed_sampler",
}


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How long and on what.

    Args:
        max_epochs: 0 trains nothing.
        max_steps: stop after so many optimizer steps; None means `max_epochs` decides.
        gradient_clip_val: largest norm of the gradient; None does not clip.
        trainer: further arguments of Lightning's `Trainer`, under its own names: accelerator, precision, ...

    Raises:
        ConfigError: a number out of range, or an argument that `Trainer` does not have or `fit` gives itself.
    """

    max_epochs: int = 1
    max_steps: int | None = None
    gradient_clip_val: float | None = 1.0
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_epochs < 0 or (self.max_steps is not None and self.max_steps < 1):
            raise ConfigError(f"max_epochs must be >= 0 and max_steps >= 1, got {self.max_epochs} and {self.max_steps}")
        allowed = inspect.signature(Trainer).parameters.keys() - OWN
        for key in self.trainer:
            if key not in allowed:
                raise ConfigError(f"trainer.{key} is nothing that can be given.{near(key, sorted(allowed))}")


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
    callbacks = [*callbacks_for(folder), DivergenceGuard(), *callbacks]
    trainer = make_trainer(options, folder, callbacks=callbacks, logger=list(loggers) or False)
    resume = newest_loadable(folder) if folder.is_dir() else None
    with warnings.catch_warnings():
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None, weights_only=True)
        except MisconfigurationException as error:
            raise ConfigError(f"Lightning's Trainer refuses these options: {error}") from error
        except SIGTERMException:
            raise PreemptedError(
                f"told to end (SIGTERM) at step {trainer.global_step}; the checkpoint is in {folder}. Continue with "
                "resume=true and the same output."
            ) from None


def make_trainer(options: FitOptions, folder: Path, **further: Any) -> Trainer:
    """Lightning's `Trainer`; making one writes nothing.

    Raises:
        ConfigError: an accelerator that is not here, a precision that there is not, ...
    """
    try:
        return Trainer(
            max_epochs=options.max_epochs,
            max_steps=options.max_steps if options.max_steps is not None else -1,
            gradient_clip_val=options.gradient_clip_val,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{**_DEFAULTS, **options.trainer, "profiler": _profiler(options.trainer.get("profiler"), folder)},
            **_processes(),
            **further,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"Lightning's Trainer refuses these options: {error}") from error


def _profiler(name: str | None, folder: Path) -> Profiler | None:
    """Lightning's profiler of that name; it writes beside the checkpoints."""
    if name is None:
        return None
    profilers: dict[str, Callable[..., Profiler]] = {
        "simple": SimpleProfiler,
        "advanced": AdvancedProfiler,
        "pytorch": PyTorchProfiler,
    }
    if name not in profilers:
        raise ConfigError(f"unknown trainer.profiler {name!r}.{near(name, profilers)}")
    return profilers[name](dirpath=folder, filename="profile")


#: Where this program wants another default than Lightning.
_DEFAULTS: Mapping[str, object] = {"accelerator": "cpu", "log_every_n_steps": 10, "num_sanity_val_steps": 0}


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
