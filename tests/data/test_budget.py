from __future__ import annotations

import pytest

from qat.data.budget import check_budget
from qat.errors import DataError


def test_check_budget_names_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    check_budget(["a.jpg: truncated"], scanned=100, budget=0.01)
    assert "1 of 100 images cannot be decoded and are left out:\n  a.jpg: truncated" in caplog.text
    with pytest.raises(DataError, match=r"2 of 100 images .* more than data.corrupt_budget=0.01 allows \(1\):\n  a\n  b"):
        check_budget(["a", "b"], scanned=100, budget=0.01)


def test_check_budget_says_what_is_wrong_with_them() -> None:
    with pytest.raises(DataError, match=r"1 of 4 texts are empty, more than data.corrupt_budget=0 allows"):
        check_budget(["a.tsv:3: empty text"], scanned=4, budget=0, what="texts are empty")


def test_nothing_bad_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    check_budget([], scanned=100, budget=0)
    assert not caplog.text
