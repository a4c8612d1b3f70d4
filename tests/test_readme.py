"""README says what the runs wrote, and its library example runs."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_results_are_those_of_the_reports() -> None:
    readme, tables = (ROOT / "README.md").read_text(), script("readme_table")
    found = tables.reports()
    assert {"digits_resnet", "cifar10_mobilenetv2"} <= {report["recipe"] for report in found}
    assert tables.rewritten(readme, found) == readme


def _examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_library_example_runs(tmp_path: Path) -> None:
    examples = _examples()
    assert len(examples) == 2
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
