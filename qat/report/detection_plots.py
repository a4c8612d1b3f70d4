"""What a detector is looked at by: precision over recall, and images with the boxes of FP32 and INT8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from qat.data.detection.source import Boxes
from qat.deploy.postprocess import Detections
from qat.evaluation.average_precision import RECALLS, THRESHOLDS, curves
from qat.evaluation.evaluate import Evaluation

#: Images on the sheet: those on which the two models differ most, and as many at equal distances through the data set.
DIFFERING, REGULAR = 3, 3

#: Boxes drawn: with at least this score.
DRAWN = 0.5

COLOURS = ("#0b6e99", "#d9480f", "#5c940d", "#862e9c", "#e67700", "#1864ab", "#c2255c", "#087f5b")


def precision_recall(fp32: Evaluation, int8: Evaluation, labels: Sequence[str]) -> Figure:
    """Precision over recall of each class (at most eight) at IoU 0.5 and 0.75: FP32 dashed, INT8 solid."""
    shown = labels[: len(COLOURS)]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, threshold in zip(figure.subplots(1, 2, sharey=True), (0, 5), strict=True):
        for label, name in enumerate(shown):
            for evaluation, style in ((fp32, "--"), (int8, "-")):
                rows = evaluation.statistics.double().numpy()
                curve = curves(rows, np.ones((1, len(rows))), label, [threshold])[0][0]
                title = f"{name} {100 * np.mean(curve):.1f}" if style == "-" else None
                axes.plot(RECALLS, curve, style, color=COLOURS[label], linewidth=1.5, label=title)
        axes.set(xlabel="recall", xlim=(0, 1), ylim=(0, 1.02), title=f"IoU ≥ {THRESHOLDS[threshold]:.2f}")
        axes.grid(alpha=0.3)
        axes.legend(title="INT8 (solid), AP; FP32 dashed", fontsize="small", title_fontsize="small", loc="lower left")
    figure.axes[0].set_ylabel("precision")
    return figure


def chosen(fp32: Evaluation, int8: Evaluation) -> list[int]:
    """Positions of the images for the sheet: most boxes of FP32 that INT8 lost and of INT8 that FP32 has not, then regular."""
    pairs = list(zip(fp32.predictions, int8.predictions, strict=True))
    lost = [fp32.alike(a, b).count(False) + int8.alike(b, a).count(False) for a, b in pairs]
    differing = sorted(range(len(lost)), key=lambda i: (-lost[i], i))[:DIFFERING]
    regular = [int(i) for i in np.linspace(0, len(lost) - 1, REGULAR + 2)[1:-1]]
    return list(dict.fromkeys(differing + regular))


def sheet(
    images: Sequence[Image.Image],
    names: Sequence[str],
    truths: Sequence[Boxes],
    found: Sequence[tuple[Detections, Detections]],
    labels: Sequence[str],
) -> Figure:
    """One row per image: FP32's boxes at the left, INT8's at the right; annotated boxes are thin and dotted."""
    figure = Figure(figsize=(8.6, 4.1 * len(images)), layout="constrained")
    grid = figure.subplots(len(images), 2, squeeze=False)
    for row, (image, name, truth, pair) in enumerate(zip(images, names, truths, found, strict=True)):
        for axes, title, detections in zip(grid[row], ("FP32", "INT8"), pair, strict=True):
            axes.imshow(image, cmap="gray" if image.mode == "L" else None)
            axes.set_axis_off()
            confident = detections[detections.scores >= DRAWN]
            axes.set_title(
                f"{title}: {len(confident)} {'box' if len(confident) == 1 else 'boxes'} on {name}", fontsize="medium"
            )
            for x1, y1, x2, y2 in truth.corners.tolist():
                axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linestyle=":", linewidth=1))
            for corners, label, score in zip(
                confident.boxes.tolist(), confident.labels.tolist(), confident.scores.tolist(), strict=True
            ):
                _box(axes, corners, COLOURS[label % len(COLOURS)], f"{labels[label]} {score:.2f}")
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, bbox_inches="tight")  # equal axes push titles out of the layout
    return path


def _box(axes: Axes, corners: Sequence[float], colour: str, text: str) -> None:
    x1, y1, x2, y2 = corners
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.6))
    label = axes.text(x1, y1, text, fontsize=6, color="white", va="top", bbox={"facecolor": colour, "pad": 1, "linewidth": 0})
    label.set_clip_on(True)
