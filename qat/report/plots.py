"""The pictures of a run, by task; they stand in `plots/` of the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qat.data import DataModule, DetectionData, ImageData, TextData
from qat.evaluation.evaluate import Evaluation
from qat.report.confusion import MOST_CLASSES, confusion, confusion_plot
from qat.report.detection_plots import chosen, precision_recall, save, sheet
from qat.report.disagreements import STRIP, differing, strip


def draw(task: str, data: DataModule, fp32: Evaluation, int8: Evaluation, folder: Path) -> list[Path]:
    """Draw what there is to look at for this task; returns the files."""
    return PLOTS[task](data, fp32, int8, folder) if task in PLOTS else []


def _detection(data: DataModule, fp32: Evaluation, int8: Evaluation, folder: Path) -> list[Path]:
    assert isinstance(data, DetectionData)
    images = data.test_images
    positions = chosen(fp32, int8)
    boxes = sheet(
        [images.image(i) for i in positions],
        [images.table.name(images.indices[i]) for i in positions],
        [images.table.boxes(images.indices[i]) for i in positions],
        [(fp32.predictions[i], int8.predictions[i]) for i in positions],
        data.labels,
    )
    curves = precision_recall(fp32, int8, data.labels)
    return [save(curves, folder / "precision_recall.svg"), save(boxes, folder / "boxes.png")]


def _classes(data: DataModule, fp32: Evaluation, int8: Evaluation, folder: Path) -> list[Path]:
    assert isinstance(data, ImageData | TextData)
    classes = len(data.labels)
    if classes > MOST_CLASSES:
        return []
    counts = [confusion(data.test_targets(), list(found.predictions), classes) for found in (fp32, int8)]
    return [save(confusion_plot(counts[0], counts[1], data.labels), folder / "confusion.svg")]


def _images(data: DataModule, fp32: Evaluation, int8: Evaluation, folder: Path) -> list[Path]:
    """What is taken for what, and the images that are taken for something else; where there are none, no picture."""
    assert isinstance(data, ImageData)
    files = _classes(data, fp32, int8, folder)
    (folder / STRIP).unlink(missing_ok=True)  # of an earlier evaluation of a run that is resumed
    images = [data.test_images.image(i) for i in differing(fp32, int8)]
    if images:
        folder.mkdir(parents=True, exist_ok=True)
        strip(images).save(folder / STRIP)
        files.append(folder / STRIP)
    return files


#: Task -> (data, FP32, INT8, folder) -> files written.
PLOTS: dict[str, Callable[[DataModule, Evaluation, Evaluation, Path], list[Path]]] = {
    "classification": _images,
    "text_classification": _classes,
    "detection": _detection,
}
