"""The live line of a training: which stage, how far, how long still, how good."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column


class StageProgress(Callback):
    """One bar over all steps of a stage, with the loss and the validation metric; the last state of it stays on the screen.

    Args:
        stage: what people call it, `FP32` or `QAT`.
        console: where it is drawn.
        metric: name under which the task logs its validation metric.
    """

    def __init__(self, stage: str, console: Console, metric: str) -> None:
        self.stage, self.metric = stage, metric
        whole = Column(no_wrap=True)  # what a narrow terminal cuts is the end of the line
        self.bar = Progress(
            TextColumn("[bold]{task.description}", table_column=whole),
            BarColumn(bar_width=10, table_column=whole),
            MofNCompleteColumn(table_column=whole),
            TimeRemainingColumn(elapsed_when_finished=True, table_column=whole),
            TextColumn("{task.fields[time]}", table_column=whole),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self.task: TaskID | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.task = self.bar.add_task(self.stage, total=int(trainer.estimated_stepping_batches), numbers="", time="left")
        self._show(trainer)
        self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self._show(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, "valid")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, time="taken")
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.bar.stop()

    def _show(self, trainer: Trainer, doing: str = "epoch", time: str = "left") -> None:
        if self.task is None:
            return
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
        description = f"{self.stage} {doing} {epoch:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}"
        found = trainer.callback_metrics
        shown = {"loss": "train/loss", self.metric.rpartition("/")[2]: self.metric}
        numbers = "  ".join(f"{name} {float(found[key]):.4g}" for name, key in shown.items() if key in found)
        self.bar.update(self.task, completed=trainer.global_step, description=description, numbers=numbers, time=time)
