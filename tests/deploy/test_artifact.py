from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qat
from qat.deploy.artifact import CARD, EXACT_ENGINES, GOLDEN, Verification, load, save_artifact, size_bytes, verify
from qat.errors import ArtifactError, EngineError
from qat.quantization.engines import ENGINES, lower
from qat.quantization.program import storage
from qat.quantization.program.storage import load_program, read_manifest
from qat.quantization.targets import TARGETS
from tests.deploy.artifacts import INPUTS, METADATA, PROGRAM
from tests.quantization.networks import CASES, converted

FILES = ("graph.json", "model.safetensors", GOLDEN, CARD, "tokenizer/vocab.txt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact; read it only."""
    folder = tmp_path_factory.mktemp("artifact") / "net"
    files = {"tokenizer/vocab.txt": b"hello"}
    return save_artifact(converted(*PROGRAM), folder, golden_inputs=[INPUTS], metadata=METADATA, files=files)


@pytest.fixture
def artifact(saved: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "net"))


def _rehash(folder: Path, name: str) -> None:
    """Make the manifest agree with an altered file."""
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / name).read_bytes()
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


#: Runs in a process where nothing can be imported that only training needs.
_SERVER = """
import sys
for name in ("timm", "transformers", "lightning", "pytorch_lightning", "hydra", "omegaconf", "torchvision", "datasets"):
    sys.modules[name] = None
import torch
import qat
from safetensors.torch import load_file

folder = sys.argv[1]
golden = load_file(f"{folder}/golden.safetensors")
model = qat.load(folder, engine="fbgemm")
assert torch.equal(model(golden["input.0"]), golden["output.0"])
assert qat.verify(folder).passed
print(qat.read_manifest(folder)["labels"])
"""


def test_artifact_gives_its_golden_outputs_in_a_process_without_training_libraries(saved: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", _SERVER, str(saved)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == str(METADATA["labels"])


@pytest.mark.parametrize("engine", ENGINES)
def test_verify_passes_for_what_was_saved(saved: Path, engine: str) -> None:
    found = verify(saved, engine)
    assert found.passed
    assert found.engine == engine
    if engine in EXACT_ENGINES:
        assert (found.equal, found.max_difference) == (True, 0.0)
    assert found.size == float(load_file(saved / GOLDEN)["output.0"].abs().max())


def test_golden_outputs_are_those_of_the_reference(saved: Path) -> None:
    golden = load_file(saved / GOLDEN)
    assert torch.equal(golden["input.0"], INPUTS)
    assert torch.equal(golden["output.0"], lower(converted(*PROGRAM), "reference")(INPUTS))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_flipped_bit_is_found(artifact: Path, name: str, place: float) -> None:
    content = bytearray((artifact / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x01
    (artifact / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        verify(artifact)
    with pytest.raises(ArtifactError, match=name):
        load(artifact)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_missing_file_is_named(artifact: Path, name: str) -> None:
    (artifact / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        verify(artifact)


def test_every_file_was_tried(saved: Path) -> None:
    assert set(read_manifest(saved)["files"]) == set(FILES)


@pytest.mark.parametrize("engine", EXACT_ENGINES)
def test_verify_notices_another_output_even_when_the_hash_fits(artifact: Path, engine: str) -> None:
    golden = load_file(artifact / GOLDEN)
    golden["output.0"].view(-1)[3] += 1e-3
    save_file(golden, artifact / GOLDEN)
    _rehash(artifact, GOLDEN)
    found = verify(artifact, engine)
    assert not found.passed
    assert found.max_difference == pytest.approx(1e-3, rel=1e-2)


def test_verify_notices_other_weights_even_when_the_hash_fits(artifact: Path) -> None:
    tensors = load_file(artifact / "model.safetensors")
    name = list(converted(*PROGRAM).layers())[-1].args[1].name
    tensors[name] = -tensors[name]
    save_file(tensors, artifact / "model.safetensors")
    _rehash(artifact, "model.safetensors")
    assert not verify(artifact, "fbgemm").passed
    assert not verify(artifact, "qnnpack").passed


@pytest.mark.parametrize(("exact", "difference", "passed"), [(True, 0.01, False), (False, 0.09, True), (False, 0.11, False)])
def test_engines_that_round_in_another_order_may_miss_a_tenth(exact: bool, difference: float, passed: bool) -> None:
    found = Verification(engine="x86", equal=False, max_difference=difference, size=1.0, exact=exact)
    assert found.passed is passed


@pytest.mark.parametrize(
    ("network", "engine", "isa", "exact"),
    [
        ("conv", "fbgemm", "another", True),  # integers and exact float ops alone: the same bits everywhere
        ("attention", "fbgemm", None, True),
        ("attention", "fbgemm", "another", False),  # layer norm and softmax round as the instruction set has it
        ("attention", "x86", None, False),
    ],
)
def test_bit_equality_is_promised_where_nothing_depends_on_the_instruction_set(
    network: str, engine: str, isa: str | None, exact: bool, tmp_path: Path
) -> None:
    metadata = {} if isa is None else {"made_on": {"isa": isa}}
    inputs = [CASES[network].inputs()]
    save_artifact(converted(network), tmp_path / "artifact", golden_inputs=inputs, metadata=metadata)
    found = verify(tmp_path / "artifact", engine)
    assert found.exact is exact
    assert found.passed


def test_artifact_without_golden_outputs_cannot_be_verified(tmp_path: Path) -> None:
    folder = qat.save(converted(*PROGRAM), tmp_path / "bare")
    with pytest.raises(ArtifactError, match="save_artifact"):
        verify(folder)


def test_manifest_tells_everything_that_a_server_needs(saved: Path) -> None:
    manifest = read_manifest(saved)
    assert METADATA.items() <= manifest.items()
    assert manifest["target"] == "any"
    assert manifest["schema_version"] == storage.SCHEMA_VERSION
    assert manifest["torch"] == torch.__version__
    assert manifest["inputs"] == [{"name": "x", "dtype": "torch.float32", "shape": [None, 3, 9, 7]}]
    assert manifest["engines"].keys() == ENGINES.keys()
    for name, entry in manifest["files"].items():
        content = (saved / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()} == {
        *manifest["files"],
        "manifest.json",
    }


@pytest.mark.parametrize("target", TARGETS)
def test_manifest_says_which_engines_run_it_and_load_does_as_it_says(tmp_path: Path, target: str) -> None:
    program = converted("conv", target)
    folder = save_artifact(program, tmp_path / "net", golden_inputs=[INPUTS])
    for engine, state in read_manifest(folder)["engines"].items():
        if state == "runs":
            assert load(folder, engine)(INPUTS).shape == (2, 5)
        else:
            with pytest.raises(EngineError):
                load(folder, engine)


def test_model_card_names_engines_metrics_and_inputs(saved: Path) -> None:
    card = (saved / CARD).read_text()
    assert card.startswith("# tiny")
    for engine in ENGINES:
        assert f"`{engine}`" in card
    for part in ("| fp32 | 90.0 |", "| int8 | 89.5 |", "classification", "`x` torch.float32 [None, 3, 9, 7]"):
        assert part in card


def test_loaded_program_is_the_saved_one(saved: Path) -> None:
    before, after = converted(*PROGRAM), load_program(saved)
    assert after.nodes == before.nodes
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())


def test_size_is_that_of_graph_and_tensors(saved: Path) -> None:
    assert size_bytes(saved) == sum((saved / name).stat().st_size for name in ("graph.json", "model.safetensors"))
