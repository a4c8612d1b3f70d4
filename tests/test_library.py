"""The library underneath: plain PyTorch, in the twenty lines that the documentation shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = """
import torch
from torch import nn

import qat

model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
).eval()
images = torch.randn(32, 3, 8, 8)
targets = images.mean((2, 3)).argmax(1)

prepared = qat.prepare(model, (images[:2],))
qat.calibrate(prepared, [images])
optimizer = torch.optim.AdamW(prepared.parameters(), lr=1e-2)
losses = []
for _ in range(20):
    loss = nn.functional.cross_entropy(prepared(images), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
program = qat.convert(prepared.eval())
qat.save(program, folder)
int8 = qat.load(folder, engine="fbgemm")
"""

CHECKS = """
with torch.no_grad():
    simulated, deployed = prepared(images), int8(images)
assert losses[-1] < losses[0]
assert torch.equal(qat.lower(program, "reference")(images), deployed)
step = (simulated - deployed).abs().max() / simulated.abs().max()
assert step < 0.05, step
stored = [tensor.dtype for tensor in program.tensors.values()]
assert torch.int8 in stored
loaded = {name.partition(".")[0] for name in sys.modules}
heavy = loaded & {"hydra", "omegaconf", "lightning", "pytorch_lightning", "timm", "transformers", "torchvision", "datasets"}
assert not heavy, heavy
"""


def test_library_trains_converts_and_deploys_without_lightning_and_hydra(tmp_path: Path) -> None:
    code = f"import sys\nfolder = {str(tmp_path / 'artifact')!r}\n{EXAMPLE}\n{CHECKS}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr


def test_every_public_name_has_a_home_that_has_it() -> None:
    import qat

    assert qat._HOMES.keys() == {*qat.__all__}
    assert all(getattr(qat, name).__name__ == name for name in qat.__all__)
    assert {*qat.__all__} <= {*dir(qat)}


def test_public_names_exist_and_are_documented() -> None:
    import qat

    assert qat.__all__ == sorted(qat.__all__)
    for name in qat.__all__:
        assert getattr(qat, name).__doc__, f"qat.{name} has no docstring"
