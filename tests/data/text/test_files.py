from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qat.data.text.files import read_rows, text_source
from qat.data.text.source import Question, Sentence, Tagged
from qat.errors import ConfigError, DataError
from tests.data.text.samples import CONLL, write_squad, write_tsv


def _source(root: Path, **options: Any) -> Any:
    return text_source(root, **{"train": "train.tsv", "test": "test.tsv", **options})


def _pair(root: Path, rows: list[list[str]], header: tuple[str, ...] = ("text", "label")) -> Path:
    write_tsv(root / "train.tsv", rows, header)
    write_tsv(root / "test.tsv", rows[:1], header)
    return root


def test_tsv_gives_sentences_with_file_and_line(tmp_path: Path) -> None:
    source = _source(_pair(tmp_path, [["a b", "no"], ['say "c', "yes"]]))
    assert source.labels == ("no", "yes")
    assert source.kind == "sentences"
    second = source.train.examples[1]
    assert second == Sentence(text='say "c', pair=None, target=1, where=f"{tmp_path / 'train.tsv'}:3")
    assert source.train.targets.tolist() == [0, 1]


def test_csv_with_quotes_and_json_lines_give_the_same_examples(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"one, two",x\nthree,y\n')
    (tmp_path / "a.jsonl").write_text('{"text": "one, two", "label": "x"}\n{"text": "three", "label": "y"}\n')
    both = [_source(tmp_path, train=f"a.{kind}", test=f"a.{kind}").train.examples for kind in ("csv", "jsonl")]
    assert [e[:3] for e in both[0]] == [e[:3] for e in both[1]] == [("one, two", None, 0), ("three", None, 1)]


def test_pairs_and_column_names_are_read_as_the_recipe_says(tmp_path: Path) -> None:
    _pair(tmp_path, [["p", "h", "2"], ["q", "i", "10"]], ("premise", "hypothesis", "gold"))
    source = _source(tmp_path, text_column="premise", pair_column="hypothesis", label_column="gold")
    assert source.train.examples[0][:2] == ("p", "h")
    assert source.labels == ("2", "10"), "numbers in their order"


@pytest.mark.parametrize(("labels", "names"), [("labels.json:coarse", ("a", "b")), (["a", "b"], ("a", "b"))])
def test_labels_come_from_a_file_or_the_recipe_and_numbers_mean_them(
    tmp_path: Path, labels: Any, names: tuple[str, ...]
) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({"coarse": ["a", "b"], "fine": ["a:x"]}))
    source = _source(_pair(tmp_path, [["t", "1"], ["u", "a"]]), labels=labels)
    assert source.labels == names
    assert source.train.targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([["a", "x"], ["b", "x", "more"]], ("text", "label"), r"train\.tsv:3: 3 columns, the first line names 2"),
        ([["a", "x"], ["b"]], ("text", "label"), r"train\.tsv:3: 1 columns"),
        ([["a", "x"]], ("txt", "label"), r"train\.tsv:2: no column 'text'.*Did you mean 'txt'"),
    ],
)
def test_malformed_table_is_refused_with_file_and_line(
    tmp_path: Path, rows: list[list[str]], header: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _source(_pair(tmp_path, rows, header))


def test_unknown_label_is_refused_with_file_and_line_and_near_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.tsv:3: unknown label 'positve'.*Did you mean 'positive'"):
        _source(_pair(tmp_path, [["a", "0"], ["b", "positve"]]), labels=["negative", "positive"])
    with pytest.raises(DataError, match=r"unknown label '2'"):
        _source(_pair(tmp_path, [["a", "2"]]), labels=["negative", "positive"])


def test_line_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nnot json\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: no JSON"):
        list(read_rows(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: a JSON object was expected, got list"):
        list(read_rows(tmp_path / "a.jsonl"))


def test_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("text\tlabel\nstra\xdfe\tx\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.tsv is not UTF-8"):
        list(read_rows(tmp_path / "a.tsv"))


def test_missing_files_folders_and_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        _source(tmp_path / "nowhere")
    _pair(tmp_path, [["a", "x"]])
    with pytest.raises(DataError, match=r"there is no file .*dev\.tsv; .* holds test\.tsv, train\.tsv"):
        _source(tmp_path, val="dev.tsv")
    (tmp_path / "a.xml").write_text("<a/>")
    with pytest.raises(DataError, match="unknown kind of file"):
        _source(tmp_path, train="a.xml")
    with pytest.raises(ConfigError, match="holds no such list"):
        _source(tmp_path, labels="labels.json")


def test_conll_and_squad_are_told_by_their_ending(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    tags = _source(tmp_path, train="a.conll", test="a.conll")
    assert tags.kind == "tagged words"
    assert tags.labels == ("O", "B-person", "B-thing")
    assert isinstance(tags.train.examples[0], Tagged)
    write_squad(tmp_path / "a.json", [("who ?", "anna left", "anna"), ("what ?", "ben ran", None)])
    asked = _source(tmp_path, train="a.json", test="a.json")
    assert (asked.kind, asked.labels) == ("questions", ())
    assert asked.train.examples[0][:3] == ("who ?", "anna left", (("anna", 0),))
    assert isinstance(asked.train.examples[1], Question)
    assert asked.train.examples[1].answers == ()
