"""A small encoder in plain PyTorch: tables, query, key and value from one input, an additive mask, shared weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.quantization.calibrate import calibrate
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel

WIDTH, WORDS, POSITIONS = 16, 50, 40


class TinyEncoder(nn.Module):
    """Two passes through the same block, as ALBERT has it.

    Args:
        hidden_score: what is added to the score of padding: -inf, the smallest float, -10000.
    """

    def __init__(self, hidden_score: float = -10000.0) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH, padding_idx=0), nn.Embedding(POSITIONS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=bias) for bias in (True, False, True))
        self.out, self.wide, self.narrow = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.head = nn.Linear(WIDTH, 3)
        self.hidden_score = hidden_score

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask == 0, self.hidden_score)[:, None, :]
        x = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device)))
        for _ in range(2):
            scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(WIDTH) + hidden
            x = self.norm(x + self.out(scores.softmax(-1) @ self.value(x)))
            x = self.norm(x + self.narrow(F.gelu(self.wide(x))))
        logits: Tensor = self.head(x[:, 0])
        return logits


def encoder_inputs(rows: int = 3, length: int = 9, *, padded: Sequence[int] = (4,), seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random tokens; the first rows end with so much padding."""
    ids = torch.randint(1, WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(rows, length, dtype=torch.int64)
    for row, count in enumerate(padded):
        mask[row, length - count :] = 0
    return ids * mask, mask


def prepared_encoder(hidden_score: float = -10000.0, *, target: str = "x86", seed: int = 0) -> PreparedModel:
    """Calibrated on two batches of other lengths."""
    torch.manual_seed(seed)
    model = TinyEncoder(hidden_score).eval()
    prepared = prepare(model, encoder_inputs(), target=target, dynamic_dims=[(0, 1), (0, 1)])
    calibrate(prepared, [encoder_inputs(8, 12, padded=(3, 6, 1), seed=2), encoder_inputs(8, 7, padded=(2,), seed=3)])
    return prepared
