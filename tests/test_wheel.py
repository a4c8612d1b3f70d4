"""What an installed wheel holds."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution, files
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.test_library import CHECKS, EXAMPLE

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


@pytest.fixture(scope="module")
def server(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Import paths of a machine on which the wheel is installed with its core dependencies, and what they need, alone."""
    folder = tmp_path_factory.mktemp("server")
    for name in needed(["torch", "numpy", "safetensors", "pillow"]):
        for top in {path.parts[0] for path in files(name) or () if ".." not in path.parts}:
            link = folder / top
            if not link.exists():
                link.symlink_to(str(distribution(name).locate_file(top)))
    return [unpacked, folder]


def needed(names: Iterable[str]) -> set[str]:
    """Distributions with everything that they require here, extras aside."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            required = (Requirement(line) for line in distribution(name).requires or ())
            waiting += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def test_core_dependencies_are_what_a_server_needs() -> None:
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {Requirement(line).name for line in core} == {"torch", "numpy", "safetensors", "pillow"}


def start(server: list[Path], code: str) -> subprocess.CompletedProcess[str]:
    """Run a program that sees nothing but these paths and the standard library."""
    paths = f"import sys; sys.path[:0] = {[str(path) for path in server]!r}\n"
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", paths + code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run_on(server: list[Path], code: str) -> str:
    """What it prints."""
    found = start(server, code)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_core_alone_runs_an_artifact(server: list[Path], finished: Path) -> None:
    code = f"""
import torch, qat
model = qat.load({str(finished / "artifact")!r})
print(tuple(model(torch.zeros(3, 1, 32, 32)).shape), qat.verify({str(finished / "artifact")!r}).passed)
"""
    assert run_on(server, code).split("\n")[0] == "(3, 10) True"


def test_core_alone_runs_a_detector(server: list[Path], finished_shapes: Path) -> None:
    code = f"""
import qat
from PIL import Image
detect = qat.load_detector({str(finished_shapes / "artifact")!r})
print(type(detect(Image.new("RGB", (80, 60)))).__name__, detect.labels)
"""
    assert run_on(server, code).startswith("list (")


def test_core_alone_quantizes_a_model(server: list[Path], tmp_path: Path) -> None:
    assert run_on(server, f"import sys\nfolder = {str(tmp_path / 'artifact')!r}\n{EXAMPLE}\n{CHECKS}") == ""


def test_commands_say_what_to_install(server: list[Path]) -> None:
    found = start(server, "from qat.cli.main import train")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.strip().endswith("pip install 'qat[train]'")


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
