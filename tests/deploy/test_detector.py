"""Detectors as artifacts: from an image of any size to named boxes in its own pixels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import qat
from qat.deploy.detector import Box
from qat.deploy.postprocess import decoder
from qat.deploy.preprocess import ImagePreprocess
from qat.errors import ArtifactError
from qat.models.dense import build_dense
from tests.data.samples import make_image

SIZE = 64
LABELS = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a fresh detector that finds many boxes and is sure of some; read it only."""
    torch.manual_seed(0)
    built = build_dense(
        name="test_resnet",
        num_classes=len(LABELS),
        image_size=SIZE,
        head_options={"channels": 16, "convs": 1, "extra_levels": False},
    )
    heads: Any = built.module.get_submodule("head")
    heads.classification_head.cls_logits.bias.data = torch.tensor([2.0, -1.0, -1.0])
    nn.init.normal_(heads.classification_head.cls_logits.weight, std=0.2)
    nn.init.ones_(heads.regression_head.bbox_reg.bias)
    prepared = qat.prepare(built.module, built.example_inputs)
    inputs = ImagePreprocess.from_record(built.preprocessing.to_record())(make_image(96, 96))
    qat.calibrate(prepared, [(inputs,)])
    metadata = {
        "labels": list(LABELS),
        "preprocessing": built.preprocessing.to_record(),
        "postprocessing": built.task_options["postprocessing"],
    }
    folder = tmp_path_factory.mktemp("detector") / "net"
    return qat.save_artifact(qat.convert(prepared), folder, golden_inputs=[inputs], metadata=metadata)


def _damaged(saved: Path, folder: Path, **changes: Any) -> Path:
    """A copy whose manifest has other entries; None takes one away."""
    manifest = {**json.loads((saved / "manifest.json").read_text()), **changes}
    shutil.copytree(saved, folder)
    (folder / "manifest.json").write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))
    return folder


def test_boxes_are_those_of_the_network_moved_from_the_letterbox_to_the_image(saved: Path) -> None:
    """An image of 128 x 64 is halved and stands 16 pixels below the top."""
    image = make_image(128, 64, seed=1)
    manifest = qat.read_manifest(saved)
    canvas = Image.new("RGB", (SIZE, SIZE), tuple(round(255 * mean) for mean in manifest["preprocessing"]["mean"]))
    canvas.paste(image.resize((64, 32), Image.Resampling[manifest["preprocessing"]["interpolation"].upper()]), (0, 16))
    inputs = ImagePreprocess.from_record(manifest["preprocessing"])(canvas)
    raw = decoder(manifest["postprocessing"])(qat.load(saved)(inputs))[0]
    boxes = (2 * (raw.boxes - torch.tensor([0, 16, 0, 16]))).clamp(min=0).minimum(torch.tensor([128.0, 64.0, 128.0, 64.0]))
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])

    found = qat.load_detector(saved).detect(image)
    assert 5 < len(found) == int(inside.sum()) < len(raw)
    torch.testing.assert_close(found.boxes, boxes[inside])
    assert torch.equal(found.scores, raw.scores[inside])
    assert torch.equal(found.labels, raw.labels[inside])
    assert float(found.boxes[:, 2].max()) > SIZE


@pytest.mark.parametrize("size", [(200, 50), (50, 200), (64, 64), (7, 300)])
def test_boxes_lie_in_the_image(saved: Path, size: tuple[int, int]) -> None:
    found = qat.load_detector(saved)(make_image(*size), min_score=0.0)
    assert found
    for box in found:
        assert 0 <= box.x1 < box.x2 <= size[0]
        assert 0 <= box.y1 < box.y2 <= size[1]


def test_boxes_have_names_and_scores_from_the_threshold_on(saved: Path) -> None:
    detector, image = qat.load_detector(saved), make_image(90, 60)
    everything = detector.detect(image)
    for threshold in (0.0, 0.5):
        chosen = everything.scores >= threshold
        found = detector(image) if threshold == 0.5 else detector(image, min_score=threshold)
        assert len(found) == int(chosen.sum()) > 0
        assert [box.score for box in found] == everything.scores[chosen].tolist()
        assert [box.label for box in found] == [LABELS[label] for label in everything.labels[chosen].tolist()]
    assert float(everything.scores.min()) < 0.5


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_image_of_any_mode_is_accepted(saved: Path, mode: str) -> None:
    detector, image = qat.load_detector(saved), make_image(90, 60).convert(mode)
    assert torch.equal(detector.detect(image).boxes, detector.detect(image.convert("RGB")).boxes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"postprocessing": None}, "is not the artifact of a detector: 'postprocessing'"),
        ({"preprocessing": None}, "is not the artifact of a detector: 'preprocessing'"),
        ({"labels": None}, "is not the artifact of a detector: 'labels'"),
        ({"postprocessing": {"kind": "masks"}}, "is not the artifact of a detector: unknown postprocessing kind 'masks'"),
        ({"preprocessing": {"kind": "text"}}, "is not the artifact of a detector: not a preprocessing record"),
    ],
)
def test_artifact_of_something_else_is_refused(saved: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        qat.load_detector(_damaged(saved, tmp_path / "net", **changes))


#: Runs in a process where nothing can be imported that only training needs.
_SERVER = """
import sys
for name in (
    "timm", "transformers", "torchvision", "lightning", "pytorch_lightning", "hydra", "omegaconf", "datasets", "pycocotools",
    "scipy", "torchmetrics", "sklearn", "matplotlib",
):
    sys.modules[name] = None
import dataclasses
import json
import qat
from PIL import Image

found = qat.load_detector(sys.argv[1])(Image.open(sys.argv[2]), min_score=0.0)
print(json.dumps([dataclasses.asdict(box) for box in found]))
"""


def test_jpeg_is_searched_in_a_process_without_training_libraries(saved: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    make_image(100, 70).save(photo)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", _SERVER, str(saved), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with Image.open(photo) as image:
        expected: list[Box] = qat.load_detector(saved)(image, min_score=0.0)
    assert found == [asdict(box) for box in expected]
    assert found
