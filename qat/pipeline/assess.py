"""After training: evaluate INT8 on every engine, check the gates, write and verify the artifact, measure latency."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from qat.deploy.artifact import save_artifact, size_bytes, verify
from qat.environment import commit, environment
from qat.errors import ArtifactError
from qat.evaluation.benchmark import Latency, measure
from qat.evaluation.evaluate import Evaluation, agreement, interval, paired_difference
from qat.evaluation.gates import Gate, budget_gate, kernel_gate, simulation_gate
from qat.pipeline.run import Run, benchmark_inputs, progress, sample_inputs, score
from qat.quantization.analysis.coverage import coverage
from qat.quantization.analysis.parity import simulation_parity
from qat.quantization.engines import lower, saturation
from qat.quantization.prepared import PreparedModel
from qat.quantization.program.program import Int8Program
from qat.report.disagreements import differing
from qat.report.plots import draw
from qat.report.report import (
    ArtifactSize,
    Disagreement,
    Drop,
    EngineResult,
    MetricInfo,
    Report,
    Simulation,
    layer_rows,
    rounded,
)


def assess(
    run: Run,
    network: nn.Module,
    prepared: PreparedModel,
    program: Int8Program,
    *,
    stages: dict[str, Evaluation],
    training: dict[str, float],
    folder: Path,
) -> Report:
    """Evaluate INT8 on every engine, check the gates, write the artifact and measure it."""
    config = run.config
    sample = sample_inputs(run, config.gate.parity_samples)
    limit = config.gate.reference_samples
    reference = score(run, lower(program, "reference"), "int8/reference", limit=limit)
    gates: list[Gate] = []
    results: dict[str, Evaluation] = {}
    for engine in config.engines:
        results[engine] = score(run, lower(program, engine), f"int8/{engine}")
        gates.append(kernel_gate(program, engine, sample, reference=reference, result=results[engine]))
    int8 = results[config.engines[0]]
    drop = paired_difference(stages["fp32"], int8)
    layers = simulation_parity(prepared, program, sample)
    gates.append(simulation_gate(layers, simulated=stages["fake_quant"], int8=int8))
    gates.append(budget_gate(drop, config.gate.max_drop))
    draw(run.task.name, run.data, stages["fp32"], int8, folder / "plots")
    latencies = time_engines(run, network, program)
    metrics = {**{name: stage.metric for name, stage in stages.items()}, "int8": int8.metric}
    artifact = write_artifact(run, folder / "artifact", program, tuple(x[:2] for x in sample), metrics, network)
    return Report(
        task=run.task.name,
        recipe=config.recipe,
        model=run.model.name,
        data=f"{run.data.name} ({run.data.fingerprint})",
        n_eval=int8.count,
        seed=config.seed,
        target=program.target,
        metric=MetricInfo(name=run.task.metric),
        stages=metrics,
        drop=Drop.of(drop),
        drops={
            name: Drop.of(drop if i == 0 else paired_difference(stages["fp32"], int8, name))
            for i, name in enumerate(int8.formulas)
        },
        agreement=agreement(stages["fp32"], int8),
        intervals={name: interval(stage) for name, stage in {**stages, "int8": int8}.items()},
        disagreements=disagreements(run, stages["fp32"], int8),
        layers=layer_rows(layers, program.grids()),
        simulation=Simulation(delta=stages["fake_quant"].metric - int8.metric, agreement=agreement(stages["fake_quant"], int8)),
        engines={
            engine: EngineResult(
                int8=result.metric,
                agreement=agreement(reference, result),
                agreement_samples=reference.count,
                latency_ms=latencies[engine],
                fp32_latency_ms=latencies["fp32"],
                speedup=latencies["fp32"].p50 / latencies[engine].p50,
            )
            for engine, result in results.items()
        },
        metrics={**{name: stage.metrics for name, stage in stages.items()}, "int8": int8.metrics},
        coverage=coverage(prepared, [x[:1] for x in sample]),
        training=training,
        artifact=artifact,
        gates=tuple(gates),
        environment=environment(saturation()),
    )


def disagreements(run: Run, fp32: Evaluation, int8: Evaluation) -> list[Disagreement]:
    """The first samples on which the two do not decide alike, with what is true of them."""
    names, truths = run.data.test_names(), run.data.test_truths()
    return [
        Disagreement(
            sample=names[i],
            truth=truths[i],
            fp32=run.task.describe(fp32.predictions[i]),
            int8=run.task.describe(int8.predictions[i]),
        )
        for i in differing(fp32, int8)
    ]


def write_artifact(
    run: Run, folder: Path, program: Int8Program, golden: Sequence[Tensor], metrics: dict[str, float], network: nn.Module
) -> ArtifactSize:
    """Save the artifact, load it again and replay its golden outputs."""
    save_artifact(
        program,
        folder,
        golden_inputs=golden,
        files=run.model.files,
        metadata={
            "task": run.task.name,
            "model": run.model.name,
            "labels": list(run.data.labels),
            "preprocessing": run.model.preprocessing.to_record(),
            **{key: value for key, value in run.model.task_options.items() if key == "postprocessing"},
            "metrics": rounded(metrics),
            "recipe": run.config.recipe,
            "commit": commit(),
        },
    )
    for engine in run.config.engines:
        found = verify(folder, engine)
        if not found.passed:
            raise ArtifactError(f"the saved artifact does not reproduce its golden outputs on {engine}: {found}")
    fp32_bytes = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    size = size_bytes(folder)
    return ArtifactSize(path=folder.name, bytes=size, fp32_bytes=fp32_bytes, ratio=size / fp32_bytes)


def time_engines(run: Run, network: nn.Module, program: Int8Program) -> dict[str, Latency]:
    """Latency of FP32 eager and of every engine, interleaved."""
    config = run.config.benchmark
    inputs = benchmark_inputs(run)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        eager = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)  # PyTorch's default layout
        models = {"fp32": eager, **{engine: lower(program, engine) for engine in run.config.engines}}
        with progress(run, "benchmark", config.repeats + 5) as advance:
            calls = {name: (lambda model=model: model(*inputs)) for name, model in models.items()}
            return measure(calls, repeats=config.repeats, progress=lambda: advance(1))
    finally:
        torch.set_num_threads(threads)
