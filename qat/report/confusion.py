"""Which classes are taken for which, by FP32 and by INT8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

#: More classes than this have no names and no numbers in the plot; more than `MOST_CLASSES` no plot.
NAMED, MOST_CLASSES = 20, 200


def confusion(targets: Sequence[int], predictions: Sequence[int], classes: int) -> npt.NDArray[np.int64]:
    """Counts of (true class, predicted class): shape (classes, classes)."""
    pairs = np.asarray(targets, dtype=np.int64) * classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def confusion_plot(fp32: npt.NDArray[np.int64], int8: npt.NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Two matrices side by side, coloured by share of the true class, with counts where there is room."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    for axes, title, counts in zip(figure.subplots(1, 2), ("FP32", "INT8"), (fp32, int8), strict=True):
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        axes.set(title=title, xlabel="predicted", ylabel="true")
        if len(labels) > NAMED:
            continue
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize="small")
        axes.set_yticks(range(len(labels)), labels, fontsize="small")
        for row, column in np.argwhere(counts > 0):
            shade = "white" if shares[row, column] > 0.6 else "#1b1f24"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=shade, fontsize=7)
    return figure
