"""Keys and choices of earlier versions, answered with what replaces them."""

from __future__ import annotations

from collections.abc import Iterable

from qat.errors import ConfigError

#: Earlier key -> what to give now.
_MOVED = {
    "data.source": "data=NAME",
    "model.source": "model=NAME (timm, timm_detector, hf_image, hf_text, hf_detector, module)",
    "data.workers": "data.num_workers",
    "accelerator": "trainer=cpu, gpu or auto, or trainer.accelerator",
    "precision": "trainer.precision",
    "metric": "task.metric",
    "project": "logger.project",
    "group": "logger.group",
    "tags": "logger.tags",
    **{f"trainer.{key}": "launch=torchrun launch.nproc=N" for key in ("devices", "strategy", "num_nodes")},
    "launch.kind": "launch=none or torchrun",
    **{f"{stage}.epochs": f"{stage}.max_epochs" for stage in ("fp32", "qat")},
    **{f"{stage}.gradient_clip": f"{stage}.gradient_clip_val" for stage in ("fp32", "qat")},
    **{f"{stage}.optimizer": "optimizer=NAME" for stage in ("fp32", "qat")},
    **{f"{stage}.momentum": "optimizer.momentum" for stage in ("fp32", "qat")},
}

_TARGETS = ("quantization", "quantization.target")


def key_of(override: str) -> str:
    """The key of an override, without the signs that say what is done with it."""
    return override.lstrip("+~").partition("=")[0]


def earlier(override: str) -> str | None:
    """What replaces a key or a choice of an earlier version; None for those of today."""
    key, value = key_of(override), override.partition("=")[2]
    if key in _MOVED:
        return f"{override}: {key} has moved; give {_MOVED[key]}"
    if key == "data.options" or key.startswith("data.options."):
        return f"{override}: keys of a data set stand beside the others; give data{key.removeprefix('data.options') or '.KEY'}"
    if key == "quantization.backend" or (key in _TARGETS and value.strip()):
        return _target(override, key, value)
    return None


def refuse_earlier(overrides: Iterable[str]) -> None:
    """`ConfigError` with what replaces each key or choice of an earlier version."""
    if found := [words for override in overrides if (words := earlier(override))]:
        raise ConfigError("\n".join(found))


def _target(override: str, key: str, value: str) -> str | None:
    from qat.quantization.targets import TARGETS, renamed  # torch takes a second to import

    if key == "quantization.backend":
        return f"{override}: a target is one word now, quantization=NAME, of {', '.join(TARGETS)}.{renamed(value) or ''}"
    for name in value.split(","):
        if words := renamed(name.strip()):
            return f"{override}: unknown target {name!r}.{words}"
    return None
