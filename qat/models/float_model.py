"""What every model adapter hands to the flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from qat.deploy.preprocess import Preprocess

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class FloatModel:
    """A float model with all that capture, data and artifact have to know about it.

    Args:
        name: what the user asked for, such as `mobilenetv2_100`.
        module: takes the example inputs as positional arguments.
        example_inputs: one tensor per argument; the batch is larger than 1, because `torch.export` pins a batch of 1.
        dynamic_dims: per argument the dimensions that stay free; None frees the batch of each.
        preprocessing: how an evaluation input is made.
        tokenizer: of a text model.
        task_options: what the task has to know about this model: of a detector its `criterion` and the `postprocessing` record.
        files: what has to travel in the artifact beside the network, by path.
    """

    name: str
    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    preprocessing: Preprocess
    dynamic_dims: tuple[tuple[int, ...], ...] | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    task_options: Mapping[str, Any] = field(default_factory=dict)
