"""Averaged weights, exponentially: Lightning's callback, for prepared networks as well and for runs that are continued."""

from __future__ import annotations

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging

from qat.quantization.prepared import PreparedModel


class EMA(EMAWeightAveraging):
    """At the end and in validation the weights are their exponential moving average.

    Statistics of batch norms are averaged with them. Ranges of a prepared network are taken as they are: an average of zero
    points is no zero point.

    Args:
        decay: w_average <- decay * w_average + (1 - decay) * w after every step.

    Reference: Tarvainen and Valpola 2017, arXiv:1703.01780, section 2.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(decay=decay)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._use_buffers = not isinstance(pl_module.model, PreparedModel)
        super().setup(trainer, pl_module, stage)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing yet: the last checkpoint shall hold both, the average and what it is of."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the average; also where a finished training was only loaded again."""
        self._copy_average_to_current(pl_module)
