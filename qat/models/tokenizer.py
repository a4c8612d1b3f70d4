"""Tokenizers: loaded without network from a folder, learned from text, and written as files that travel in an artifact."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qat.errors import ConfigError

#: Folder of the tokenizer inside an artifact.
FOLDER = "tokenizer"

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(source: str | Path, *, local: bool | None = None) -> Any:
    """The tokenizer of a local folder, or of a name on the hub; it pads on the right.

    Args:
        local: whether to stay off the network; None does where `source` is a folder.

    Raises:
        ConfigError: it cannot be loaded, or has no padding token.
    """
    local = Path(source).is_dir() if local is None else local
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=local, trust_remote_code=False)
    except Exception as error:  # transformers, tokenizers and huggingface_hub raise their own types
        raise ConfigError(
            f"the tokenizer of {source} cannot be loaded: {type(error).__name__}: {str(error)[:300]}"
            + ("" if local else "\nWithout network give a local folder.")
        ) from error
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"the tokenizer of {source} has no padding token, so texts cannot share a batch")
    tokenizer.padding_side = "right"
    return tokenizer


def learn_tokenizer(corpus: Iterable[str], *, size: int) -> Any:
    """A lower-casing WordPiece tokenizer in BERT's form, with exactly `size` entries or all that the text gives.

    Reference: Wu et al. 2016, arXiv:1609.08144, section 4.1 (WordPiece); Devlin et al. 2019, arXiv:1810.04805.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(_SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    missing = size - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"[unused{i}]" for i in range(missing)])  # a small text fills no table; the model's must match
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=1 << 20,
    )


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """The tokenizer as files by path inside an artifact."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {f"{FOLDER}/{path.name}": path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}
