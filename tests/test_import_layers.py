"""The house: every module imports its own layer or lower ones, and some libraries through one door only.

The layers are the folders, from the ground up.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: First name below `qat`, from the ground up: each may import itself and what stands before it. `__init__` is the library's
#: public face.
ORDER = """
errors files ranks environment config
quantization deploy __init__ evaluation data models tasks report training sweep pipeline cli
""".split()

#: Modules that may stand beside the rooms.
LOOSE = {"qat.__init__", "qat.errors", "qat.files", "qat.ranks", "qat.environment"}

HYDRA = {"hydra", "omegaconf"}
TRAINING = {"lightning", "pytorch_lightning", "timm", "transformers", "torchvision", "datasets", "torchmetrics", "wandb"}


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every module of the package."""
    found = {}
    for path in sorted((ROOT / "qat").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts)] = ast.parse(path.read_text())
    return found


def imports(name: str) -> Iterator[str]:
    """Dotted names that a module imports, wherever in it; relative ones made absolute."""
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    """The first name below `qat`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def layer(name: str) -> int:
    assert top(name) in ORDER, f"{name} has no place in the order; give it one in the design and here"
    return ORDER.index(top(name))


def own_imports(name: str) -> set[str]:
    """Modules of this package that `name` imports."""
    known = modules().keys() | {module.removesuffix(".__init__") for module in modules()}
    return {found for found in imports(name) if found.split(".")[0] == "qat" and found in known}


def heart() -> list[str]:
    return [name for name in modules() if name.startswith("qat.quantization")]


def declared() -> set[str]:
    """Distributions that pyproject.toml names, in its dependencies or an extra, in their normal form."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {re.split(r"[\[<>=!~ ]", line)[0].lower().replace("_", "-") for line in lines}


def test_every_library_that_is_imported_is_declared() -> None:
    """Not by way of another one, which may drop it any day."""
    providers = packages_distributions()
    missing = {
        f"{library} in {name}"
        for name in modules()
        for library in {found.split(".")[0] for found in imports(name)}
        if library != "qat" and library not in sys.stdlib_module_names and library in providers
        if not {provider.lower().replace("_", "-") for provider in providers[library]} & declared()
    }
    assert not missing
    assert {"torch", "omegaconf", "pyarrow", "filelock"} <= declared()


def test_modules_were_found() -> None:
    assert {"qat.errors", "qat.quantization.graph.capture", "qat.quantization.engines.fbgemm"} <= modules().keys()
    assert len(heart()) > 15


def test_modules_stand_in_rooms() -> None:
    assert {name for name in modules() if name.count(".") == 1} == LOOSE


@pytest.mark.parametrize("name", modules())
def test_module_imports_its_own_layer_or_lower(name: str) -> None:
    above = {found for found in own_imports(name) if found != "qat" and layer(found) > layer(name)}
    assert not above
    assert "qat" not in own_imports(name), "import the module itself, not the public face"


def test_imports_between_modules_were_found() -> None:
    assert "qat.quantization.graph.capture" in own_imports("qat.quantization.prepare")
    assert sum(len(own_imports(name)) for name in heart()) > 30


@pytest.mark.parametrize("name", modules())
def test_hydra_enters_through_the_entry_layer_alone(name: str) -> None:
    if top(name) != "cli":
        assert not {found for found in imports(name) if found.split(".")[0] in HYDRA}


@pytest.mark.parametrize("name", [*heart(), "qat.errors", "qat.__init__", "qat.deploy.artifact"])
def test_the_library_underneath_is_plain_pytorch(name: str) -> None:
    if name in modules():
        assert not {found for found in imports(name) if found.split(".")[0] in TRAINING | HYDRA}


@pytest.mark.parametrize("name", [name for name in modules() if layer(name) < ORDER.index("report") and top(name) != "data"])
def test_lightning_starts_at_training(name: str) -> None:
    """What judges or deploys a model needs no training loop; data modules alone are Lightning's own kind of thing."""
    assert not {found for found in imports(name) if found.split(".")[0] in {"lightning", "pytorch_lightning"}}


def attributes(name: str) -> set[str]:
    """Dotted attribute chains and bare names that a module's code uses."""
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Attribute):
            parts = [node.attr]
            value = node.value
            while isinstance(value, ast.Attribute):
                parts.append(value.attr)
                value = value.value
            parts.append(value.id if isinstance(value, ast.Name) else "")
            found.add(".".join(reversed(parts)))
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


def quantized_names(name: str) -> set[str]:
    """Uses of the kernels and dtypes that upstream is going to remove."""
    words = {"quint8", "qint8", "qint32", "quantize_per_tensor", "quantize_per_channel"}
    return {
        chain
        for chain in attributes(name) | set(imports(name))
        if chain.startswith(("torch.ops.quantized", "torch.ao", "torch.backends.quantized")) or words & set(chain.split("."))
    }


@pytest.mark.parametrize("name", modules())
def test_only_engines_touch_quantized_kernels_and_dtypes(name: str) -> None:
    if not name.startswith("qat.quantization.engines."):
        assert not quantized_names(name)


def test_uses_of_quantized_kernels_were_found() -> None:
    users = {name for name in modules() if quantized_names(name)}
    assert {"qat.quantization.engines.native", "qat.quantization.engines.fbgemm"} <= users


def test_the_reference_engine_needs_no_quantized_kernel() -> None:
    for name in ("reference", "lowering", "engine"):
        assert not quantized_names(f"qat.quantization.engines.{name}")


@pytest.mark.parametrize("name", heart())
def test_every_heart_module_has_a_mirrored_test(name: str) -> None:
    if name.endswith("__init__"):
        return
    *folders, module = name.split(".")[1:]
    path = ROOT / "tests" / Path(*folders) / f"test_{module}.py"
    assert path.is_file(), f"{path.relative_to(ROOT)} is missing"
