"""Run Hugging Face architectures through the whole flow and write docs/auto_matrix.json and docs/auto_matrix.md.

    python scripts/auto_matrix.py [MODEL_TYPE ...]    the default is every one behind the Auto classes of `HEADS`

Each is built from its configuration, shrunk, with random weights, and handed to `qat.prepare` as it is, with keyword arguments.
An architecture that has several heads is tried with the first of `HEADS`.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
import transformers
from matrix import Row, call, check_all, failed, flow, settle_batch_norms, table, verdict
from pages import Content, measured_on, publish, why_float
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto import modeling_auto

#: Auto class -> what it is for.
HEADS = {
    "ImageClassification": "images",
    "SequenceClassification": "texts",
    "TokenClassification": "tokens",
    "QuestionAnswering": "questions",
    "ObjectDetection": "objects",
    "SemanticSegmentation": "segments",
    "AudioClassification": "sounds",
}

#: Smaller numbers, by what configurations call them.
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embed_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "d_ff", "hidden_dim"), 128
    ),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    "head_dim": 16,
    "vocab_size": 1000,
    "moe_intermediate_size": 32,
}

#: A configuration that is not shrunk may have so many parameters.
MOST = 60_000_000


def architectures() -> list[tuple[str, str]]:
    """(Auto class, model type), each type once."""
    found: dict[str, str] = {}
    for head in HEADS:
        table_name = "_".join(_words(head)).upper()
        for model_type in getattr(modeling_auto, f"MODEL_FOR_{table_name}_MAPPING_NAMES"):
            found.setdefault(model_type, head)
    return [(head, model_type) for model_type, head in found.items()]


def _words(name: str) -> list[str]:
    return "".join(f" {c}" if c.isupper() else c for c in name).split()


def build(head: str, model_type: str) -> nn.Module:
    """A model of three labels, as small as its configuration allows; the first error where none can be built."""
    labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    errors: list[Exception] = []
    auto = getattr(transformers, f"AutoModelFor{head}")
    for leave in ((), ("hidden_size", "head_dim", "intermediate_size"), tuple(SMALL)):
        try:
            config = AutoConfig.for_model(model_type, **labels)
            _shrink(config, leave)
            config.architectures = config.architectures or []  # where transformers looks for them
            config.pad_token_id, config.eos_token_id, config.decoder_start_token_id = 0, 2, 1
            with torch.device("meta"):
                size = sum(p.numel() for p in auto.from_config(config).parameters())
            if size > MOST:
                raise ValueError(f"{size / 1e6:.0f} M parameters in its own configuration, and it cannot be shrunk by rule")
            model: nn.Module = auto.from_config(config).eval()
            with torch.no_grad():
                call(model, inputs_of(model, 2, 16))
            return model
        except Exception as found:
            errors.append(found)
    raise errors[0]


def _shrink(config: PretrainedConfig, leave: tuple[str, ...]) -> None:
    """Smaller numbers wherever a configuration, or one inside of it, has them."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            _shrink(value, leave)
        elif name == "layer_types" and isinstance(value, list):
            setattr(config, name, value[:2])
        elif name in SMALL and name not in leave and isinstance(value, int):
            setattr(config, name, min(value, SMALL[name]))
        elif name.endswith("_token_id") and isinstance(value, int) and "vocab_size" not in leave:
            setattr(config, name, min(value, 2))


def inputs_of(model: Any, batch: int, length: int) -> dict[str, Tensor]:
    """Random inputs of the model's main kind."""
    config, name = model.config, model.main_input_name
    if name == "input_ids":
        ids = torch.randint(3, 500, (batch, length))
        ids[:, -1] = 2  # the end, which some heads look for
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "pixel_values":
        size = (
            getattr(config, "image_size", None) or getattr(getattr(config, "backbone_config", None), "image_size", None) or 224
        )
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.randn(batch, getattr(config, "num_channels", 3), height, width)}
    if name == "input_values" and hasattr(config, "max_length") and hasattr(config, "num_mel_bins"):
        return {"input_values": torch.randn(batch, config.max_length, config.num_mel_bins)}
    if name == "input_values":
        return {"input_values": torch.randn(batch, 4000)}
    if hasattr(config, "max_source_positions"):
        return {"input_features": torch.randn(batch, config.num_mel_bins, 2 * config.max_source_positions)}
    return {"input_features": torch.randn(batch, 100, getattr(config, "feature_projection_input_dim", 160))}


def check(head: str, model_type: str) -> Row:
    """One architecture through the flow."""
    torch.manual_seed(0)
    row: Row = {"model": model_type, "kind": HEADS[head]}
    try:
        model = build(head, model_type)
        example, other = inputs_of(model, 2, 16), inputs_of(model, 1, 16)
        if "pixel_values" in example:
            settle_batch_norms(model, inputs_of(model, 4, 16))
    except Exception as error:
        return {**row, "reason": f"not built: {' '.join(str(error).split())[:160]}", "refused": False, "stage": "build"}
    return {**row, **flow(model, example, other=other)}


def page(content: Content) -> str:
    rows = content["rows"]
    built = [row for row in rows if row["stage"] != "build"]
    lines = [
        "# Hugging Face architectures",
        "",
        f"Written by `make matrix`: every architecture behind {', '.join(f'`AutoModelFor{head}`' for head in HEADS)}, each "
        "once, as small as its configuration can be made by rule, with random weights, handed over as it is. "
        f"{len(built)} of {len(rows)} could be built; of these {verdict(built)}. See [timm families](timm_matrix.md) for what "
        "it means to pass.",
        measured_on(content, "transformers"),
    ]
    for kind in HEADS.values():
        of_kind = [row for row in built if row["kind"] == kind]
        lines += ["", f"## {kind.capitalize()}", "", f"{verdict(of_kind)}.", "", *table(of_kind)]
    lines += ["", "## Not built", "", *(f"* {row['model']}: {row['reason']}" for row in rows if row["stage"] == "build")]
    return "\n".join([*lines, *why_float(built)]) + "\n"


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    chosen = [pair for pair in architectures() if not sys.argv[1:] or pair[1] in sys.argv[1:]]
    rows = check_all(chosen, lambda pair: check(*pair), description="architectures")
    if not sys.argv[1:]:
        publish("auto_matrix", {"rows": rows}, page)
    sys.exit(failed([row for row in rows if row["stage"] != "build"]))


if __name__ == "__main__":
    main()
