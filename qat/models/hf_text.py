"""Hugging Face encoders with a head for the task: a hub name, a local folder, or a fresh network from a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
)

from qat.data.text.source import TextSource
from qat.deploy.preprocess import TextPreprocess
from qat.errors import ConfigError, near
from qat.models.float_model import FloatModel
from qat.models.hf_common import fresh_config, load_pretrained, local_folder, model_name
from qat.models.tokenizer import learn_tokenizer, load_tokenizer, tokenizer_files

#: Task -> head, and the fields of its output that the task reads.
HEADS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "text_classification": (AutoModelForSequenceClassification, ("logits",)),
    "token_classification": (AutoModelForTokenClassification, ("logits",)),
    "question_answering": (AutoModelForQuestionAnswering, ("start_logits", "end_logits")),
}

#: Inputs that a captured encoder may have, in the order in which it takes them.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class EncoderModel(nn.Module):
    """A Hugging Face model as tensors in, tensors out.

    Args:
        model: with a head.
        fields: of its output; one is returned as a tensor, several as a tuple.
    """

    def __init__(self, model: nn.Module, fields: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.fields = fields

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        values = tuple(outputs[field] for field in self.fields)
        return values[0] if len(values) == 1 else values


def build_hf_text(
    *,
    task: str,
    data: TextSource,
    name: str | None = None,
    pretrained: bool = False,
    path: str | None = None,
    tokenizer: str | None = None,
    max_length: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> FloatModel:
    """Build an encoder with a head for `task`.

    Args:
        task: a key of `HEADS`.
        data: gives the head its labels, and a tokenizer that is to be learned its text.
        name: on the hub when `pretrained`; a model type such as `bert` for a fresh network; with `path` what reports call it.
        path: local folder with config.json, weights and tokenizer; nothing is downloaded.
        tokenizer: folder or hub name of another tokenizer; a fresh network without one learns a WordPiece vocabulary
            from the training texts.
        max_length: tokens; None takes as many as the model has positions for.
        options: further arguments of the configuration, such as `num_hidden_layers` of a fresh network.

    Raises:
        ConfigError: an unknown task, model type or option, weights or a vocabulary that do not fit, no network.
    """
    if task not in HEADS:
        raise ConfigError(f"Hugging Face models have no head for task {task!r}.{near(task, HEADS)}")
    name = model_name(name, pretrained=pretrained, path=path, example="bert")
    head, fields = HEADS[task]
    labels = dict(enumerate(data.labels))
    settings: dict[str, object] = {**(options or {})}
    if labels:
        settings |= {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    if pretrained or path is not None:
        source = name if path is None else str(local_folder(path))
        tokens = load_tokenizer(tokenizer or source, local=tokenizer is None and path is not None)
        model = load_pretrained(head, source, local=path is not None, settings=settings)
    else:
        config = fresh_config(name, settings)
        tokens = load_tokenizer(tokenizer) if tokenizer else learn_tokenizer(data.corpus(), size=_vocabulary(config))
        model = head.from_config(config)
    positions = positions_of(model)
    if max_length is not None and positions is not None and max_length > positions:
        raise ConfigError(f"model.max_length={max_length}, but {name} has positions for {positions} tokens only")
    check_vocabulary(len(tokens), model, name)
    inputs = inputs_of(model, tokens.model_input_names)
    limit = min(n for n in (max_length, positions, tokens.model_max_length) if n is not None)
    example = example_inputs(inputs, vocabulary=len(tokens), length=min(16, limit))
    return FloatModel(
        name=name,
        module=EncoderModel(model.train(), fields),
        example_inputs=example,
        dynamic_dims=((0, 1),) * len(example),
        preprocessing=TextPreprocess(inputs=tuple(inputs), max_length=limit),
        tokenizer=tokens,
        files=tokenizer_files(tokens),
    )


def inputs_of(model: nn.Module, offered: Iterable[str]) -> tuple[str, ...]:
    """The inputs that the tokenizer offers and the model takes, in the order of `INPUTS`."""
    taken = inspect.signature(model.forward).parameters.keys()
    types = getattr(model.config, "type_vocab_size", 2)
    return tuple(n for n in INPUTS if n in taken & {*offered} and (n != "token_type_ids" or types > 1))


def example_inputs(inputs: tuple[str, ...], *, vocabulary: int, length: int) -> tuple[Tensor, ...]:
    """Two rows of random tokens, the first one a little padded."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[0, length - max(1, length // 4) :] = 0
    values = {
        "input_ids": torch.randint(0, vocabulary, (2, length), generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.zeros(2, length, dtype=torch.int64),
    }
    return tuple(values[name] for name in inputs)


def positions_of(model: nn.Module) -> int | None:
    """How many tokens the model has absolute positions for; None when it has none (relative or rotary positions).

    Models of RoBERTa's kind count positions from behind the padding index.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def check_vocabulary(tokens: int, model: Any, name: str) -> None:
    """Refuse a tokenizer with more entries than the model, or with far fewer: it belongs to another one.

    Raises:
        ConfigError: they differ. A few unused rows at the end of a table are usual.
    """
    rows = int(model.get_input_embeddings().num_embeddings)
    if not 0.9 * rows <= tokens <= rows:
        raise ConfigError(
            f"the tokenizer has {tokens} entries and {name} has {rows} embeddings: they do not belong together. "
            "Check model.path and model.tokenizer, or set model.options.vocab_size of a fresh network."
        )


def _vocabulary(config: PretrainedConfig) -> int:
    return int(config.vocab_size)
