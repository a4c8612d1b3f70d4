"""A sweep of Weights & Biases whose agents start `qat-train` with our overrides.

W&B draws the values and keeps the results; `wandb sweep FILE` creates the sweep and `wandb agent ID` runs its jobs. The metric
is that of the INT8 model, which is logged when a run is over, so W&B's early termination has nothing to look at in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from qat.errors import ConfigError, near
from qat.sweep.space import Choice, Dimension

METHODS = ("bayes", "random", "grid")


def sweep_description(
    space: Sequence[Dimension], fixed: Sequence[str], *, metric: str, method: str = "bayes", project: str = "qat"
) -> dict[str, object]:
    """The content of the YAML file.

    Args:
        space: what is tried.
        fixed: overrides that all runs share.
        metric: of the task; the INT8 model's is maximized.
        method: `bayes`, `random` or `grid`.

    Raises:
        ConfigError: nothing to try, an unknown method, or an interval in a grid.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}.{near(method, METHODS)}")
    if not space:
        raise ConfigError("nothing to search; give at least one key values, for example 'qat.lr=tag(log,interval(1e-6,1e-3))'")
    if method == "grid" and (endless := [d.key for d in space if not isinstance(d, Choice)]):
        raise ConfigError(f"a grid needs values, and {', '.join(endless)} spans an interval; name them, or use another method")
    own = ["logger=wandb", "output=runs/wandb/${oc.env:WANDB_RUN_ID}"]
    return {
        "program": "qat-train",
        "command": ["${env}", "qat-train", *fixed, *own, "${args_no_hyphens}"],
        "project": project,
        "method": method,
        "metric": {"name": f"int8/{metric}", "goal": "maximize"},
        "parameters": {dimension.key: dimension.parameter() for dimension in space},
    }
