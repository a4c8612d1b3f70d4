"""Distributed training: the configuration is composed once, written down, and every rank starts from that file.

(Lightning's own launcher runs the command again for every rank, and with it Hydra: inside a sweep the ranks then train with
different hyperparameters.)

torchrun starts the ranks: here through its Python interface, on several machines also by hand,
`torchrun --nnodes 2 ... -m qat.cli.worker config.yaml`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig as Torchrun
from torch.distributed.launcher.api import elastic_launch

from qat.config import Config, empty_config, to_record
from qat.config.training import TorchrunConfig
from qat.errors import ConfigError, LaunchError, PreemptedError, PrunedError, QatError
from qat.report.compare import read
from qat.report.report import Report

#: Exit codes of a rank that mean the same for the whole job.
MEANINGFUL = (2, 3, 4, 143)


def launch(config: Config, options: TorchrunConfig, overrides: Sequence[str]) -> Report | None:
    """Train with `options.nproc` ranks on this machine and return the report; None on a machine without rank 0.

    Raises:
        ConfigError: settings that cannot be.
        PreemptedError: told to end by SIGTERM; the ranks have saved a checkpoint.
        PrunedError: as the trial of a search.
        LaunchError: a rank died or failed; `exit_code` is its own where that has a meaning, else 1.
    """
    if not options.node_rank < options.nnodes:
        raise ConfigError(f"launch.node_rank={options.node_rank} must lie below launch.nnodes={options.nnodes}")
    if options.nnodes > 1 and options.endpoint is None:
        raise ConfigError(
            "launch.nnodes > 1 needs launch.endpoint=HOST:PORT, where the ranks meet on the machine of node_rank 0"
        )
    several = {"rdzv_backend": "static", "rdzv_configs": {"rank": options.node_rank, "timeout": 900}}
    torchrun = Torchrun(
        min_nodes=options.nnodes,
        max_nodes=options.nnodes,
        nproc_per_node=options.nproc,
        max_restarts=options.max_restarts,
        run_id=f"qat-{os.getpid()}" if options.nnodes == 1 else "qat",
        rdzv_endpoint=options.endpoint or "localhost:0",
        **(several if options.nnodes > 1 else {"rdzv_backend": "c10d"}),
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.nproc)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else every rank advises against find_unused_parameters
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # with a shared store ranks that are restarted with gloo never meet
    with TemporaryDirectory(prefix="qat-") as folder, _signals_kept():
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(to_record(config), sort_keys=False))
        try:
            elastic_launch(torchrun, sys.executable)("-m", "qat.cli.worker", str(path), *overrides)
        except SignalException:
            raise PreemptedError(
                f"told to end; the ranks were told as well. Continue with resume=true output={config.output}"
            ) from None
        except ChildFailedError as error:
            raise _failure(error, config) from None
    return read(Path(config.output)) if options.node_rank == 0 else None


def read_config(path: Path) -> Config:
    """The configuration in a file that `launch` or a run folder has written.

    Raises:
        ConfigError: it cannot be read, or has keys or values that no configuration has.
    """
    try:
        content = OmegaConf.load(path)
        assert isinstance(content, DictConfig), "it holds no keys"
        choices = {str(group): str(name) for group, name in content.pop("choices", {}).items()}
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(empty_config(choices)), content))
    except (OSError, yaml.YAMLError, OmegaConfBaseException, ValueError, AssertionError, ConfigError) as error:
        raise ConfigError(f"{path} is no configuration of a run: {error}") from error
    assert isinstance(config, Config)
    return config


def _failure(error: ChildFailedError, config: Config) -> QatError:
    rank, first = error.get_first_failure()
    if first.exitcode == PreemptedError.exit_code:
        return PreemptedError(f"the ranks were told to end. Continue with resume=true output={config.output}")
    if first.exitcode == PrunedError.exit_code:
        return PrunedError("the ranks were told that other trials do better")
    who = f"rank {rank} (process {first.pid})"
    if first.exitcode in MEANINGFUL:
        found = LaunchError(f"{who} ended with exit code {first.exitcode}; why, it has said above")
        found.exit_code = first.exitcode
        return found
    how = f"was killed by signal {-first.exitcode}" if first.exitcode < 0 else f"ended with exit code {first.exitcode}"
    return LaunchError(f"{who} {how}; what was saved can be continued with resume=true")


@contextmanager
def _signals_kept() -> Iterator[None]:
    """torchrun puts its own handlers in place and leaves them there."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
