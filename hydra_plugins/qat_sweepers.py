"""Sweeps as Hydra starts them. Hydra takes sweepers from the namespace `hydra_plugins` alone; what they do is in `qat/sweep`.

Each hands its jobs to whatever launcher is configured (one after the other, joblib, submitit, ray), lets the other jobs go on
when one ends badly, and ends with that job's exit code.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:  # every Hydra program in this environment imports this file; only a sweep should pay for the rest
    from hydra.core.override_parser.types import Override

    from qat.sweep.outcome import Outcome


class _Sweeper(Sweeper):
    """What both kinds of sweep share."""

    config: DictConfig
    launcher: Launcher
    hydra_context: HydraContext

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs; always ends with `SweepEnded`, which carries the exit code."""
        from qat.cli.main import say
        from qat.cli.overrides import read
        from qat.errors import QatError, SweepEnded
        from qat.pipeline.run_folder import held

        try:
            overrides = read(arguments, self.hydra_context.config_loader)
            with held(Path(self.config.hydra.sweep.dir)) as folder:
                code = self.run(overrides, folder)
        except QatError as error:
            say(error)
            raise SweepEnded(error.exit_code) from None
        raise SweepEnded(code)

    @abstractmethod
    def run(self, overrides: Mapping[str, Override], folder: Path) -> int:
        """Run the jobs and return the exit code."""

    def launch(self, jobs: Sequence[Sequence[str]], first: int, shown: Sequence[Sequence[str]]) -> list[Outcome]:
        """Run jobs of these overrides, numbered from `first`, and say how they ended; `shown` is what tells them apart."""
        from qat.errors import LaunchError
        from qat.sweep.outcome import outcome

        for job in jobs:  # a job that cannot be composed ends the sweep before it starts
            self.hydra_context.config_loader.load_sweep_config(self.config, list(job))
        OmegaConf.save(self.config, Path(self.config.hydra.sweep.dir) / "multirun.yaml")
        try:
            returns = self.launcher.launch([list(job) for job in jobs], initial_job_idx=first)
        except Exception as error:  # joblib, submitit and ray raise their own types, for a worker that was killed for example
            raise LaunchError(f"the launcher failed: {type(error).__name__}: {error}") from error
        found = []
        for i, returned in enumerate(returns):
            raised: Exception | None = None
            try:
                with redirect_stderr(StringIO()):  # Hydra repeats there all overrides of a job that failed
                    _ = returned.return_value
            except Exception as error:
                raised = error
            assert isinstance(returned.cfg, DictConfig)
            found.append(outcome(first + i, shown[i], Path(returned.cfg.output), raised))
        return found


class GridSweeper(_Sweeper):
    """Every combination of the values that are given."""

    def run(self, overrides: Mapping[str, Override], folder: Path) -> int:
        from rich.console import Console

        from qat.cli.overrides import grid
        from qat.sweep.outcome import print_outcomes, sweep_exit_code, write_comparison, write_outcomes

        jobs = grid(overrides)
        swept = [i for i, override in enumerate(overrides.values()) if override.is_sweep_override()]
        outcomes = self.launch(jobs, 0, [[job[i] for i in swept] for job in jobs])
        print_outcomes(outcomes, Console(), title=f"{len(jobs)} jobs")
        write_outcomes(outcomes, folder / "jobs.csv")
        write_comparison(outcomes, folder / "comparison.html")
        return sweep_exit_code(outcomes)


class OptunaSweeper(_Sweeper):
    """A search by Optuna; the arguments are those of `qat.sweep.study.SearchOptions`."""

    def __init__(self, *, params: Mapping[str, str] | None = None, **options: Any) -> None:
        self.params = dict(params or {})
        self.options = options

    def run(self, overrides: Mapping[str, Override], folder: Path) -> int:
        from qat.cli.overrides import read, split
        from qat.errors import ConfigError

        if find_spec("optuna") is None:
            raise ConfigError("hydra/sweeper=optuna needs a package that is not installed: pip install 'qat[sweep]'")
        from qat.sweep.search import search
        from qat.sweep.study import SearchOptions

        params = read([f"{key}={value}" for key, value in self.params.items()], self.hydra_context.config_loader)
        fixed, space = split({**params, **overrides})
        options = SearchOptions(**self.options)
        return search(options, space=space, fixed=fixed, folder=folder, engines=list(self.config.engines), launch=self.launch)
