"""The configuration of a run as plain typed values: one dataclass per choice of every group."""

from qat.config.choices import CHOICES, chosen, empty_config, model_for, task_for, to_record
from qat.config.fields import MISSING, mistakes, refuse_mistakes
from qat.config.run import Config, with_rates
from qat.config.training import StageConfig, WandbConfig

__all__ = [
    "CHOICES",
    "MISSING",
    "Config",
    "StageConfig",
    "WandbConfig",
    "chosen",
    "empty_config",
    "mistakes",
    "model_for",
    "refuse_mistakes",
    "task_for",
    "to_record",
    "with_rates",
]
