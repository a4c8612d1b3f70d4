from __future__ import annotations

from pathlib import Path

import pytest

from qat.data.text.conll import read_conll, tags_of
from qat.errors import DataError
from tests.data.text.samples import CONLL

TAGS = ("O", "B-person", "B-thing")


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.conll"
    path.write_text(text, encoding="utf-8")
    return path


def test_sentences_end_at_empty_lines_and_know_where_they_begin(tmp_path: Path) -> None:
    first, second = read_conll(_write(tmp_path, CONLL), TAGS)
    assert first.words == ("Anna", "put", "the", "key", ".")
    assert first.tags == (1, 0, 0, 2, 0)
    assert second.words == ("Ben", "left")
    assert (first.where[-2:], second.where[-2:]) == (":1", ":7")


def test_tabs_middle_columns_document_marks_and_several_empty_lines(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\n\nNew York\tNNP\tB-thing\nis\tVB\tO\n \n\n"
    (only,) = read_conll(_write(tmp_path, text), TAGS)
    assert only.words == ("New York", "is"), "a tab separates, so a word may hold a blank"
    assert only.tags == (2, 0)


def test_unknown_tag_is_refused_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.conll:7: unknown tag 'B-place'.*Allowed: B-person, B-thing, O"):
        list(read_conll(_write(tmp_path, CONLL.replace("Ben B-person", "Ben B-place")), TAGS))


def test_word_without_a_tag_is_refused_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.conll:2: a word and its tag were expected, got 'put'"):
        list(read_conll(_write(tmp_path, CONLL.replace("put O", "put")), TAGS))


def test_tags_of_a_file_start_with_outside_and_keep_kinds_together(tmp_path: Path) -> None:
    path = _write(tmp_path, "a I-x\nb B-y\nc O\nd B-x\n")
    assert tags_of(path) == ("O", "B-x", "I-x", "B-y")
