"""Data: sources found through `SOURCES`, and the data module that makes batches of one.

The two are apart because the model stands between them: its head needs the source's labels, and the batches need the
model's preprocessing.

    source = build_source("digits")
    model = build_model("timm", task="classification", data=source, name="resnet10t")
    data = build_data(source, preprocessing=model.preprocessing)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qat.data.detection.coco import coco_source
from qat.data.detection.module import DetectionData
from qat.data.detection.shapes import shapes_source
from qat.data.detection.source import BoxSource
from qat.data.images.digits import digits_source
from qat.data.images.folder import folder_source
from qat.data.images.huggingface import huggingface_source
from qat.data.images.module import ImageData
from qat.data.module import DataModule
from qat.data.options import SHARED, Batching, Selection, grouped
from qat.data.source import ImageSource
from qat.data.text.encode import Encoder
from qat.data.text.files import text_source
from qat.data.text.grammar import grammar_source
from qat.data.text.hub import text_hub_source
from qat.data.text.module import TextData, check_truncation
from qat.data.text.source import TextSource
from qat.deploy.preprocess import ImagePreprocess, Preprocess, TextPreprocess
from qat.errors import ConfigError, near

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Tokens that neighbouring windows of a long context share, see `Encoder`.
STRIDE = 128

#: What a data set offers, by kind.
DataSource = ImageSource | BoxSource | TextSource

SOURCES: dict[str, Callable[..., DataSource]] = {
    "digits": digits_source,
    "folder": folder_source,
    "huggingface": huggingface_source,
    "coco": coco_source,
    "shapes": shapes_source,
    "text": text_source,
    "text_hub": text_hub_source,
    "grammar": grammar_source,
}


def build_source(source: str, **options: object) -> DataSource:
    """Find the samples and labels of a source; no image is decoded and no text is encoded yet.

    Args:
        source: a key of `SOURCES`.
        options: keyword arguments of that function, such as `root`.

    Raises:
        ConfigError: an unknown source, or an unknown or missing option.
        DataError: data that is missing, empty or malformed.
    """
    if source not in SOURCES:
        raise ConfigError(f"unknown data source {source!r}.{near(source, SOURCES)}")
    allowed = inspect.signature(SOURCES[source]).parameters
    for name in options:
        if name not in allowed:
            raise ConfigError(f"the data source {source!r} has no option {name!r}.{near(name, allowed)}")
    missing = [name for name, it in allowed.items() if it.default is it.empty and name not in options]
    if missing:
        raise ConfigError(f"the data source {source!r} needs the option {', '.join(missing)}")
    return SOURCES[source](**options)


def build_data(
    source: DataSource, *, preprocessing: Preprocess, tokenizer: PreTrainedTokenizerBase | None = None, **options: Any
) -> DataModule:
    """The data module of a source.

    Args:
        preprocessing: of the float model or of an artifact.
        tokenizer: of a text model.
        options: fields of `Batching` and `Selection`, and what is of this kind of data alone: see `ImageData` and
            `DetectionData`; of text `truncation` and `stride`.

    Raises:
        ConfigError: an option that this kind of data does not have, preprocessing of another kind of data, or texts without
            a tokenizer.
    """
    if isinstance(preprocessing, TextPreprocess) != isinstance(source, TextSource):
        takes = "texts" if isinstance(preprocessing, TextPreprocess) else "images"
        raise ConfigError(
            f"{source.name} holds {source.kind}, and the model takes {takes}; give data or a model of the other kind"
        )
    if isinstance(source, ImageSource):
        assert isinstance(preprocessing, ImagePreprocess)
        return ImageData(source, preprocessing=preprocessing, **_grouped(source, ImageData, options))
    if isinstance(source, BoxSource):
        assert isinstance(preprocessing, ImagePreprocess)
        return DetectionData(source, preprocessing=preprocessing, **_grouped(source, DetectionData, options))
    options = _grouped(source, TextData, options, further=("truncation", "stride"))
    refuse = check_truncation(options.pop("truncation", "truncate"))
    assert isinstance(preprocessing, TextPreprocess)
    if tokenizer is None:
        raise ConfigError(f"{source.name} holds {source.kind}, which need the tokenizer of the model: give tokenizer=")
    encoder = Encoder(
        tokenizer=tokenizer,
        inputs=preprocessing.inputs,
        max_length=preprocessing.max_length,
        refuse_long=refuse,
        stride=options.pop("stride", STRIDE),
    )
    encoder.check_known(source.train.examples[:1000])
    return TextData(source, encoder=encoder, **options)


def _grouped(
    source: DataSource, module: type[DataModule], options: Mapping[str, object], further: Sequence[str] = ()
) -> dict[str, Any]:
    """The arguments of a data module, of flat options that all have a meaning for it."""
    given = ("source", "preprocessing", "encoder", "batching", "selection")
    allowed = [*SHARED, *(name for name in inspect.signature(module).parameters if name not in given), *further]
    wrong = [f"data.{name} has no meaning for {source.kind}.{near(name, allowed)}" for name in options if name not in allowed]
    if wrong:
        raise ConfigError("\n".join(wrong))
    batching, selection, others = grouped(options)
    return {"batching": batching, "selection": selection, **others}


__all__ = [
    "SOURCES",
    "Batching",
    "BoxSource",
    "DataModule",
    "DataSource",
    "DetectionData",
    "ImageData",
    "ImageSource",
    "Selection",
    "TextData",
    "TextSource",
    "build_data",
    "build_source",
]
