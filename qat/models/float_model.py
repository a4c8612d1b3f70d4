"""What every model adapter hands to the flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class FloatModel:
    """A float model with all that capture, data and artifact have to know about it.

    Args:
        name: what the user asked for, such as `mobilenetv2_100`.
        module: takes the example inputs as positional arguments.
        example_inputs: one tensor per argument; the batch is larger than 1, because `torch.export` pins a batch of 1.
        dynamic_dims: per argument the dimensions that stay free; None frees the batch of each.
        preprocessing: plain JSON data that says how an evaluation input is made. For images: `kind` "image",
            `channels`, `height`, `width`, `resize` (height and width before the crop), `crop_mode` (what `resize`
            means: "center" fits the image around it, "squash" ignores the aspect ratio, "border" fits it inside),
            `crop_pct`, `interpolation`, `value_range` [0, 1] of the pixels, and then `mean` and `std` per channel.
            For text: `kind` "text", `inputs` (names, in order) and `max_length` in tokens.
        tokenizer: of a text model.
        task_options: what the task has to know about this model: of a detector its `criterion` and the `postprocessing` record.
        files: what has to travel in the artifact beside the network, by path.
    """

    name: str
    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    preprocessing: dict[str, Any]
    dynamic_dims: tuple[tuple[int, ...], ...] | None = None
    tokenizer: Any = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    task_options: Mapping[str, Any] = field(default_factory=dict)
