"""Object detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from qat.data.detection.batch import DetectionBatch
from qat.data.detection.module import counted
from qat.deploy.postprocess import Detections, decoder, overlaps
from qat.errors import ConfigError
from qat.evaluation.average_precision import Truth, mean_average_precision, records
from qat.evaluation.evaluate import Formula
from qat.tasks.task import Task

#: From this score on a detection counts as something that the model says about an image.
CONFIDENT = 0.5

#: Another model finds it again with a box of the same class, at least this IoU and at least half that score.
SAME_BOX = 0.5


class Criterion(Protocol):
    """The loss of a detector on its raw outputs."""

    def __call__(self, outputs: Sequence[Tensor], corners: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Training loss, shape (); boxes per image (M, 4) in pixels of the input, labels per image (M,)."""


@runtime_checkable
class TrainsItself(Protocol):
    """A float model whose library trains it with more than its outputs: denoising queries, losses of inner layers."""

    def training_loss(self, pixels: Tensor, corners: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Training loss, shape ()."""


class DetectionTask(Task[DetectionBatch, Sequence[Tensor], Detections]):
    """A detector's own loss, and COCO's average precision over `DetectionBatch`es, in pixels of the stored images.

    The network goes from images (N, C, H, W) to the raw outputs that `criterion` and `postprocessing` read.

    Args:
        postprocessing: the record of the float model, see `qat.deploy.postprocess`.
        criterion: see `Criterion`; None for a network that is judged only.
        labels, metric: see `Task`; the metric is `map`, `map50` or `map75`.

    Reference: Lin et al. 2014, arXiv:1405.0312.
    """

    name = "detection"
    reads = "images with boxes"

    def __init__(
        self,
        *,
        labels: Sequence[str],
        postprocessing: Mapping[str, object],
        criterion: Criterion | None = None,
        label_smoothing: float = 0.0,
        metric: str | None = None,
    ) -> None:
        super().__init__(labels=labels, label_smoothing=label_smoothing, metric=metric)
        self._criterion = criterion
        self._decode = decoder(postprocessing)

    @classmethod
    def metrics_for(cls, labels: Sequence[str]) -> Mapping[str, Formula]:
        """mAP over IoU 0.5 to 0.95, at 0.5 and at 0.75, and the AP of every class."""
        classes = len(labels)
        return {
            "map": mean_average_precision(classes),
            "map50": mean_average_precision(classes, threshold=0),
            "map75": mean_average_precision(classes, threshold=5),
            **{f"ap/{name}": mean_average_precision(classes, label=i) for i, name in enumerate(labels)},
        }

    def inputs(self, batch: DetectionBatch) -> tuple[Tensor, ...]:
        return batch.inputs

    def training_loss(self, network: nn.Module, batch: DetectionBatch) -> Tensor:
        """A float model of a library is trained with the library's own loss, everything else with `loss`."""
        if isinstance(network, TrainsItself):
            return network.training_loss(batch.inputs[0], batch.corners, batch.labels)
        return super().training_loss(network, batch)

    def loss(self, outputs: Sequence[Tensor], batch: DetectionBatch) -> Tensor:
        assert self._criterion is not None, "a task without a criterion judges, and does not train"
        return self._criterion(outputs, batch.corners, batch.labels)

    def predict(self, outputs: Sequence[Tensor], batch: DetectionBatch) -> Sequence[Detections]:
        """`Detections` of every image in pixels of the stored image."""
        return [
            found.placed(seen.placement.to_image(found.boxes), seen.width, seen.height)
            for found, seen in zip(self._decode(outputs), batch.examples.items, strict=True)
        ]

    def statistics(self, predictions: Sequence[Detections], batch: DetectionBatch) -> Tensor:
        """See `qat.evaluation.average_precision.records`."""
        truths = [
            Truth(boxes=seen.boxes.corners, labels=seen.boxes.labels, crowd=seen.boxes.crowd) for seen in batch.examples.items
        ]
        return records(predictions, truths, classes=len(self.labels))

    def alike(self, prediction: Detections, other: Detections) -> Sequence[bool]:
        return found_again(prediction, other)

    def describe(self, prediction: Detections) -> str:
        """How many confident boxes of each class."""
        return counted(prediction.labels[prediction.scores >= CONFIDENT].tolist(), self.labels)

    def _checked_smoothing(self, label_smoothing: float) -> float:
        if label_smoothing:
            raise ConfigError("label_smoothing has no meaning for detectors, whose losses are their library's; leave it out")
        return label_smoothing


def found_again(first: Detections, second: Detections) -> list[bool]:
    """Of every confident detection of `first`, best first, whether `second` has one for it: of the same class, with IoU of at
    least `SAME_BOX` and a score of at least half of `CONFIDENT`; none is taken twice."""
    confident, likely = first[first.scores >= CONFIDENT], second[second.scores >= CONFIDENT / 2]
    fits = overlaps(confident.boxes, likely.boxes) * (confident.labels[:, None] == likely.labels[None])
    found = []
    for row in range(len(confident)):
        best = int(fits[row].argmax()) if len(likely) else -1
        found.append(best >= 0 and float(fits[row, best]) >= SAME_BOX)
        if found[-1]:
            fits[:, best] = 0.0
    return found
