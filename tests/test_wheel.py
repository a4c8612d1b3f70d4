"""What an installed wheel holds."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of a wheel built here, without network."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed: pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    (wheel,) = folder.glob("qat-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_wheel_holds_every_configuration_and_recipe(unpacked: Path) -> None:
    for name in ("conf", "recipes"):
        files = sorted(path.relative_to(ROOT / name) for path in (ROOT / name).rglob("*.yaml"))
        assert files
        for path in files:
            assert (unpacked / "qat" / name / path).read_bytes() == (ROOT / name / path).read_bytes()


@pytest.mark.slow
def test_recipes_are_found_in_an_unpacked_wheel(unpacked: Path, tmp_path: Path) -> None:
    code = "from qat.cli.recipes import folder, recipes; print(folder('recipes')); print('digits_resnet' in recipes())"
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(unpacked / "qat" / "recipes"), "True"]


@pytest.mark.slow
def test_sweepers_and_templates_are_in_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    """Hydra finds the sweeper there: an objective that cannot be is refused by it."""
    assert list((unpacked / "qat" / "report").glob("*.j2"))
    code = "import sys; sys.argv[0] = 'qat-train'; from qat.cli.main import train; train()"
    arguments = ["-m", "hydra/sweeper=optuna", "recipe=digits_resnet", "hydra.sweeper.objectives=[stages.fp32]"]
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-c", code, *arguments]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 2, found.stderr
    assert "objective 'stages.fp32' is nothing that a report measures on the INT8 model" in found.stderr
