"""The samples on which FP32 and INT8 decide differently: exactly those, with their truth and their pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

from qat.data.detection.coco import coco_source
from qat.data.detection.module import DetectionData
from qat.data.images.digits import digits_source
from qat.data.images.module import ImageData
from qat.data.options import Batching
from qat.data.text.module import EXCERPT, shortened
from qat.data.text.source import Question, Sentence, Tagged, TextSource
from qat.deploy.postprocess import Detections
from qat.evaluation.evaluate import Evaluation
from qat.pipeline.assess import disagreements
from qat.pipeline.run import Run, open_run, open_source
from qat.report.disagreements import MOST, SIDE, STRIP, differing, squares, strip
from qat.report.plots import draw
from qat.tasks.detection import found_again
from tests.data.detection.samples import contents, write_coco
from tests.data.samples import image_data, make_preprocess
from tests.evaluations import evaluation
from tests.runs import TINY, TINY_SHAPES, TINY_TEXT, quiet, tiny_config

AnyExample = TypeVar("AnyExample", Sentence, Tagged, Question)


def _decided(predictions: list[Any], **options: Any) -> Evaluation:
    return Evaluation(predictions=predictions, statistics=torch.zeros(len(predictions), 1), formulas={}, **options)


def _run(tmp_path: Path, base: dict[str, Any], **changes: Any) -> Run:
    return open_run(tiny_config(tmp_path, base=base, **changes), None, quiet())


def _examples(run: Run, kind: type[AnyExample]) -> list[AnyExample]:
    """The test examples of a text run, as its source has them."""
    source = open_source(run.config)
    assert isinstance(source, TextSource)
    return [example for example in source.test.examples if isinstance(example, kind)]


def test_differing_samples_are_the_first_ones_in_order() -> None:
    fp32 = list(range(40))
    int8 = [-1 if i % 3 == 2 else i for i in fp32]
    assert differing(evaluation([0.0] * 40, fp32), evaluation([0.0] * 40, int8)) == list(range(2, 3 * MOST, 3))
    assert differing(evaluation([0.0] * 40, fp32), evaluation([0.0] * 40, fp32)) == []


def test_what_only_int8_says_counts_as_well() -> None:
    """Of a box that INT8 alone found, FP32 says nothing that INT8 does not."""
    fp32 = Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
    int8 = Detections(boxes=torch.tensor([[0.0, 0.0, 9.0, 9.0]]), scores=torch.tensor([0.9]), labels=torch.tensor([0]))
    assert differing(_decided([fp32], alike=found_again), _decided([int8], alike=found_again)) == [0]


def test_strip_holds_the_whole_of_every_image_in_a_square() -> None:
    small, tall = Image.new("L", (8, 8), 40), Image.new("RGB", (50, 100), (200, 0, 0))
    first, second = squares(strip([small, tall]))
    assert (first.size, second.size) == ((SIDE, SIDE), (SIDE, SIDE))
    assert first.getcolors() == [(SIDE * SIDE, (40, 40, 40))]
    assert {colour: count for count, colour in second.getcolors() or []} == {
        (200, 0, 0): SIDE * SIDE // 2,
        (255, 255, 255): SIDE * SIDE // 2,
    }


def test_images_that_are_decided_differently_are_drawn_and_no_others(tmp_path: Path) -> None:
    data = image_data(digits_source(), preprocessing=make_preprocess(16, channels=1), limit_test=30)
    targets = data.test_targets()
    others = [(target + 1) % 10 if i in (4, 17) else target for i, target in enumerate(targets)]
    fp32, int8 = (evaluation([0.0] * 30, predictions) for predictions in (targets, others))
    assert [path.name for path in draw("classification", data, fp32, fp32, tmp_path)] == ["confusion.svg"]
    assert not (tmp_path / STRIP).exists()
    assert draw("classification", data, fp32, int8, tmp_path)[-1] == tmp_path / STRIP
    table, indices = data.test_images.table, data.test_images.indices
    with Image.open(tmp_path / STRIP) as sheet:
        drawn = [np.asarray(square) for square in squares(sheet)]
    expected = [np.asarray(table.open(indices[i]).convert("RGB").resize((SIDE, SIDE))) for i in (4, 17)]
    assert len(drawn) == 2
    assert all(np.array_equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_disagreements_on_images_have_name_truth_and_decisions(tmp_path: Path) -> None:
    run = _run(tmp_path, TINY, data__limit_test=20)
    assert isinstance(run.data, ImageData)
    truths = [int(target) for batch in run.data.test_dataloader() for target in batch[1]]
    int8 = [(target + 3) % 10 if i == 6 else target for i, target in enumerate(truths)]
    (found,) = disagreements(run, _decided(truths), _decided(int8))
    assert found.sample == run.data.test_images.table.name(run.data.test_images.indices[6])
    assert (found.truth, found.fp32, found.int8) == (str(truths[6]), str(truths[6]), str(int8[6]))


def test_disagreements_on_sentences_show_the_text_and_its_class(tmp_path: Path) -> None:
    run = _run(tmp_path, TINY_TEXT)
    fp32 = [0] * run.data.n_test
    found = disagreements(run, _decided(fp32), _decided([1 if i in (0, 33) else 0 for i in range(len(fp32))]))
    truths = {example.text: example.target for example in _examples(run, Sentence)}
    assert len({sample.sample for sample in found}) == 2
    assert [sample.truth for sample in found] == [run.data.labels[truths[sample.sample]] for sample in found]
    assert {(sample.fp32, sample.int8) for sample in found} == {("negative", "positive")}


def test_disagreements_on_tagged_words_show_the_sentence_and_all_tags(tmp_path: Path) -> None:
    run = _run(tmp_path, TINY_TEXT, task="token_classification", data__kind="tags", data__train=64, data__test=30)
    tags = [example.tags for batch in run.data.test_dataloader() for example in batch.examples.items]
    missed = [(0,) * len(row) if i == 9 else row for i, row in enumerate(tags)]
    (found,) = disagreements(run, _decided(tags), _decided(missed))
    (example,) = [e for e in _examples(run, Tagged) if " ".join(e.words) == found.sample]
    assert found.truth == found.fp32 == " ".join(run.data.labels[tag] for tag in example.tags)
    assert found.int8 == " ".join("O" for _ in example.words)


def test_disagreements_on_questions_show_question_context_and_answer(tmp_path: Path) -> None:
    run = _run(
        tmp_path,
        TINY_TEXT,
        task="question_answering",
        data__kind="questions",
        data__train=64,
        data__test=30,
        data__stride=4,
    )
    answers = [example.answers[0] for batch in run.data.test_dataloader() for example in batch.examples.items]
    (found,) = disagreements(run, _decided(answers), _decided(["" if i == 5 else text for i, text in enumerate(answers)]))
    question, context = found.sample.split(" | ")
    (example,) = [e for e in _examples(run, Question) if (e.question, e.context) == (question, context)]
    assert found.truth == found.fp32 == example.answers[0][0] == answers[5]
    assert found.int8 == ""


def test_disagreements_on_shapes_count_the_annotated_boxes(tmp_path: Path) -> None:
    run = _run(tmp_path, TINY_SHAPES)
    seen = [example.boxes for batch in run.data.test_dataloader() for example in batch.examples.items]
    perfect = [Detections(boxes=boxes.corners, scores=torch.ones(len(boxes.labels)), labels=boxes.labels) for boxes in seen]
    blind = [found[torch.zeros(len(found), dtype=torch.bool)] if i == 3 else found for i, found in enumerate(perfect)]
    (found,) = disagreements(run, _decided(perfect, alike=found_again), _decided(blind, alike=found_again))
    assert found.truth == found.fp32, "a detector that finds what is annotated says so in the same words"
    assert sum(int(part.split()[0]) for part in found.truth.split(", ")) == len(seen[3].labels)
    assert found.int8 == "nothing"


def test_truth_of_boxes_leaves_out_crowds_and_says_nothing_of_an_empty_image(tmp_path: Path) -> None:
    splits = contents(train=4, val=2, test=3)
    splits["test"]["annotations"][0]["iscrowd"] = 1
    data = DetectionData(
        coco_source(write_coco(tmp_path, splits)), preprocessing=make_preprocess(32), batching=Batching(batch_size=2)
    )
    truths = dict(zip(data.test_names(), data.test_truths(), strict=True))
    assert [truth for name, truth in sorted(truths.items())] == ["nothing", "1 blob", "1 cell"]


def test_truth_of_a_question_is_every_answer_once() -> None:
    question = Question("who ?", "anna and ben", (("anna", 0), ("ben", 9), ("anna", 0)), "a.json:1")
    assert question.truth(()) == "anna | ben"
    assert question._replace(answers=()).truth(()) == ""


def test_long_texts_are_shortened_and_say_so() -> None:
    assert shortened("x" * EXCERPT) == "x" * EXCERPT
    assert shortened("x" * (EXCERPT + 1)) == "x" * (EXCERPT - 1) + "…"


@pytest.mark.parametrize("fixture", ["finished", "finished_text", "finished_shapes"])
def test_runs_report_a_truth_of_every_disagreement_and_pictures_of_images_alone(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    found = json.loads((folder / "report.json").read_text())["disagreements"]
    assert all(sample["truth"] for sample in found)
    assert (folder / "report.html").read_text().count('class="sample"') == len(found)
    assert (folder / "plots" / STRIP).exists() == (fixture == "finished" and bool(found))
