from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from qat.data.images.digits import digits_source
from qat.data.images.module import ImageData
from tests.data.samples import image_data, make_preprocess

STOP_AFTER = 8  # batches: two epochs have 6 each


class _Recorder(pl.LightningModule):
    """Trains one layer and keeps every batch it saw."""

    def __init__(self, stop_after: int | None = None, checkpoint: Path | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 10)
        self.seen: list[tuple[int, bytes]] = []
        self.validated = 0
        self.stop_after = stop_after
        self.checkpoint = checkpoint

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, targets = batch
        self.seen.append((self.current_epoch, images.numpy().tobytes()))
        return nn.functional.cross_entropy(self.layer(images.flatten(1)), targets)

    def on_train_batch_end(self, *args: Any) -> None:
        if len(self.seen) == self.stop_after:
            self.trainer.save_checkpoint(str(self.checkpoint))
            raise KeyError("killed")

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.validated += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _data(workers: int) -> ImageData:
    return image_data(
        digits_source(),
        preprocessing=make_preprocess(),
        augment="shift",
        batch_size=16,
        limit_train=100,
        limit_val=20,
        num_workers=workers,
    )


def _trainer(root: Path) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=root,
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )


# Lightning 2.6 still asks for torch.utils._pytree.LeafSpec, which torch 2.15 deprecates.
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_training_sees_the_batches_of_the_uninterrupted_one(workers: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = _Recorder()
    _trainer(tmp_path).fit(whole, datamodule=_data(0))
    checkpoint = tmp_path / "killed.ckpt"
    torch.manual_seed(0)
    killed = _Recorder(STOP_AFTER, checkpoint)
    with pytest.raises(KeyError, match="killed"):
        _trainer(tmp_path).fit(killed, datamodule=_data(workers))
    resumed = _Recorder()
    data = _data(workers)
    _trainer(tmp_path).fit(resumed, datamodule=data, ckpt_path=str(checkpoint), weights_only=True)
    assert len(whole.seen) == 3 * 6
    assert killed.seen == whole.seen[:STOP_AFTER]
    assert resumed.seen == whole.seen[STOP_AFTER:]
    assert resumed.validated >= 2 * 20
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
    assert len(list(data.train_dataloader())) == 6  # outside of the trainer nothing is skipped
