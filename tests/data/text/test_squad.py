from __future__ import annotations

from pathlib import Path

import pytest

from qat.data.text.squad import read_squad
from qat.errors import DataError


@pytest.mark.parametrize("text", ["no json", "[]", '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": 1}]}]}]}'])
def test_file_in_another_form_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"dev\.json is not in SQuAD's form"):
        list(read_squad(path))
