"""README says what the runs wrote, and its library example runs."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

from qat.data.detection.shapes import shapes_source
from qat.report.compare import read
from qat.report.readme import rewritten

ROOT = Path(__file__).parents[1]


def test_readme_results_are_those_of_the_reports() -> None:
    readme = (ROOT / "README.md").read_text()
    found = [read(path) for path in sorted((ROOT / "docs" / "results").glob("*.json"))]
    assert {"digits_resnet", "cifar10_mobilenetv2"} <= {report.recipe for report in found}
    assert rewritten(readme, found) == readme


def _examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_library_example_runs(tmp_path: Path) -> None:
    examples = _examples()
    assert len(examples) == 3
    blocked = "import sys\nfor name in ('pytorch_lightning', 'hydra', 'timm', 'transformers'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + examples[0]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "artifact" / "manifest.json").is_file()


def test_readme_text_example_predicts_from_raw_text(finished_text: Path, tmp_path: Path) -> None:
    """Five statements, on an artifact that lies elsewhere, with the libraries of training out of reach."""
    shutil.copytree(finished_text / "artifact", tmp_path / "artifact")
    code = _examples()[1]
    assert sum(not isinstance(s, ast.Import | ast.ImportFrom) for s in ast.parse(code).body) == 5
    blocked = "import sys\nfor name in ('pytorch_lightning', 'hydra', 'timm', 'datasets'): sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", blocked + code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\['(negative|positive)', '(negative|positive)'\]", done.stdout.strip())


def test_readme_detection_example_finds_boxes_on_a_jpeg(finished_shapes: Path, tmp_path: Path) -> None:
    """Five lines, on an artifact that lies elsewhere, without the libraries of training and torchvision's models."""
    shutil.copytree(finished_shapes / "artifact", tmp_path / "artifact")
    shapes_source(train=1, test=9).test.open(8).resize((300, 200)).save(tmp_path / "picture.jpg")
    code = _examples()[2]
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 5
    blocked = "import sys\nfor name in ('pytorch_lightning', 'hydra', 'timm', 'transformers', 'torchvision', 'datasets'):\n"
    blocked += "    sys.modules[name] = None\n"
    code = code.replace("min_score=0.5", "min_score=0.0")  # the network of the fixture is hardly trained
    done = subprocess.run([sys.executable, "-c", blocked + code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3
    for line in done.stdout.splitlines():
        found = re.fullmatch(r"(disc|square|triangle) [01]\.\d+ \[(\d+), (\d+), (\d+), (\d+)\]", line)
        assert found is not None, line
        x1, y1, x2, y2 = (int(side) for side in found.groups()[1:])
        assert 0 <= x1 <= x2 <= 300
        assert 0 <= y1 <= y2 <= 200
