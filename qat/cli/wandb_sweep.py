"""From the overrides of a command to the YAML file of a W&B sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from qat.cli.overrides import read, split
from qat.cli.recipes import folder, register
from qat.errors import ConfigError
from qat.sweep.wandb_yaml import sweep_description
from qat.tasks import default_metric


def describe(arguments: Sequence[str], method: str) -> dict[str, Any]:
    """The sweep that tries whatever these overrides give several values.

    Args:
        arguments: as for `qat-train -m`.
        method: see `sweep_description`.

    Raises:
        ConfigError: overrides that cannot be read or composed, or a sweep that cannot be.
    """
    register()
    try:
        with hydra.initialize_config_dir(config_dir=str(folder("conf")), version_base="1.3"):
            fixed, space = split(read(arguments, GlobalHydra.instance().config_loader()))
            config = hydra.compose("config", overrides=[*fixed, *(f"{d.key}={d.example()}" for d in space)])
    except HydraException as error:
        raise ConfigError(str(error)) from error
    metric = config.metric or default_metric(config.task)
    return sweep_description(space, fixed, metric=metric, method=method, project=config.project)
