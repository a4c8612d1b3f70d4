"""What native engines run and refuse: by proof from the weights, and before anything is built."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qat.errors import ConfigError, EngineError
from qat.quantization.engines import check_engines, lower, saturation
from qat.quantization.engines.native_engine import NativeEngine
from qat.quantization.engines.probe import Saturation
from qat.quantization.layouts import ChannelsLast, Kind, Layout, PerTap
from qat.quantization.targets import TARGETS
from tests.quantization.engines.test_padding import CHANNELS
from tests.quantization.engines.test_padding import program as padded_program
from tests.quantization.programs import TRAP, TRAP_FRAME, bounded, extreme_weight, layer_program

X86_ENGINES = ("fbgemm", "x86")

#: What AVX2 machines do: every kind of layer, in both layouts.
EVERYWHERE = Saturation(layouts=dict.fromkeys(Kind, (ChannelsLast(), PerTap())))
NOWHERE = Saturation(layouts=dict.fromkeys(Kind, ()))


def emulate(monkeypatch: pytest.MonkeyPatch, found: Saturation) -> None:
    """Let every engine believe that the probe of this machine found that."""
    monkeypatch.setattr(NativeEngine, "saturation", lambda self: found)


# --- acceptance by proof --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", X86_ENGINES)
@pytest.mark.parametrize("target", TARGETS)
def test_program_that_satisfies_the_bound_runs_whatever_its_target_says(
    target: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An honest artifact from a VNNI machine, its weights within the bound, on an AVX2 machine."""
    emulate(monkeypatch, EVERYWHERE)
    weight = extreme_weight((4, 8), [ChannelsLast()])
    program = layer_program("int8.linear", weight, channels=8, target=target)
    assert lower(program, engine).engine == engine


@pytest.mark.parametrize("engine", X86_ENGINES)
def test_program_that_could_saturate_is_refused_whatever_its_target_says(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crafted one that says `x86`. The message names layer, channel, sum, and what to do."""
    emulate(monkeypatch, EVERYWHERE)
    weight = extreme_weight((4, 8), [ChannelsLast()])
    weight[2, 4], weight[2, 5] = -100, -103
    program = layer_program("int8.linear", weight, channels=8, target="x86")
    program = replace(
        program, nodes=tuple(replace(n, layer="blocks.3.fc" if n.op == "int8.linear" else "") for n in program.nodes)
    )
    with pytest.raises(EngineError) as error:
        lower(program, engine)
    words = "layer 'blocks.3.fc'", "channel 2", "add up to 203", "128 is the most", "target 'x86'", "quantization=x86", "export"
    for part in words:
        assert part in str(error.value)


def test_only_what_this_machine_adds_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    program = layer_program("int8.linear", extreme_weight((4, 8)), channels=8, target="x86_vnni")
    emulate(monkeypatch, NOWHERE)
    assert lower(program, "fbgemm")
    emulate(monkeypatch, EVERYWHERE)
    with pytest.raises(EngineError, match="could saturate"):
        lower(program, "fbgemm")


@pytest.mark.parametrize(("layout", "runs"), [(ChannelsLast(), True), (PerTap(), False)])
def test_each_layout_is_asked_for_itself(layout: Layout, runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three input channels: the last of a tap and the first of the next are neighbours in one layout only."""
    weight = torch.zeros(1, 3, 1, 3, dtype=torch.int8)
    weight[0, 0, 0, 1] = weight[0, 1, 0, 1] = 127  # positions 3 and 4 in channels-last order, one tap's first two
    geometry = ((1, 1), (0, 1), (1, 1), 1)
    program = layer_program("int8.conv2d", weight, channels=3, geometry=geometry)
    emulate(monkeypatch, Saturation(layouts={**NOWHERE.layouts, Kind.DENSE: (layout,)}))
    if runs:
        assert lower(program, "fbgemm")
    else:
        with pytest.raises(EngineError, match="add up to 254"):
            lower(program, "fbgemm")


def test_padded_layer_is_asked_as_it_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, EVERYWHERE)
    weight, amounts = TRAP.expand(CHANNELS, -1, -1, -1), (1, 1, 0, 1)
    with pytest.raises(EngineError, match="add up to 254"):
        lower(padded_program(weight=weight.to(torch.int8).contiguous(), amounts=amounts), "fbgemm")
    weight = bounded(weight, [TRAP_FRAME])
    assert lower(padded_program(weight=weight.to(torch.int8), amounts=amounts), "fbgemm")


@pytest.mark.parametrize("name", ["reference", "qnnpack"])
def test_engines_that_widen_run_what_nothing_bounds(name: str) -> None:
    program = layer_program("int8.linear", extreme_weight((4, 8)), channels=8, target="arm")
    assert lower(program, name).engine == name


def test_engine_that_pairs_other_positions_than_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, Saturation(layouts=NOWHERE.layouts, unexpected=("dense (36, 4, 3, 3): positions 0 and 9",)))
    program = layer_program("int8.linear", torch.ones(4, 8, dtype=torch.int8), channels=8)
    with pytest.raises(EngineError, match=r"other products.*positions 0 and 9.*reference.*report"):
        lower(program, "fbgemm")


# --- refused before anything is built ---------------------------------------------------------------------------------


def test_target_of_other_machines_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, EVERYWHERE)
    with pytest.raises(EngineError, match=r"'fbgemm' cannot be used in this.*linear, dense, grouped.*quantization=x86,"):
        check_engines(["fbgemm"], "x86_vnni")


@pytest.mark.parametrize(
    ("engines", "target"), [(["fbgemm", "x86"], "x86"), (["fbgemm", "qnnpack"], "any"), (["reference"], "x86_vnni")]
)
def test_what_runs_everywhere_is_accepted(engines: list[str], target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_engines(engines, target)
    emulate(monkeypatch, EVERYWHERE)
    check_engines(engines, target)


@pytest.mark.parametrize(
    ("engines", "target", "words"),
    [
        ([], "x86", r"engines=\[fbgemm\]"),
        (["fbgem"], "x86", "Did you mean 'fbgemm'"),
        (["qnnpack"], "x86", r"engines=\[fbgemm,x86\]; qnnpack is for quantization=arm or quantization=any"),
        (["fbgemm"], "arm", r"quantization=arm makes is for engines=\[qnnpack\]"),
        (["fbgemm"], "vnni", "now called x86_vnni"),
    ],
)
def test_what_cannot_be_is_refused(engines: list[str], target: str, words: str) -> None:
    with pytest.raises((ConfigError, EngineError), match=words):
        check_engines(engines, target)


def test_missing_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"])
    with pytest.raises(EngineError, match="has no 'fbgemm' engine; it has qnnpack"):
        check_engines(["fbgemm"], "x86")
    assert saturation().keys() == {"qnnpack"}
