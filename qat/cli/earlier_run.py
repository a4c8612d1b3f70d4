"""Commands on what a run has made take the settings of that run: they are written beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from qat.cli.names import key_of
from qat.errors import ConfigError

#: The overrides that a run was started with, in its folder.
OVERRIDES = "overrides.yaml"

#: What is about the run itself, and not about what it was made of.
OWN = frozenset("output resume baseline artifact checkpoint launch logger callbacks progress hydra gate debug".split())

#: Folders above an artifact (`RUN/artifact`) or a checkpoint (`RUN/checkpoints/qat/FILE`) in which a run may lie.
DEPTH = 3


def with_settings_of_run(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The arguments of a command on an artifact or checkpoint, behind the settings of the run that it lies in.

    Whatever the command names itself counts: `recipe=` starts afresh, another choice of a group takes nothing of the run's.

    Args:
        keys: by which the command takes what it works on.

    Raises:
        ConfigError: none of them is given, or what it names is not there.
    """
    given = {key_of(argument): argument.partition("=")[2].strip("'\"") for argument in arguments}
    places = [given[key] for key in keys if key in given]
    what = " or ".join(f"{key}=PATH" for key in keys)
    if not places:
        raise ConfigError(f"give {what}: what this command works on, such as RUN/artifact or RUN/checkpoints/qat/FILE.ckpt")
    place = Path(places[0])
    if not place.exists():
        raise ConfigError(f"there is no {place}; give {what}")
    found = next((f for f in (folder / OVERRIDES for folder in place.resolve().parents[:DEPTH]) if f.is_file()), None)
    if found is None or "recipe" in given:
        return list(arguments)
    groups = {key for key in given if "." not in key}
    kept = [
        setting
        for setting in yaml.safe_load(found.read_text()) or []
        if (key := key_of(setting)) not in given and key.partition(".")[0].partition("/")[0] not in OWN | groups
    ]
    return [*kept, *arguments]
