"""The group `data`: one dataclass per kind of source, with the keys that this kind has; a data set is a file in `conf/data`.

The keys of the class before last are those of the batches, shared by all sources of that kind; the keys of the last class are
those of the source itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from qat.config.fields import MISSING, between, one_of


@dataclass
class DataConfig:
    """What all data have.

    Args:
        batch_size: training samples per batch.
        eval_batch_size: null takes `batch_size`.
        num_workers: loader processes.
        val_fraction: held out of train when there is no validation split.
        limit_train, limit_val, limit_test: use only so many samples.
        corrupt_budget: tolerated share of unreadable images or empty texts.
    """

    batch_size: int = between(64, 1)
    eval_batch_size: int | None = between(None, 1)
    num_workers: int = between(0, 0)
    val_fraction: float = between(0.1, 0, 1)
    limit_train: int | None = between(None, 1)
    limit_val: int | None = between(None, 1)
    limit_test: int | None = between(None, 1)
    corrupt_budget: float = between(0.01, 0, 1)

    def batching(self) -> dict[str, object]:
        """The keys that say how batches are made."""
        return {known.name: getattr(self, known.name) for known in fields(type(self).__mro__[1])}

    def source(self) -> dict[str, object]:
        """The keys of the source."""
        return {known.name: getattr(self, known.name) for known in fields(self) if known.name not in self.batching()}


@dataclass
class ImagesConfig(DataConfig):
    """Images with one class each.

    Args:
        augment: of training images.
        augment_options: for `timm`, arguments of its `create_transform`.
        verify: decode every image once before the run; otherwise an unreadable one stops it when its turn comes.
    """

    augment: str = one_of("none", "none", "flip", "flip_crop", "shift", "timm")
    augment_options: dict[str, Any] = field(default_factory=dict)
    verify: bool = True


@dataclass
class DigitsConfig(ImagesConfig):
    """`data=digits`: handwritten digits of 8 x 8 pixels that ship with scikit-learn."""


@dataclass
class FolderConfig(ImagesConfig):
    """`data=folder`: `root/{train,val,test}/{class}/*`, or `root/{class}/*` of which a test split is held out.

    Args:
        root: the folder.
        train_split, val_split, test_split: folder names.
        test_fraction, split_seed: of the test split, where the folders are the classes.
    """

    root: str = MISSING
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = "test"
    test_fraction: float = between(0.2, 0, 1)
    split_seed: int = 0


@dataclass
class HuggingFaceConfig(ImagesConfig):
    """`data=huggingface`: images of the hub, or a local folder with parquet or arrow files.

    Args:
        root: local folder; give this or `name`.
        name, config_name: on the hub.
        image_column, label_column: which columns to read.
        train_split, val_split, test_split: names; without a validation split some training images are held out.
    """

    root: str | None = None
    name: str | None = None
    config_name: str | None = None
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    val_split: str | None = None
    test_split: str = "test"


@dataclass
class BoxesConfig(DataConfig):
    """Images with boxes.

    Args:
        augment: of training images with their boxes.
        verify: decode every image once before the run.
    """

    augment: str = one_of("none", "none", "flip", "ssd", "ssd_any_side_up")
    verify: bool = True


@dataclass
class CocoConfig(BoxesConfig):
    """`data=coco`: annotations in COCO's JSON and folders of images.

    Args:
        root: everything else is relative to it.
        train, val, test: annotation files; `val` of null, or the default where it is not there, holds training images out.
        train_images, val_images, test_images: image folders; null takes that of `train`.
        box_budget: tolerated share of boxes without area.
    """

    root: str = MISSING
    train: str = "annotations/instances_train.json"
    val: str | None = "annotations/instances_val.json"
    test: str = "annotations/instances_test.json"
    train_images: str = "images"
    val_images: str | None = None
    test_images: str | None = None
    box_budget: float = between(0.01, 0, 1)


@dataclass
class ShapesConfig(BoxesConfig):
    """`data=shapes`: discs, squares and triangles, drawn.

    Args:
        train, test: how many images.
        seed: of both.
    """

    train: int = between(480, 1)
    test: int = between(120, 1)
    seed: int = 0


@dataclass
class TextsConfig(DataConfig):
    """Sentences, tagged words or questions.

    Args:
        truncation: what happens to a text that the model has no positions for: `truncate` (counted and said) or `refuse`.
        stride: tokens that neighbouring windows of a long context share (question answering).
    """

    truncation: str = one_of("truncate", "truncate", "refuse")
    stride: int = between(128, 0)


@dataclass
class TextConfig(TextsConfig):
    """`data=text`: files of TSV, CSV, JSON lines, CoNLL or SQuAD's JSON.

    Args:
        root: their folder.
        train, val, test: file names; without `val` some training examples are held out.
        text_column, pair_column, label_column: of tables.
        labels: names in the order of their numbers, or a JSON file with a list of them, or `file:key`.
    """

    root: str = MISSING
    train: str = MISSING
    test: str = MISSING
    val: str | None = None
    text_column: str = "text"
    pair_column: str | None = None
    label_column: str = "label"
    labels: Any = None


@dataclass
class TextHubConfig(TextsConfig):
    """`data=text_hub`: a text data set of the hub.

    Args:
        name, config_name: on the hub.
        text_column, pair_column, label_column: which columns to read.
        train_split, val_split, test_split: names.
    """

    name: str = MISSING
    config_name: str | None = None
    text_column: str = "text"
    pair_column: str | None = None
    label_column: str = "label"
    train_split: str = "train"
    val_split: str | None = None
    test_split: str = "test"


@dataclass
class GrammarConfig(TextsConfig):
    """`data=grammar`: a generated language.

    Args:
        kind: `sentences`, `tags` or `questions`.
        train, test: how many.
        seed: of the choice of words.
    """

    kind: str = one_of("sentences", "sentences", "tags", "questions")
    train: int = between(1200, 1)
    test: int = between(400, 1)
    seed: int = 0
