"""Commands: thin Hydra apps, one verb each. Configuration ends here; the flow below takes plain typed values.

Exit codes: 0 done, 2 bad configuration or input, 3 diverged, 4 a gate failed, 143 told to end (resumable), 1 a bug.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from qat.cli.recipes import folder, register
from qat.config import Config
from qat.errors import ConfigError, QatError, SweepEnded


def train() -> None:
    """FP32 -> PTQ -> QAT -> INT8 -> artifact -> report."""
    _main(_train)


def evaluate() -> None:
    """The metric of an artifact or a QAT checkpoint on any engine."""
    from qat.pipeline.deployed import evaluate_deployed

    _main(_of_checkpoint(evaluate_deployed))


def inspect() -> None:
    """Coverage, ranges and per-layer SQNR of a QAT checkpoint or an artifact."""
    from qat.pipeline.deployed import inspect_deployed

    _main(_of_checkpoint(inspect_deployed))


def benchmark() -> None:
    """Latency against FP32 eager, interleaved."""
    from qat.pipeline.deployed import benchmark_deployed

    _main(lambda config, _: benchmark_deployed(config))


def export() -> None:
    """A QAT checkpoint to an artifact folder."""
    from qat.pipeline.deployed import export_checkpoint

    _main(_of_checkpoint(export_checkpoint))


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
        refuse_earlier_names(arguments.overrides)
        write_text(arguments.output, yaml.safe_dump(describe(arguments.overrides, arguments.method), sort_keys=False))
    except QatError as error:
        say(error)
        raise SystemExit(error.exit_code) from None
    Console().print(f"{arguments.output} is written; next: wandb sweep {arguments.output}", highlight=False)


def say(error: QatError) -> None:
    """One message for a mistake or a failure, without a traceback."""
    message = escape(str(error))  # it may hold [brackets], which rich would take for a style
    Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: {message}", highlight=False, soft_wrap=True)


def _train(config: Config, overrides: list[str]) -> Any:
    """In this process, or in several that `launch` starts."""
    from qat.quantization.engines import check_engines

    check_engines(config.engines, config.quantization.target)  # before Lightning, data and models cost seconds
    from qat.cli.launch import check_kind, launch
    from qat.pipeline.train import train as run

    check_kind(config.launch.kind)
    return launch(config, overrides) if config.launch.kind == "torchrun" else run(config, overrides=overrides)


def _of_checkpoint(verb: Callable[[Config], Any]) -> Callable[[Config, list[str]], Any]:
    """A verb that takes a checkpoint for the target that it was trained for, where the command names no other."""
    from qat.pipeline.loading import with_own_target

    def call(config: Config, overrides: list[str]) -> Any:
        keys = {override.lstrip("+~").partition("=")[0] for override in overrides}
        return verb(config if keys & {"quantization", "quantization.target"} else with_own_target(config))

    return call


def refuse_earlier_names(arguments: Sequence[str]) -> None:
    """Name what replaces a choice of an earlier qat; of an unknown one Hydra says what there is.

    Raises:
        ConfigError: an argument has the earlier name of a target.
    """
    from qat.quantization.targets import TARGETS, renamed

    for argument in arguments:
        key, _, value = argument.lstrip("+~").partition("=")
        if key == "quantization.backend":
            raise ConfigError(
                f"{argument}: a target is one word now, quantization=NAME, of {', '.join(TARGETS)}.{renamed(value) or ''}"
            )
        if key in ("quantization", "quantization.target"):
            for name in value.split(","):
                if words := renamed(name.strip()):
                    raise ConfigError(f"{argument}: unknown target {name!r}.{words}")


def _main(verb: Callable[[Config, list[str]], Any]) -> None:
    """Compose the configuration, run `verb`, turn errors into one message and an exit code."""
    try:
        refuse_earlier_names(sys.argv[1:])
    except ConfigError as error:
        say(error)
        raise SystemExit(error.exit_code) from None
    register()
    code = [2]  # Hydra ends with 1 for a configuration that it cannot compose

    def job(config: DictConfig) -> Any:
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


def _typed(config: DictConfig) -> Config:
    """The composed configuration as the plain dataclass that the flow takes."""
    own = HydraConfig.get()
    if own.mode is RunMode.MULTIRUN:  # jobs of one sweep lie in its folder, and W&B shows them together
        if not any(override.lstrip("+").startswith("output=") for override in own.overrides.task):
            config.output = own.runtime.output_dir
        config.group = config.group or Path(own.sweep.dir).name
    OmegaConf.resolve(config)
    typed = OmegaConf.to_object(config)
    if not isinstance(typed, Config):
        raise ConfigError(
            f"the configuration is a {type(typed).__name__}, not the schema; do not remove `schema` from defaults"
        )
    return typed


for _name in ("hydra", "timm"):
    logging.getLogger(_name).setLevel(logging.WARNING)
