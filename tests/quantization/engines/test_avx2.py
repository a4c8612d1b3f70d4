"""The kernels of an AVX2 machine, on one with AVX-512 and VNNI: what holds for one kind of CPU is tested on both."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qat.deploy.artifact import save_artifact
from qat.quantization.engines import lower
from tests.quantization.networks import CASES, converted

ROOT = Path(__file__).parents[3]
HERE = "tests/quantization/engines"

#: What depends on which kernels run.
FILES = [
    f"{HERE}/test_{name}.py" for name in ("native_engine", "saturation", "fidelity", "probe", "groups", "padding", "siblings")
]

with_avx512 = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported() or os.environ.get("QAT_TEST_CPU") == "avx2",
    reason="this CPU runs AVX2 kernels anyway",
)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=everything, capture_output=True, text=True, check=False)


@with_avx512
def test_kernels_of_an_avx2_machine_pass_the_same_tests() -> None:
    found = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES, QAT_TEST_CPU="avx2")
    assert found.returncode == 0, found.stdout[-5000:]
    assert " passed" in found.stdout


PROGRAM = """
from tests.avx2 import hide_avx512
assert hide_avx512()
from qat.quantization.engines import saturation
from qat.environment import isa
print(isa(), sorted(set(saturation()["fbgemm"].values())))
"""


@with_avx512
def test_hidden_vnni_is_neither_named_nor_used() -> None:
    """Every kind of layer saturates there: this is what makes the test above worth something."""
    found = run("-c", PROGRAM)
    assert found.stdout.split("\n")[0] == "avx2 ['neighbours']", found.stderr


@with_avx512
def test_random_layers_without_the_bound_saturate_on_an_avx2_machine() -> None:
    found = run("-m", "tests.avx2", "tests/fuzz.py", "--layers", "60", "--unbounded")
    assert " of 60 random layers without the bound differ on fbgemm, avx2" in found.stdout, found.stderr
    assert int(found.stdout.split("\n")[-2].split()[0]) > 20


LOAD = """
import json, sys
from tests.avx2 import hide_avx512
assert hide_avx512()
import qat
from qat.errors import EngineError
found = {}
for folder in sys.argv[1:]:
    try:
        verified = qat.verify(folder, "fbgemm")
        found[folder] = [verified.equal, verified.exact]
    except EngineError as error:
        found[folder] = str(error)
print(json.dumps(found))
"""


@with_avx512
def test_artifacts_of_this_machine_on_an_avx2_machine(tmp_path: Path) -> None:
    """Made for every x86 CPU: bit for bit the same. What could saturate there is refused, whatever it says it is for, and what
    cannot loads, whatever it says."""
    inputs = [CASES["residual"].inputs()]
    made = {
        "x86": converted("residual", "x86"),
        "any": converted("residual", "any"),
        "vnni": converted("residual", "x86_vnni"),
        "crafted": replace(converted("residual", "x86_vnni"), target="x86"),
        "honest": replace(converted("residual", "x86"), target="x86_vnni"),
    }
    for name, program in made.items():
        save_artifact(program, tmp_path / name, golden_inputs=inputs)
        assert lower(program, "fbgemm")
    done = run("-c", LOAD, *(str(tmp_path / name) for name in made))
    assert done.returncode == 0, done.stderr
    found = {Path(folder).name: value for folder, value in json.loads(done.stdout).items()}
    assert found["x86"][0]
    assert found["any"][0]
    assert found["honest"][0]
    for name in ("vnni", "crafted"):
        assert re.search(r"layer '\w+(\.\d)?' could saturate on this CPU \(avx2\).* add up to \d{3},", found[name]), found[name]
