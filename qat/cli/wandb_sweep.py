"""From the overrides of a command to the YAML file of a W&B sweep."""

from __future__ import annotations

from collections.abc import Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from qat.cli.check import completed
from qat.cli.names import refuse_earlier
from qat.cli.overrides import read, split
from qat.cli.recipes import folder, register
from qat.config import task_for
from qat.errors import ConfigError
from qat.sweep.wandb_yaml import sweep_description
from qat.tasks import default_metric


def describe(arguments: Sequence[str], method: str) -> dict[str, object]:
    """The sweep that tries whatever these overrides give several values.

    Args:
        arguments: as for `qat-train -m`.
        method: see `sweep_description`.

    Raises:
        ConfigError: overrides that cannot be read or composed, or a sweep that cannot be.
    """
    refuse_earlier(arguments)
    register()
    arguments = completed(arguments)
    try:
        with hydra.initialize_config_dir(config_dir=str(folder("conf")), version_base="1.3"):
            fixed, space = split(read(arguments, GlobalHydra.instance().config_loader()))
            config = hydra.compose("config", overrides=[*fixed, *(f"{d.key}={d.example()}" for d in space)])
    except HydraException as error:
        raise ConfigError(str(error)) from error
    metric = config.task.metric or default_metric(_task(config))
    project = config.logger.get("project", "qat")
    return sweep_description(space, fixed, metric=metric, method=method, project=project)


def _task(config: DictConfig) -> str:
    """The task by name; `auto` by the kind of data, as far as that can be told without reading them.

    Raises:
        ConfigError: it cannot.
    """
    if config.task.name != "auto":
        return str(config.task.name)
    found = task_for(OmegaConf.get_type(config.data), config.data)
    if found is None:
        raise ConfigError("which metric the sweep is for depends on the task; give task=NAME")
    return found
