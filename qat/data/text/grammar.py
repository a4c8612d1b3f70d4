"""A generated language of short sentences about who is where: no download, three tasks, learned in seconds.

Anna put the red key in the kitchen .        What it is about (person, thing, place) depends on word order and negation,
Where is the red key ?                       so a bag of words does not solve it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from qat.data.text.source import Example, Question, Sentence, Tagged, TextSource, TextTable
from qat.errors import ConfigError, near

PEOPLE = "anna ben carla david emma felix greta hugo iris jonas".split()
THINGS = "key book lamp phone cup coat ball map bag pen".split()
COLOURS = "red blue green black white old new small".split()
PLACES = "kitchen garden office cellar attic car school shop".split()
GOOD = "lovely bright clever charming warm honest".split()
BAD = "dull grim clumsy cold tired noisy".split()


def grammar_source(*, kind: str = "sentences", train: int = 1200, test: int = 400, seed: int = 0) -> TextSource:
    """Sentences with their sentiment, words tagged with entities, or questions with answers in a short story.

    Args:
        kind: `sentences`, `tags` or `questions`.
        train, test: how many.
        seed: of the choice of words; train and test never share a sentence.
    """
    if kind not in _MAKERS:
        raise ConfigError(f"unknown data.kind {kind!r}.{near(kind, _MAKERS)}")
    labels, make = _MAKERS[kind]
    rng = random.Random(seed)
    seen: set[str] = set()
    examples: list[Example] = []
    while len(examples) < train + test:
        example = make(rng, f"{kind}[{len(examples)}]")
        identity = repr(example[:-1])
        if identity not in seen:
            seen.add(identity)
            examples.append(example)
    return TextSource(
        name=f"grammar/{kind}",
        labels=labels,
        train=TextTable(tuple(examples[:train])),
        test=TextTable(tuple(examples[train:])),
    )


def _sentence(rng: random.Random, where: str) -> Example:
    """Two clauses; the one behind "but" counts, and "not" turns it around."""
    clauses, signs = [], []
    for _ in range(2):
        good, negated = rng.random() < 0.5, rng.random() < 0.3
        word = rng.choice(GOOD if good else BAD)
        thing = f"the {rng.choice(COLOURS)} {rng.choice(THINGS)} in the {rng.choice(PLACES)}"
        clauses.append(f"{thing} is {'not ' if negated else ''}{word}")
        signs.append(good != negated)
    return Sentence(text=f"{clauses[0]} but {clauses[1]} .", pair=None, target=int(signs[1]), where=where)


_TAGS = ("O", "B-person", "I-person", "B-place", "I-place", "B-thing", "I-thing")


def _tagged(rng: random.Random, where: str) -> Example:
    """Names of one or two words; a colour is part of a thing, and of a place when it stands before one."""
    person = rng.sample(PEOPLE, rng.choice((1, 2)))
    thing, place = [rng.choice(COLOURS), rng.choice(THINGS)], [rng.choice(COLOURS), rng.choice(PLACES)]
    parts: list[tuple[list[str], str | None]] = [(person, "person"), (["put", "the"], None), (thing, "thing")]
    parts += [(["in", "the"], None), (place, "place"), (["."], None)]
    if rng.random() < 0.5:
        parts = [(["in", "the"], None), (place, "place"), *parts[:3], (["."], None)]
    words, tags = [], []
    for span, kind in parts:
        words += span
        tags += [0] * len(span) if kind is None else [_TAGS.index(f"{'I' if i else 'B'}-{kind}") for i in range(len(span))]
    return Tagged(words=tuple(words), tags=tuple(tags), where=where)


def _question(rng: random.Random, where: str) -> Example:
    """A story of three sentences and one question about where a thing is."""
    things = rng.sample([f"{c} {t}" for c in COLOURS for t in THINGS], 3)
    places = rng.sample([f"{c} {p}" for c in COLOURS for p in PLACES], 3)
    story = [f"{rng.choice(PEOPLE)} put the {t} in the {p} ." for t, p in zip(things, places, strict=True)]
    asked = rng.randrange(3)
    context = " ".join(story)
    begin = context.index(f"the {things[asked]} in the ") + len(f"the {things[asked]} in the ")
    return Question(question=f"where is the {things[asked]} ?", context=context, answers=((places[asked], begin),), where=where)


_MAKERS: dict[str, tuple[tuple[str, ...], Callable[[random.Random, str], Example]]] = {
    "sentences": (("negative", "positive"), _sentence),
    "tags": (_TAGS, _tagged),
    "questions": ((), _question),
}
