"""Forms: the types in which a model returns its tensors. A graph returns plain tuples, lists and dicts.

Models return named tuples, dataclasses, ordered dicts and `ModelOutput`s.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from qat.errors import CaptureError


@dataclass(frozen=True)
class Form:
    """The types of what a model returns. A leaf has no kind."""

    kind: type | None = None
    parts: tuple[Form, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether a graph returns it as it is: tuples, lists and dicts."""
        return self.kind in (None, tuple, list, dict) and all(part.is_plain for part in self.parts)


#: Of one tensor.
LEAF = Form()


def form_of(value: object) -> Form:
    """The form of an output, whatever its leaves are.

    Raises:
        CaptureError: a type that has no fields by name.
    """
    if isinstance(value, tuple | list):
        return Form(type(value), tuple(form_of(item) for item in value))
    fields = fields_of(value)
    if fields is None:
        return LEAF
    if not all(isinstance(key, str) for key in fields):
        raise CaptureError(f"the model returns a {type(value).__name__} whose keys are no strings; wrap it to give them names")
    return Form(type(value), tuple(form_of(item) for item in fields.values()), tuple(fields))


def fields_of(value: object) -> dict[Any, object] | None:
    """What a mapping or dataclass holds by name; None for anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    return None


def undressed(value: object) -> Any:
    """An output in tuples, lists and dicts: named tuples become tuples, everything else with names a dict."""
    if isinstance(value, tuple | list):
        items = [undressed(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    fields = fields_of(value)
    return value if fields is None else {key: undressed(item) for key, item in fields.items()}


def dressed(value: Any, form: Form) -> Any:
    """A plain output in the types that the model returns."""
    if form.kind is None:
        return value
    if form.keys or isinstance(value, Mapping):
        items = {key: dressed(value[key], part) for key, part in zip(form.keys, form.parts, strict=True)}
        if issubclass(form.kind, defaultdict):
            return defaultdict(None, items)
        build: Any = form.kind
        return build(**items) if dataclasses.is_dataclass(form.kind) else build(items)
    parts = [dressed(item, part) for item, part in zip(value, form.parts, strict=True)]
    return form.kind(*parts) if hasattr(form.kind, "_fields") else form.kind(parts)


@contextmanager
def known_outputs(model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Iterator[None]:
    """While a model is traced, torch.export knows the dataclasses that it returns."""
    with torch.no_grad():
        kinds = set(_dataclasses(model(*args, **kwargs)))
    unknown = [kind for kind in kinds if kind not in pytree.SUPPORTED_NODES]
    for kind in unknown:
        torch.export.register_dataclass(kind)
    try:
        yield
    finally:
        for kind in unknown:
            pytree._deregister_pytree_node(kind)


def _dataclasses(value: object) -> Iterator[type]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _dataclasses(item)
    elif (fields := fields_of(value)) is not None:
        if dataclasses.is_dataclass(value):
            yield type(value)
        for item in fields.values():
            yield from _dataclasses(item)
