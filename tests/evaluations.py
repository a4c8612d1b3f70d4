"""Evaluations made of plain lists."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qat.evaluate import Evaluation


def evaluation(scores: Sequence[float], decisions: Sequence[int] | None = None) -> Evaluation:
    """One with these scores; without decisions every sample has its own."""
    chosen = range(len(scores)) if decisions is None else decisions
    return Evaluation(decisions=torch.tensor(list(chosen)), scores=torch.tensor(list(scores), dtype=torch.float32))
