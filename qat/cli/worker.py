"""One rank of a distributed training, started by torchrun: `python -m qat.cli.worker OVERRIDE ...`, as for `qat-train`.

Or `CONFIG.yaml [OVERRIDE ...]`: then the file is the whole configuration, and overrides are only recorded in the run folder.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from torch import distributed

from qat.cli.check import compose_config
from qat.cli.launch import read_config
from qat.cli.main import say
from qat.errors import ConfigError, PreemptedError, QatError
from qat.pipeline.train import train
from qat.ranks import differences, join, leads

#: `PR_SET_PDEATHSIG` of Linux: the signal that a process gets when its parent dies.
PARENT_DEATH_SIGNAL = 1


def main() -> int:
    """Train as this rank; returns the exit code."""
    parser = argparse.ArgumentParser(prog="qat.cli.worker", description=__doc__)
    parser.add_argument("arguments", nargs="+", metavar="CONFIG.yaml|OVERRIDE", help="a resolved configuration, or KEY=VALUE")
    _end_with_parent()
    try:
        first, *overrides = parser.parse_args().arguments
        config = compose_config(overrides := [first, *overrides]) if "=" in first else read_config(Path(first))
        join(accelerator=config.trainer.accelerator)
        shared = {key: value for key, value in asdict(config).items() if key != "launch"}  # which machine it is differs
        if found := differences(shared):
            raise ConfigError(f"the ranks were started with different configurations: {found}. Start all with the same one")
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
            config = replace(config, resume=True)
        logging.basicConfig(level=logging.INFO if leads() else logging.WARNING, stream=sys.stdout, format="%(message)s")
        train(config, overrides=overrides, console=Console(quiet=not leads()))
        distributed.destroy_process_group()
    except QatError as error:
        if leads() or not isinstance(error, PreemptedError):  # all ranks are told alike
            say(error)
        return error.exit_code
    return 0


def _end_with_parent() -> None:
    """A rank whose torchrun was killed would train on, and hold its run folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
