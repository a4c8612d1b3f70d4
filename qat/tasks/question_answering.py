"""Extractive question answering: the span of a context that answers a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.text import squad

from qat.data.text.batch import IGNORED, TextBatch
from qat.evaluation.evaluate import Formula, OfMean, mean_score
from qat.tasks.text import TextTask

#: Answers of more tokens are not considered.
MAX_ANSWER_TOKENS = 30


class QuestionAnsweringTask(TextTask[Sequence[Tensor], str]):
    """Cross entropy of start and end; SQuAD's F1 and exact match over whole questions, whatever number of windows they need.

    The network goes from token ids and masks (N, L) to start and end logits, each (N, L).

    Args:
        metric: `f1` or `exact_match`.

    Reference: Rajpurkar et al. 2016, arXiv:1606.05250; Devlin et al. 2019, arXiv:1810.04805, section 4.2 (span scores).
    """

    name = "question_answering"
    reads = "questions"

    known: ClassVar[Mapping[str, Formula]] = {"f1": mean_score, "exact_match": OfMean(lambda means: means[..., 1])}

    def loss(self, outputs: Sequence[Tensor], batch: TextBatch) -> Tensor:
        """Targets have shape (N, 2): first and last token of the answer, or 0 and 0 where the window does not hold it."""
        losses = [
            F.cross_entropy(logits, batch.targets[:, i], ignore_index=IGNORED, label_smoothing=self.label_smoothing)
            for i, logits in enumerate(outputs)
        ]
        return (losses[0] + losses[1]) / 2

    def predict(self, outputs: Sequence[Tensor], batch: TextBatch) -> Sequence[str]:
        """The best span of every question over all its windows, as text; "" where no answer scores higher.

        A window without the answer rightly prefers none, so the score of no answer is the smallest of all windows.
        """
        starts, ends = (logits.float().cpu() for logits in outputs)
        predictions = []
        for example in batch.examples.items:
            score, text, none = -torch.inf, "", torch.inf
            for row, spans in zip(example.windows, example.offsets, strict=True):
                found, begin, end = best_span(starts[row], ends[row], spans)
                none = min(none, float(starts[row, 0] + ends[row, 0]))
                if found > score:
                    score, text = found, example.context[begin:end]
            predictions.append("" if example.may_have_none and none > score else text)
        return predictions

    def statistics(self, predictions: Sequence[str], batch: TextBatch) -> Tensor:
        """Per question (F1, exact match) in points: (N, 2)."""
        rows = []
        for text, example in zip(predictions, batch.examples.items, strict=True):
            answers = list(example.answers) or [""]
            found = squad(
                {"prediction_text": text, "id": "0"},
                {"answers": {"answer_start": [0] * len(answers), "text": answers}, "id": "0"},
            )
            rows.append([float(found["f1"]), float(found["exact_match"])])
        return torch.tensor(rows, dtype=torch.float32)


def best_span(starts: Tensor, ends: Tensor, spans: Sequence[tuple[int, int] | None]) -> tuple[float, int, int]:
    """The answer of a window: score, first and behind-last character in the context.

    score = max over first <= last < first + MAX_ANSWER_TOKENS of start[first] + end[last], both tokens in the context.

    Args:
        starts, ends: shape (L,), L at least the number of spans (padding behind).
        spans: characters of each token; None outside of the context.
    """
    length = len(spans)
    outside = torch.tensor([span is None for span in spans])
    scores = starts[:length].masked_fill(outside, -torch.inf).unsqueeze(1) + ends[:length].masked_fill(outside, -torch.inf)
    legal = torch.ones(length, length).triu().tril(MAX_ANSWER_TOKENS - 1).bool()
    scores = scores.masked_fill(~legal, -torch.inf)
    best = int(scores.argmax())
    begin, end = spans[best // length], spans[best % length]
    if begin is None or end is None:  # the window shows nothing of the context
        return -torch.inf, 0, 0
    return float(scores.flatten()[best]), begin[0], end[1]
