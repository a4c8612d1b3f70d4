"""Kernel tables: every row names an op that exists, and every claim about a target is a known one."""

from __future__ import annotations

import operator

import pytest
import torch

from qat.errors import ConfigError
from qat.quantization.backend import (
    BACKENDS,
    TARGETS,
    Backend,
    Output,
    Role,
    choose_target,
    get_backend,
)
from qat.quantization.ops import ATEN_OPS, INT8_OPS

BACKEND = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)


def test_backends_were_found() -> None:
    assert BACKENDS
    assert all(name == backend.name for name, backend in BACKENDS.items())


@BACKEND
def test_backend_names_every_op_once(backend: Backend) -> None:
    names = [kernel.op for kernel in backend.kernels]
    assert names
    assert len(names) == len(set(names))


@BACKEND
def test_backend_ops_exist_in_pytorch(backend: Backend) -> None:
    for kernel in backend.kernels:
        if kernel.op == str(operator.getitem):
            continue
        _, name, overload = kernel.op.split(".")
        assert str(getattr(getattr(torch.ops.aten, name), overload)) == kernel.op


@BACKEND
def test_backend_ops_have_a_place_in_the_program(backend: Backend) -> None:
    for kernel in backend.kernels:
        if kernel.role is Role.PASS:
            assert kernel.program_op is None
            in_training_alone = {"aten.detach.default"}
            assert kernel.op in ATEN_OPS | {str(operator.getitem)} | in_training_alone
        else:
            assert kernel.program_op in INT8_OPS


@BACKEND
def test_backend_absorbs_only_ops_that_it_knows(backend: Backend) -> None:
    absorbed = {op for kernel in backend.kernels for op in kernel.absorbs}
    assert absorbed
    assert all(backend.kernel(op) is not None for op in absorbed)


@BACKEND
def test_backend_targets_have_saturation_rules(backend: Backend) -> None:
    assert backend.targets
    assert set(backend.targets) <= TARGETS.keys()


def test_backend_kernel_is_none_for_an_op_without_one() -> None:
    assert all(backend.kernel("aten.gelu.default") is None for backend in BACKENDS.values())


def test_only_qnnpack_needs_a_grid_behind_every_linear_layer() -> None:
    outputs = {name: backend.kernel("aten.linear.default") for name, backend in BACKENDS.items()}
    assert {name for name, kernel in outputs.items() if kernel and kernel.output is Output.GRID} == {"qnnpack"}


def test_get_backend_names_what_is_near() -> None:
    assert get_backend("qnnpack").name == "qnnpack"
    with pytest.raises(ConfigError, match=r"'fbgem'.*Did you mean 'fbgemm'"):
        get_backend("fbgem")


def test_choose_target_defaults_to_the_first() -> None:
    assert choose_target(BACKENDS["fbgemm"], None) == "vnni"
    assert choose_target(BACKENDS["qnnpack"], None) == "arm"
    assert choose_target(BACKENDS["fbgemm"], "avx2") == "avx2"


def test_choose_target_refuses_one_that_the_backend_does_not_serve() -> None:
    with pytest.raises(ConfigError, match=r"'fbgemm' has no target 'arm'.*avx2, vnni"):
        choose_target(BACKENDS["fbgemm"], "arm")
