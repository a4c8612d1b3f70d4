from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qat.errors import ConfigError
from qat.tasks import TASKS, ClassificationTask, build_task, task_reading


def _task(**options: Any) -> ClassificationTask:
    return ClassificationTask(labels=tuple("abcde"), **options)


def _batch(count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 1, 1, 5), torch.randint(5, (count,))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_loss_is_cross_entropy(smoothing: float) -> None:
    task, batch = _task(label_smoothing=smoothing), _batch()
    (images,) = task.inputs(batch)
    logits = images.flatten(1)
    assert torch.equal(task.loss(logits, batch), F.cross_entropy(logits, batch[1], label_smoothing=smoothing))
    log_p = logits.log_softmax(1)
    formula = -((1 - smoothing) * log_p[torch.arange(7), batch[1]] + smoothing * log_p.mean(1)).mean()
    torch.testing.assert_close(task.loss(logits, batch), formula)


def test_decision_is_the_largest_logit_and_scores_100_points_when_right() -> None:
    task, batch = _task(), _batch(50)
    predictions = task.predict(batch[0].flatten(1), batch)
    assert predictions == batch[0].flatten(1).max(1).indices.tolist()
    scores = task.statistics(predictions, batch)
    assert scores.dtype == torch.float32
    assert scores.flatten().tolist() == [100.0 if d == t else 0.0 for d, t in zip(predictions, batch[1], strict=True)]


def test_metric_is_top1() -> None:
    assert _task().metric == "top1"


def test_unknown_metric_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'top5'.*Allowed: top1"):
        _task(metric="top5")


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ConfigError, match="label_smoothing"):
        _task(label_smoothing=smoothing)


def test_several_tasks_may_read_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ordinal(ClassificationTask):
        name = "ordinal"

    monkeypatch.setitem(TASKS, "ordinal", Ordinal)
    assert task_reading("images") == "classification"
    assert task_reading("images", "ordinal") == "ordinal"
    with pytest.raises(ConfigError, match="set task=classification or ordinal or other data"):
        task_reading("images", "detection")


def test_unknown_task_is_answered_with_near_names() -> None:
    with pytest.raises(ConfigError, match=r"'clasification'.*Did you mean 'classification'"):
        build_task("clasification")
