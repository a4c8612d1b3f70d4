"""The kernels of an AVX2 machine, on one with AVX-512 and VNNI: what holds for one kind of CPU is tested on both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
HERE = "tests/quantization/engines"

#: What depends on which kernels run.
FILES = [f"{HERE}/test_{name}.py" for name in ("saturation", "fidelity", "probe", "groups", "padding", "siblings")]

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
from qat.quantization.engines.cpu import isa
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
