"""The deployable artifact: an INT8 program with everything a server needs, and the proof that it still computes the same.

Beside the program's files (see `quantization.storage`) an artifact holds `golden.safetensors`, a few inputs with the INT8
outputs of the reference engine, and `README.md`, a model card. `verify` replays the golden inputs.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.utils import _pytree as pytree

from qat.environment import isa
from qat.errors import ArtifactError
from qat.quantization.engines import ENGINES, Int8Model, lower
from qat.quantization.program.ops import CHAIN_OPS, ISA_DEPENDENT
from qat.quantization.program.program import Int8Program
from qat.quantization.program.storage import load_program, read_manifest, save

GOLDEN, CARD = "golden.safetensors", "README.md"

#: Folder of the tokenizer, where there is one.
TOKENIZER = "tokenizer"

#: Engines that equal the reference bit for bit; the others round in another order.
EXACT_ENGINES = tuple(name for name, engine in ENGINES.items() if engine.exact)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What replaying the golden inputs gave.

    Args:
        engine: the engine that ran.
        equal: every output equal bit for bit.
        max_difference: largest absolute difference of any output.
        size: largest absolute golden output.
        exact: whether bit equality is promised: by this engine, for this program, between this machine and its maker's.
    """

    engine: str
    equal: bool
    max_difference: float
    size: float
    exact: bool

    @property
    def passed(self) -> bool:
        """Equal where that is promised, else within a tenth of the largest output (something rounds in another order)."""
        return self.equal if self.exact else self.max_difference <= 0.1 * self.size


def save_artifact(
    program: Int8Program,
    folder: str | Path,
    *,
    golden_inputs: Sequence[Tensor],
    metadata: Mapping[str, object] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write an artifact folder, whole or not at all.

    Args:
        golden_inputs: one small batch of real inputs.
        metadata: JSON data for the manifest: task, labels, preprocessing, metrics, recipe, commit, ...
        files: further files (tokenizer, ...) by relative path.

    Raises:
        ArtifactError: the folder holds something else or cannot be written.
    """
    outputs = lower(program, "reference")(*golden_inputs)
    golden = {f"input.{i}": x.contiguous() for i, x in enumerate(golden_inputs)}
    golden |= {f"output.{i}": y.contiguous().clone() for i, y in enumerate(pytree.tree_leaves(outputs))}
    manifest = {
        "torch": torch.__version__,
        "engines": {name: engine.refusal(program) or "runs" for name, engine in sorted(ENGINES.items())},
        "made_on": {"machine": platform.machine(), "isa": isa()},
        "inputs": [{"name": s.name, "dtype": str(s.dtype), "shape": list(s.shape)} for s in program.inputs],
        **(metadata or {}),
    }
    extra = {**(files or {}), GOLDEN: to_safetensors(golden), CARD: _card(manifest, program).encode()}
    return save(program, folder, metadata=manifest, files=extra)


def load(folder: str | Path, engine: str = "fbgemm") -> Int8Model:
    """Load an artifact and bind it to an engine's kernels; needs neither the model's code nor timm, transformers or Lightning.

    Args:
        engine: `reference`, `fbgemm`, `x86` or `qnnpack`.

    Returns:
        A module that takes the tensors described in the manifest's `inputs`.

    Raises:
        ArtifactError, ProgramError: the folder is damaged, foreign or unsafe.
        EngineError: the engine cannot run it on this machine, for example because it could saturate.
    """
    return lower(load_program(folder), engine)


def verify(folder: str | Path, engine: str = "fbgemm") -> Verification:
    """Check every hash, load the artifact on `engine` and replay its golden inputs.

    Raises:
        ArtifactError: it has no golden outputs; also everything that `load` raises.
    """
    path = Path(folder) / GOLDEN
    manifest = read_manifest(folder)
    made_on = manifest.get("made_on", {})
    if GOLDEN not in manifest["files"]:
        raise ArtifactError(f"{folder} holds no {GOLDEN}; save it with save_artifact")
    golden = parse_safetensors(path.read_bytes())
    inputs = [golden[f"input.{i}"] for i in range(sum(name.startswith("input.") for name in golden))]
    program = load_program(folder)
    outputs = pytree.tree_leaves(lower(program, engine)(*inputs))
    pairs = [(y, golden[f"output.{i}"]) for i, y in enumerate(outputs)]
    return Verification(
        engine=engine,
        equal=all(torch.equal(y, expected) for y, expected in pairs),
        max_difference=max(float((y - expected).abs().max()) for y, expected in pairs),
        size=max(float(expected.abs().max()) for _, expected in pairs),
        exact=engine in EXACT_ENGINES and (made_on.get("isa") == isa() or not _isa_dependent(program)),
    )


def _isa_dependent(program: Int8Program) -> bool:
    """Whether float ops stand in the program whose last bit depends on the instruction set, and may flip a rounding."""
    grids = program.grids()
    for node in program.nodes:
        kind, name = node.op.split(".")[:2]
        from_float = kind == "aten" or (node.op in CHAIN_OPS and node.args[0].name not in grids)
        if name in ISA_DEPENDENT and (from_float or name in ("silu", "sigmoid")):
            return True
    return False


def size_bytes(folder: str | Path) -> int:
    """Bytes of the deployed network: graph and tensors, without golden outputs, card and tokenizer."""
    files = read_manifest(folder)["files"]
    return int(sum(files[name]["bytes"] for name in ("graph.json", "model.safetensors")))


def _card(manifest: Mapping[str, Any], program: Int8Program) -> str:
    metrics = manifest.get("metrics", {})
    rows = "".join(f"| {name} | {value} |\n" for name, value in metrics.items())
    engines = "".join(f"* `{name}`: {state}\n" for name, state in manifest["engines"].items())
    inputs = ", ".join(f"`{i['name']}` {i['dtype']} {i['shape']}" for i in manifest["inputs"])
    return f"""# {manifest.get("model", "INT8 model")}

True INT8 for CPUs. Task: {manifest.get("task", "unknown")}. Made for `{program.target}`.

```python
import qat

model = qat.load("this folder", engine="fbgemm")
outputs = model(inputs)  # {inputs}
```

Dimensions of None are free. Preprocessing and labels stand in `manifest.json`.

| metric | value |
|---|---|
{rows}
Engines on the machine that made it:

{engines}"""
