"""Random layers at the bound: the engines of this machine against exact arithmetic.

python -m tests.fuzz --layers 20000              no output of `fbgemm` may differ from `reference`
python -m tests.fuzz --layers 2000 --unbounded   on a machine that saturates some must: so the search can fail
"""

from __future__ import annotations

import argparse
import sys

import torch

from qat.environment import isa
from qat.quantization.engines import ENGINES, lower
from tests.quantization.layers import Layer


def random_layer(generator: torch.Generator) -> Layer:
    """A layer of any kind: linear, dense, grouped, depthwise with and without multiplier, in one and two dimensions, and
    depthwise behind a padding of its own."""

    def one_of(*values: int) -> int:
        return values[int(torch.randint(len(values), (), generator=generator))]

    kind = one_of(0, 1, 2, 3, 3, 4)
    zero_point = one_of(0, 131, 131, 255)
    if kind == 0:
        features, out = one_of(1, 2, 3, 5, 8, 13, 33, 64, 130), one_of(1, 4, 7, 16, 33)
        return Layer("int8.linear", (out, features), (), zero_point=zero_point, float_output=bool(one_of(0, 1)))
    if kind == 4:
        channels, kernel, stride = one_of(8, 16, 24), one_of(3, 3, 5), one_of(1, 2)
        pads = tuple(one_of(0, 1, 2) for _ in range(4))
        around = ((stride, stride), (0, 0), (1, 1), channels)
        area = (kernel + one_of(0, 1, 2, 5), kernel + one_of(0, 1, 2, 5))
        return Layer("int8.conv2d", (channels, 1, kernel, kernel), area, around, zero_point=zero_point, pads=pads)
    dims = one_of(1, 2, 2, 2)
    kernel = one_of(1, 2, 3, 3, 5, 7) if kind != 3 else one_of(3, 3, 5, 7, 2)
    stride, dilation = one_of(1, 1, 2), one_of(1, 1, 1, 2)
    padding = one_of(0, (kernel - 1) * dilation // 2)
    groups = 1 if kind == 1 else one_of(2, 3, 4, 5, 6, 7, 8, 9, 12, 16) if kind == 2 else one_of(3, 8, 8, 13, 16, 24, 104)
    per_group = {1: one_of(1, 2, 3, 4, 7, 8, 16), 2: one_of(2, 3, 4, 4, 8, 16), 3: 1}[kind]
    multiple = one_of(per_group, per_group, 1, 3) if kind == 2 else one_of(1, 1, 2)
    outputs = one_of(1, 4, 8, 17) if kind == 1 else groups * multiple
    strides = (stride, one_of(1, 2)) if dims == 2 and one_of(0, 0, 0, 1) else (stride,) * dims
    geometry = (strides, *((value,) * dims for value in (padding, dilation)), groups)
    least = (kernel - 1) * dilation + 1
    size = tuple(least + one_of(0, 1, 2, 6) for _ in range(dims))
    shape = (outputs, per_group, *(kernel,) * dims)
    return Layer(f"int8.conv{dims}d", shape, size, geometry, zero_point=zero_point, bias=bool(one_of(0, 1, 1)))


def differing(count: int, *, seed: int = 0, engine: str = "fbgemm", bound: bool = True) -> list[tuple[int, Layer]]:
    """The layers, of `count` random ones, with an output that is not exact (`fbgemm`) or not within a step of it."""
    found = []
    for i in range(count):
        layer = random_layer(torch.Generator().manual_seed(seed * 1_000_003 + i))
        program, x = layer.program(target="x86", bound=bound, seed=i), layer.inputs(2, seed=i)
        name = next(program.layers()).name
        exact = lower(program, "reference").watch(x)[1][name]
        got = ENGINES[engine].bind(program).watch(x)[1][name]  # without asking whether it may
        steps = (exact.double() - got.double()).abs()
        if float(steps.max()) > (0.0 if engine == "fbgemm" or layer.float_output else 1.0):
            found.append((i, layer))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="fbgemm")
    parser.add_argument("--unbounded", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = differing(options.layers, seed=options.seed, engine=options.engine, bound=not options.unbounded)
    for i, layer in found[:10]:
        print(f"layer {i}: {layer}")
    bound = "without the bound" if options.unbounded else "at the bound"
    print(f"{len(found)} of {options.layers} random layers {bound} differ on {options.engine}, {isa()}, seed {options.seed}")
    sys.exit(1 if found and not options.unbounded else 0)


if __name__ == "__main__":
    main()
