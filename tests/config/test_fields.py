from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from qat.config.fields import MISSING, between, mistakes, one_of, refuse_mistakes
from qat.errors import ConfigError


@dataclass
class _Inner:
    word: str = one_of("red", "red", "green")
    share: float = between(0.5, 0, 1)


@dataclass
class _Outer:
    inner: _Inner = field(default_factory=_Inner)
    count: int | None = between(None, 1)
    path: str = MISSING


def test_defaults_and_what_is_left_open_are_no_mistakes() -> None:
    assert list(mistakes(_Outer())) == []
    refuse_mistakes(_Outer())


def test_every_mistake_is_named_with_its_key_and_what_is_allowed() -> None:
    found = list(mistakes(_Outer(inner=_Inner(word="gren", share=1.5), count=0)))
    assert found == [
        "inner.word=gren: unknown word. Did you mean 'green' or 'red'? Allowed: green, red.",
        "inner.share=1.5: must be from 0 to 1",
        "count=0: must be at least 1",
    ]
    with pytest.raises(ConfigError, match=r"inner\.word=gren.*\ninner\.share=1\.5.*\ncount=0"):
        refuse_mistakes(_Outer(inner=_Inner(word="gren", share=1.5), count=0))


def test_bounds_themselves_are_allowed() -> None:
    assert list(mistakes(_Outer(inner=_Inner(share=0.0), count=1))) == []
    assert list(mistakes(_Outer(inner=_Inner(share=1.0)))) == []
