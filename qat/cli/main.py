"""Commands: thin Hydra apps, one verb each. Configuration ends here; the flow below takes plain typed values.

Exit codes: 0 done, 2 bad configuration or input, 3 diverged, 4 a gate failed, 143 told to end (resumable), 1 a bug.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from qat.cli.check import check, completed, plain_overrides, value_mistakes
from qat.cli.earlier_run import with_settings_of_run
from qat.cli.names import key_of, refuse_earlier
from qat.cli.recipes import folder, register
from qat.config import Config
from qat.config.training import TorchrunConfig
from qat.errors import ConfigError, QatError, SweepEnded

#: How the commands behind a training take what they work on.
MADE = ("artifact", "checkpoint")


def train() -> None:
    """FP32 -> PTQ -> QAT -> INT8 -> artifact -> report."""
    _main(_train)


def evaluate() -> None:
    """The metric of an artifact or a QAT checkpoint on any engine."""
    _main(_of_checkpoint("evaluate_deployed"), of_run=MADE)


def inspect() -> None:
    """Coverage, ranges and per-layer SQNR of a QAT checkpoint or an artifact."""
    _main(_of_checkpoint("inspect_deployed"), of_run=MADE)


def benchmark() -> None:
    """Latency against FP32 eager, interleaved."""
    _main(_of_checkpoint("benchmark_deployed"), of_run=MADE)


def export() -> None:
    """A QAT checkpoint to an artifact folder."""
    _main(_of_checkpoint("export_checkpoint"), of_run=("checkpoint",))


def report() -> None:
    """Runs side by side: a page, a table, and the results table of a README."""
    from qat.report.compare import compare

    parser = argparse.ArgumentParser(prog="qat-report", description=report.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder or report.json")
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), help="page to write (%(default)s)")
    parser.add_argument("--readme", type=Path, help="file whose results table is renewed, between its two markers")
    arguments = parser.parse_args()
    try:
        compare(arguments.runs, output=arguments.output, readme=arguments.readme)
    except QatError as error:
        say(error)
        raise SystemExit(error.exit_code) from None


def wandb_sweep() -> None:
    """Write the YAML file of a W&B sweep: keys with several values are tried, the others are fixed."""
    import yaml

    from qat.cli.wandb_sweep import describe
    from qat.files import write_text
    from qat.sweep.wandb_yaml import METHODS

    parser = argparse.ArgumentParser(prog="qat-wandb-sweep", description=wandb_sweep.__doc__)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="as for qat-train -m")
    parser.add_argument("--method", default=METHODS[0], help=f"{', '.join(METHODS)} (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("sweep.yaml"), help="file to write (%(default)s)")
    arguments = parser.parse_args()
    try:
        write_text(arguments.output, yaml.safe_dump(describe(arguments.overrides, arguments.method), sort_keys=False))
    except QatError as error:
        say(error)
        raise SystemExit(error.exit_code) from None
    Console().print(f"{arguments.output} is written; next: wandb sweep {arguments.output}", highlight=False)


def say(error: QatError) -> None:
    """One message for a mistake or a failure, without a traceback."""
    message = escape(str(error))  # it may hold [brackets], which rich would take for a style
    Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: {message}", highlight=False, soft_wrap=True)


def _train(config: Config, overrides: list[str]) -> object:
    """In this process, or in several that `launch` starts."""
    from qat.quantization.engines import check_engines

    check_engines(config.engines, config.quantization.target)  # before Lightning, data and models cost seconds
    from qat.pipeline.train import train as run

    if not isinstance(config.launch, TorchrunConfig):
        return run(config, overrides=overrides)
    from qat.cli.launch import launch

    return launch(config, config.launch, overrides)


def _of_checkpoint(name: str) -> Callable[[Config, list[str]], object]:
    """A function of `qat.pipeline.deployed`, imported when the configuration is known to be right.

    It takes a checkpoint for the target that it was trained for, where the command names no other.
    """

    def call(config: Config, overrides: list[str]) -> object:
        from qat.pipeline import deployed
        from qat.pipeline.loading import with_own_target

        keys = {key_of(override) for override in overrides}
        given = config if keys & {"quantization", "quantization.target"} else with_own_target(config)
        return getattr(deployed, name)(given)

    return call


def _main(verb: Callable[[Config, list[str]], object], *, of_run: Sequence[str] = ()) -> None:
    """Compose the configuration, run `verb`, turn errors into one message and an exit code.

    Args:
        of_run: the keys by which it takes what a run has made; it works with the settings of that run.
    """
    try:
        if of_run and plain_overrides(sys.argv[1:]) is not None:
            sys.argv[1:] = with_settings_of_run(sys.argv[1:], of_run)
        sys.argv[1:] = completed(sys.argv[1:])
        refuse_earlier(sys.argv[1:])
        if (overrides := plain_overrides(sys.argv[1:])) is not None:
            check(overrides)
    except ConfigError as error:
        say(error)
        raise SystemExit(error.exit_code) from None
    register()
    code = [2]  # Hydra ends with 1 for a configuration that it cannot compose

    def job(config: DictConfig) -> object:
        code[0] = 1
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            Console().rule(f"[bold]job {HydraConfig.get().job.num}")
        try:
            result = verb(_typed(config), list(HydraConfig.get().overrides.task))
        except QatError as error:
            code[0] = error.exit_code
            say(error)
            if HydraConfig.get().mode is RunMode.MULTIRUN:  # the other jobs go on; the sweeper knows the code from the error
                raise
            raise SystemExit(code[0]) from None
        code[0] = 0
        return result

    app = hydra.main(version_base="1.3", config_path=str(folder("conf")), config_name="config")(job)
    try:
        app()
    except SystemExit as end:
        if end.code in (0, None) or isinstance(end, SweepEnded):
            raise
        sys.exit(end.code if end.code not in (1, "1") else code[0])


def place_in_sweep_(config: DictConfig, overrides: Sequence[str], *, output: str, sweep: str) -> None:
    """Let the jobs of one sweep lie in its folder, and W&B show them together; what the user names stays."""
    if not any(key_of(override) == "output" for override in overrides):
        config.output = output
    if "group" in config.logger:
        config.logger.group = config.logger.group or Path(sweep).name


def _typed(config: DictConfig) -> Config:
    """The composed configuration as the plain dataclass that the flow takes."""
    own = HydraConfig.get()
    if own.mode is RunMode.MULTIRUN:
        place_in_sweep_(config, own.overrides.task, output=own.runtime.output_dir, sweep=own.sweep.dir)
    if found := value_mistakes(config):
        raise ConfigError("\n".join(found))
    OmegaConf.resolve(config)
    typed = OmegaConf.to_object(config)
    if not isinstance(typed, Config):
        raise ConfigError(
            f"the configuration is a {type(typed).__name__}, not the schema; do not remove `schema` from defaults"
        )
    return typed


for _name in ("hydra", "timm"):
    logging.getLogger(_name).setLevel(logging.WARNING)
