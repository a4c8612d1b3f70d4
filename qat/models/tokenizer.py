"""Tokenizers: loaded without network from a folder, learned from text, and written as files that travel in an artifact."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from qat.deploy.artifact import TOKENIZER
from qat.errors import ConfigError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(source: str | Path, *, local: bool | None = None) -> PreTrainedTokenizerBase:
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


def learn_tokenizer(corpus: Iterable[str], *, size: int) -> PreTrainedTokenizerBase:
    """A lower-casing WordPiece tokenizer in BERT's form, with exactly `size` entries.

    The vocabulary is special tokens, every character (alone and as the continuation of a word), and then the most frequent
    words, equals by name. (The trainers of the tokenizers library break ties at random, so a resumed run would read other
    ids than the one that it continues.)

    Reference: Devlin et al. 2019, arXiv:1810.04805 (the form); Wu et al. 2016, arXiv:1609.08144, section 4.1 (WordPiece).

    Raises:
        ConfigError: the characters alone need more entries.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in corpus:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    characters = sorted({character for word in counts for character in word})
    entries = [*_SPECIAL, *characters, *(f"##{character}" for character in characters)]
    if len(entries) > size:
        raise ConfigError(f"the characters of the text need {len(entries)} entries; raise model.options.vocab_size from {size}")
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    entries += words[: size - len(entries)]
    entries += [f"[unused{i}]" for i in range(size - len(entries))]  # a small text fills no table; the model's must match
    tokenizer = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", entries.index("[SEP]")), ("[CLS]", entries.index("[CLS]")))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=1 << 20,
    )


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """The tokenizer as files by path inside an artifact."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {f"{TOKENIZER}/{path.name}": path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}
