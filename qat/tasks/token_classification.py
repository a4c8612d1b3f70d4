"""Classification of words: named entities, chunks, parts of speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]
from torch import Tensor

from qat.data.text.batch import IGNORED, TextBatch
from qat.evaluation.evaluate import Formula, OfMean
from qat.evaluation.metrics import entity_f1, entity_precision, entity_recall
from qat.tasks.text import TextTask


class TokenClassificationTask(TextTask[Tensor, tuple[int, ...]]):
    """Cross entropy over the first token of every word; entity-level F1, precision and recall as conlleval counts them.

    A word that truncation cut off, or that is nothing to the tokenizer, is predicted as "O": the entities in it are missed.

    The network goes from token ids and masks (N, L) to logits (N, L, len(labels)).

    Args:
        labels: tags in IOB form, among them "O".
        metric: `f1`, `precision` or `recall`.
    """

    name = "token_classification"
    reads = "tagged words"

    known: ClassVar[Mapping[str, Formula]] = {
        "f1": OfMean(entity_f1),
        "precision": OfMean(entity_precision),
        "recall": OfMean(entity_recall),
    }

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        return F.cross_entropy(
            outputs.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )

    def predict(self, outputs: Tensor, batch: TextBatch) -> Sequence[tuple[int, ...]]:
        """The tags of every word of every sentence, as indices."""
        best = outputs.argmax(-1).cpu()
        outside = self.labels.index("O") if "O" in self.labels else 0
        predictions = []
        for row, targets, example in zip(best, batch.targets.cpu(), batch.examples.items, strict=True):
            tags = [outside] * len(example.tags)
            for word, tag in zip(example.seen, row[targets != IGNORED].tolist(), strict=True):
                tags[word] = tag
            predictions.append(tuple(tags))
        return predictions

    def describe(self, prediction: tuple[int, ...]) -> str:
        """The tags of all words."""
        return " ".join(self.labels[tag] for tag in prediction)

    def statistics(self, predictions: Sequence[tuple[int, ...]], batch: TextBatch) -> Tensor:
        """Per sentence (correct, predicted, true) entities: (N, 3)."""
        rows = []
        for found, example in zip(predictions, batch.examples.items, strict=True):
            predicted, true = (self._entities(tags) for tags in (found, example.tags))
            rows.append([len(predicted & true), len(predicted), len(true)])
        return torch.tensor(rows, dtype=torch.float32)

    def _entities(self, tags: Sequence[int]) -> set[tuple[str, int, int]]:
        return set(get_entities([self.labels[tag] for tag in tags]))
