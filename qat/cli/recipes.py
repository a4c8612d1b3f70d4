"""Recipes: YAML files with overrides, discovered and offered to Hydra as the group `recipe`.

A new recipe is one file in `recipes/`; nothing is listed by hand. File names are flat and unique.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from qat.config import CHOICES, MISSING, Config
from qat.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]


def folder(name: str) -> Path:
    """`conf` or `recipes`: inside an installed wheel, or beside the package in a checkout."""
    for candidate in (_PACKAGE / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"the folder {name!r} is missing from this installation of qat; install it again")


def recipes() -> dict[str, Any]:
    """Content of every recipe by name.

    Raises:
        ConfigError: none was found.
    """
    found = {path.stem: OmegaConf.load(path) for path in sorted(folder("recipes").glob("*.yaml"))}
    if not found:
        raise ConfigError(f"no recipe in {folder('recipes')}")
    return found


def register() -> None:
    """Give Hydra the typed schema, the choices of every group and every recipe."""
    store = ConfigStore.instance()
    chosen_later: dict[str, Any] = dict.fromkeys(CHOICES, MISSING)
    store.store(name="schema", node=Config(**chosen_later))
    for group, choices in CHOICES.items():
        for name, choice in choices.items():
            store.store(group=group, name=name, node=choice)
    for name, content in recipes().items():
        store.store(group="recipe", name=name, node=content, package="_global_")
    # Hydra copies the whole store for every question about a group, and nobody changes it: without this, --help takes 10 s.
    store.__dict__["__deepcopy__"] = lambda memo: store
    if not OmegaConf.has_resolver("required"):
        OmegaConf.register_new_resolver("required", lambda: None)  # `check` has refused it before anything reads it
    if not OmegaConf.has_resolver("first"):
        OmegaConf.register_new_resolver("first", lambda *values: next((str(value) for value in values if value), "custom"))
