from __future__ import annotations

import numpy as np

from qat.report.confusion import NAMED, confusion, confusion_plot


def test_confusion_counts_pairs_of_true_and_decided() -> None:
    found = confusion([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2], 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_confusion_plot_has_numbers_and_names_where_there_is_room() -> None:
    counts = np.diag([5, 0, 7])
    figure = confusion_plot(counts, counts + np.eye(3, dtype=np.int64)[::-1], ["a", "b", "c"])
    fp32, int8 = figure.axes
    assert (fp32.get_title(), int8.get_title()) == ("FP32", "INT8")
    assert [text.get_text() for text in fp32.texts] == ["5", "7"]
    assert [text.get_text() for text in int8.texts] == ["5", "1", "1", "1", "7"]
    assert [label.get_text() for label in fp32.get_yticklabels()] == ["a", "b", "c"]
    many = NAMED + 1
    bare = confusion_plot(np.eye(many, dtype=np.int64), np.eye(many, dtype=np.int64), [str(i) for i in range(many)]).axes[0]
    assert len(bare.texts) == 0
