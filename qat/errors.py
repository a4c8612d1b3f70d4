"""Every error that `qat` raises on purpose, with the exit code that its commands end with.

A message says what was given, what is allowed and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QatError(Exception):
    """Base of all errors raised on purpose; ends a command with `exit_code`."""

    exit_code = 2


class CaptureError(QatError):
    """The model cannot be turned into one graph."""


class QParamsError(QatError, ValueError):
    """A scale, a zero point or a range that no INT8 grid can have."""


class CalibrationError(QatError):
    """Calibration saw nothing, or something that has no range (NaN, infinity)."""


class KeepFloatError(QatError):
    """A `keep_float` pattern that matches no layer."""


class ConvertError(QatError):
    """The prepared model cannot become an INT8 program."""


class SchemeError(QatError):
    """A checkpoint of one quantization scheme was loaded into a model prepared with another."""


class ProgramError(QatError):
    """An INT8 program that is malformed: unknown op, missing tensor, dangling reference."""


class ArtifactError(QatError):
    """An artifact folder that is damaged, foreign or unsafe."""


class EngineError(QatError):
    """An engine that does not exist here, or that cannot run this program."""


class InputError(QatError, ValueError):
    """A batch whose shape or dtype is not what the INT8 model takes."""


class DataError(QatError):
    """Data that is missing, empty or damaged beyond its budget."""


class NotANumberError(DataError):
    """Data that holds NaN: training on it could only diverge, so it ends with the same code."""

    exit_code = 3


class ConfigError(QatError):
    """A configuration value that is unknown or does not fit the others."""


class DivergedError(QatError):
    """The loss became NaN, infinite or exploded."""

    exit_code = 3


class RangesError(QatError):
    """The ranks of a distributed training quantize differently: a bug of whatever trained them."""

    exit_code = 1


class PreemptedError(QatError):
    """The run was told to end and can be resumed."""

    exit_code = 143


class PrunedError(QatError):
    """A trial of a search that was ended early because others do better; the search itself goes on and ends well."""

    exit_code = 5


class GateError(QatError):
    """A fidelity gate or the accuracy budget failed."""

    exit_code = 4


class LaunchError(QatError):
    """What starts the jobs of a sweep or the ranks of a training failed itself."""

    exit_code = 1


class SweepEnded(SystemExit):
    """All jobs of a sweep have ended; carries their exit code through Hydra, which knows 0 and 1."""


#: Names that a message lists; of more, the nearest.
MOST_NAMES = 30


def near(given: str, allowed: Iterable[str]) -> str:
    """Name what is nearest to `given` and what else is allowed: the second half of every 'unknown ...' message."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    shown = names if len(names) <= MOST_NAMES else sorted(difflib.get_close_matches(given, names, n=MOST_NAMES, cutoff=0.0))
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return f"{hint} Allowed: {', '.join(shown) or 'none'}{more}."
