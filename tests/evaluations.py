"""Evaluations made of plain lists."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qat.evaluation.evaluate import Evaluation, mean_score


def evaluation(scores: Sequence[float], predictions: Sequence[int] | None = None) -> Evaluation:
    """One with these scores; without predictions every sample has its own."""
    chosen = range(len(scores)) if predictions is None else predictions
    statistics = torch.tensor(list(scores), dtype=torch.float32).unsqueeze(1)
    return Evaluation(predictions=list(chosen), statistics=statistics, formulas={"score": mean_score})
