"""Tasks on text: losses against formulas, metrics against libraries, predictions on real batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from seqeval.metrics import f1_score, precision_score, recall_score  # type: ignore[import-untyped]
from torch import Tensor
from torchmetrics.text import SQuAD

from qat.data.batch import Examples
from qat.data.options import Batching
from qat.data.text.batch import IGNORED, AskedQuestion, TaggedWords, TextBatch
from qat.data.text.grammar import grammar_source
from qat.data.text.module import TextData
from qat.errors import ConfigError
from qat.evaluation.evaluate import evaluate
from qat.tasks import TASKS, AnyTask, build_task, task_reading
from qat.tasks.question_answering import MAX_ANSWER_TOKENS, best_span
from qat.training.running_metric import RunningMetric
from tests.data.text.samples import encoder

TAGS = grammar_source(kind="tags", train=1, test=1).labels
TEXT = {"text_classification": "sentences", "token_classification": "tags", "question_answering": "questions"}


def _task(name: str, labels: tuple[str, ...] = ("no", "yes"), **options: Any) -> AnyTask:
    return build_task(name, labels=labels, **options)


def _data(kind: str, **options: Any) -> TextData:
    parts = encoder(kind, max_length=options.pop("max_length", 64))
    return TextData(grammar_source(kind=kind, train=60, test=40), encoder=parts, batching=Batching(batch_size=8, **options))


# --- sentences -------------------------------------------------------------------------------------------------------


def test_sentence_loss_is_cross_entropy_and_decision_the_largest_logit() -> None:
    task, logits, targets = _task("text_classification"), torch.randn(9, 2), torch.randint(2, (9,))
    batch = TextBatch(inputs=(torch.zeros(9, 3),), targets=targets, examples=Examples([]))
    assert torch.equal(task.loss(logits, batch), F.cross_entropy(logits, targets))
    predictions = task.predict(logits, batch)
    assert predictions == logits.argmax(1).tolist()
    confusion = task.statistics(predictions, batch).sum(0).reshape(2, 2)
    for target in range(2):
        for prediction in range(2):
            expected = int(((targets == target) & (torch.tensor(predictions) == prediction)).sum())
            assert int(confusion[target, prediction]) == expected


def test_metric_of_a_task_can_be_chosen() -> None:
    assert _task("text_classification").metric == "accuracy"
    assert _task("text_classification", metric="matthews").metric == "matthews"
    assert set(_task("text_classification", metric="matthews").formulas) == {"accuracy", "f1", "matthews"}
    with pytest.raises(ConfigError, match=r"no metric 'f2'.*Allowed: accuracy, f1, matthews"):
        _task("text_classification", metric="f2")


# --- tagged words ----------------------------------------------------------------------------------------------------


def test_tag_loss_is_cross_entropy_over_first_tokens() -> None:
    task, logits = _task("token_classification", TAGS), torch.randn(2, 4, len(TAGS))
    targets = torch.tensor([[IGNORED, 1, 3, IGNORED], [0, IGNORED, IGNORED, IGNORED]])
    batch = TextBatch(inputs=(torch.zeros(2, 4),), targets=targets, examples=Examples([]))
    chosen = torch.stack([logits[0, 1], logits[0, 2], logits[1, 0]])
    torch.testing.assert_close(task.loss(logits, batch), F.cross_entropy(chosen, torch.tensor([1, 3, 0])))


def test_word_that_the_model_does_not_see_is_outside() -> None:
    task = _task("token_classification", TAGS)
    item = TaggedWords(tags=(1, 2, 3, 5), seen=(0, 2))
    targets = torch.tensor([[IGNORED, 1, IGNORED, 3, IGNORED]])
    batch = TextBatch(inputs=(torch.zeros(1, 5),), targets=targets, examples=Examples([item]))
    logits = F.one_hot(torch.tensor([[0, 1, 6, 4, 0]]), len(TAGS)).float()
    assert task.predict(logits, batch) == [(1, 0, 4, 0)]


@pytest.mark.parametrize("seed", range(3))
def test_entity_metrics_equal_seqeval_over_a_whole_data_set(seed: int) -> None:
    """A model that is right about most words, on real batches; seqeval sees all tags at once."""
    data, task = _data("tags", eval_batch_size=7), _task("token_classification", TAGS)
    generator, validated = torch.Generator().manual_seed(seed), RunningMetric(task.formulas[task.metric])
    true: list[list[str]] = []
    guessed: list[list[str]] = []
    for batch in data.test_dataloader():
        noise = torch.randint(len(TAGS), batch.targets.shape, generator=generator)
        right = torch.rand(batch.targets.shape, generator=generator) < 0.8
        logits = F.one_hot(torch.where(right, batch.targets.clamp(min=0), noise), len(TAGS)).float()
        true += [[TAGS[t] for t in item.tags] for item in batch.examples.items]
        guessed += [[TAGS[t] for t in tags] for tags in task.predict(logits, batch)]
        validated.update(task.statistics(task.predict(logits, batch), batch))
    assert 40 < 100 * f1_score(true, guessed) < 95
    assert float(validated.compute()) == pytest.approx(100 * f1_score(true, guessed), abs=1e-4)
    rows = torch.cat(validated.rows).double()
    once = torch.ones(1, len(rows), dtype=torch.float64)
    assert float(task.formulas["precision"](rows, once)) == pytest.approx(100 * precision_score(true, guessed), abs=1e-4)
    assert float(task.formulas["recall"](rows, once)) == pytest.approx(100 * recall_score(true, guessed), abs=1e-4)


# --- questions -------------------------------------------------------------------------------------------------------


def _asked(**changes: Any) -> AskedQuestion:
    context = "anna left . ben ran"
    spans = (None, None, (0, 4), (5, 9), (10, 11), (12, 15), (16, 19), None)
    given = {"context": context, "answers": ("ben",), "windows": (0,), "offsets": (spans,), "may_have_none": False}
    return AskedQuestion(**{**given, **changes})


def _outputs(start: int, end: int, length: int = 8, rows: int = 1) -> tuple[Tensor, Tensor]:
    return (
        F.one_hot(torch.full((rows,), start), length).float() * 5,
        F.one_hot(torch.full((rows,), end), length).float() * 5,
    )


def test_question_loss_is_the_mean_of_start_and_end() -> None:
    task, outputs = _task("question_answering", ()), (torch.randn(3, 6), torch.randn(3, 6))
    targets = torch.tensor([[1, 2], [0, 0], [4, 5]])
    batch = TextBatch(inputs=(torch.zeros(3, 6),), targets=targets, examples=Examples([]))
    expected = (F.cross_entropy(outputs[0], targets[:, 0]) + F.cross_entropy(outputs[1], targets[:, 1])) / 2
    torch.testing.assert_close(task.loss(outputs, batch), expected)


@pytest.mark.parametrize(("start", "end", "text"), [(2, 2, "anna"), (5, 6, "ben ran"), (2, 6, "anna left . ben ran")])
def test_answer_is_the_text_of_the_best_span(start: int, end: int, text: str) -> None:
    batch = SimpleNamespace(examples=Examples([_asked()]))
    assert _task("question_answering", ()).predict(_outputs(start, end), batch) == [text]


def test_span_never_leaves_the_context_nor_runs_backwards_nor_too_far() -> None:
    """Against a search over all pairs."""
    generator = torch.Generator().manual_seed(0)
    length = 50
    spans = [None if i < 5 or i > 46 else (3 * i, 3 * i + 2) for i in range(length)]
    for _ in range(20):
        starts, ends = torch.randn(length, generator=generator) * 4, torch.randn(length, generator=generator) * 4
        pairs = [
            (float(starts[i] + ends[j]), 3 * i, 3 * j + 2)
            for i in range(5, 47)
            for j in range(i, min(47, i + MAX_ANSWER_TOKENS))
        ]
        found = best_span(starts, ends, spans)
        assert found[0] == pytest.approx(max(pairs)[0])
        assert found[1:] == max(pairs)[1:]


def test_window_without_context_has_no_answer() -> None:
    assert best_span(torch.randn(4), torch.randn(4), [None] * 4)[0] == -torch.inf


def test_best_window_wins_and_no_answer_needs_all_windows() -> None:
    """The first window does not hold the answer and rightly prefers none; the second holds it."""
    first, second = _outputs(0, 0), _outputs(5, 5)
    outputs = tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
    offsets = _asked().offsets * 2
    task = _task("question_answering", ())
    for may_have_none in (False, True):
        example = _asked(windows=(0, 1), offsets=offsets, may_have_none=may_have_none)
        assert task.predict(outputs, SimpleNamespace(examples=Examples([example]))) == ["ben"]
    both = tuple(torch.cat([x, x]) for x in first)
    example = _asked(windows=(0, 1), offsets=offsets, may_have_none=True, answers=())
    assert task.predict(both, SimpleNamespace(examples=Examples([example]))) == [""]
    assert task.statistics([""], SimpleNamespace(examples=Examples([example]))).tolist() == [[100.0, 100.0]]
    assert task.statistics(["ben"], SimpleNamespace(examples=Examples([example]))).tolist() == [[0.0, 0.0]]


def test_question_metrics_equal_torchmetrics_over_all_questions() -> None:
    task = _task("question_answering", ())
    guesses = ["ben", "Ben ran", "anna", "the ben !", ""]
    answers = [("ben",), ("ben",), ("ben", "anna"), ("ben",), ("ran", "ben ran")]
    items = [_asked(answers=a) for a in answers]
    rows = task.statistics(guesses, SimpleNamespace(examples=Examples(items)))
    metric = SQuAD()
    for i, (guess, accepted) in enumerate(zip(guesses, answers, strict=True)):
        target: Any = {"answers": {"answer_start": [0] * len(accepted), "text": list(accepted)}, "id": str(i)}
        metric.update({"prediction_text": guess, "id": str(i)}, target)
    expected = metric.compute()
    assert float(rows[:, 0].mean()) == pytest.approx(float(expected["f1"]), abs=1e-3)
    assert float(rows[:, 1].mean()) == pytest.approx(float(expected["exact_match"]), abs=1e-3)
    once = torch.ones(1, len(rows), dtype=torch.float64)
    found = [float(formula(rows.double(), once)) for formula in task.formulas.values()]
    assert found == pytest.approx(rows.double().mean(0).tolist())


@pytest.mark.parametrize("max_length", [64, 26])
def test_questions_answered_from_their_targets_are_all_right(max_length: int) -> None:
    """A model that knows where the answer starts and ends, over contexts of one window and of several."""
    data, task = _data("questions", eval_batch_size=9, max_length=max_length), _task("question_answering", ())
    targets: list[Tensor] = [batch.targets for batch in data.test_dataloader()]
    windows = iter(targets)

    def model(ids: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        target = next(windows)
        sure = torch.where(target[:, :1] > 0, 9.0, 0.0)
        return tuple(F.one_hot(target[:, i], ids.shape[1]).float() * sure for i in range(2))  # type: ignore[return-value]

    found = evaluate(model, data.test_dataloader(), task)
    assert found.metrics == {"f1": 100.0, "exact_match": 100.0}


# --- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXT)
def test_task_refuses_data_of_another_kind(name: str) -> None:
    assert TASKS[name].reads == grammar_source(kind=TEXT[name], train=1, test=1).kind
    assert task_reading(TASKS[name].reads) == task_reading(TASKS[name].reads, name) == name
    with pytest.raises(ConfigError, match=rf"task={name} reads .*, the data has images; set task=classification"):
        task_reading("images", name)


@pytest.mark.parametrize("name", TEXT)
def test_label_smoothing_outside_its_range_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="label_smoothing"):
        _task(name, label_smoothing=1.0)
