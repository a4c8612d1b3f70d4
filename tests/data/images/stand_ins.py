"""Images in the place of those of a data set that lies on the hub."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from PIL import Image

from qat.config.data import HuggingFaceConfig
from tests.data.samples import encode


def parquet(root: Path, data: HuggingFaceConfig) -> list[str]:
    """Noise in the hub's layout, under the columns and splits that the recipe reads; the overrides that name it."""
    root.mkdir()
    rng = np.random.default_rng(0)
    splits = {data.train_split: 60, data.test_split: 24} | ({data.val_split: 24} if data.val_split else {})
    for split, count in splits.items():
        pixels = rng.integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
        images = [{"bytes": encode(Image.fromarray(image)), "path": None} for image in pixels]
        columns = {data.image_column: images, data.label_column: [i % 3 for i in range(count)]}
        pq.write_table(pa.table(columns), root / f"{split}.parquet")
    return [f"data.root={root}", "data.name=null"]
