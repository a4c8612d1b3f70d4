"""A report made by hand."""

from __future__ import annotations

from qat.environment import environment
from qat.evaluation.benchmark import Latency
from qat.evaluation.gates import Gate
from qat.quantization.analysis.coverage import Coverage, FloatOp
from qat.report.report import (
    ArtifactSize,
    Disagreement,
    Drop,
    EngineResult,
    LayerRow,
    MetricInfo,
    Report,
    Simulation,
)


def make_report() -> Report:
    """Two engines, one failed gate, one float op."""
    fp32 = Latency(p50=8.0, p95=9.0)
    return Report(
        task="classification",
        recipe="test",
        model="tiny",
        data="digits (abc)",
        n_eval=360,
        seed=3,
        target="x86",
        metric=MetricInfo(name="top1"),
        stages={"fp32": 98.61111, "ptq": 97.5, "fake_quant": 98.33333, "int8": 98.05556},
        metrics={stage: {"top1": 98.0, "top5": 99.5} for stage in ("fp32", "ptq", "fake_quant", "int8")},
        drop=Drop(value=0.55555, ci95=(-0.1, 1.2)),
        drops={
            "top1": Drop(value=0.55555, ci95=(-0.1, 1.2)),
            "top5": Drop(value=0.125, ci95=(-0.5, 0.5)),
        },
        agreement=0.98,
        intervals=dict.fromkeys(("fp32", "ptq", "fake_quant", "int8"), (96.5, 99.5)),
        disagreements=(Disagreement(sample="image <7>", truth="8", fp32="3", int8="8"),),
        layers=(
            LayerRow(layer="conv1", tensor="relu", low=0.0, high=2.5, max_steps=1, differing=0.001, sqnr_db=41.5),
            LayerRow(layer="fc", tensor="linear", low=-8.0, high=7.9, max_steps=0, differing=0.0, sqnr_db=None),
        ),
        simulation=Simulation(delta=0.27777, agreement=0.9971),
        engines={
            "fbgemm": EngineResult(
                int8=98.05556,
                agreement=1.0,
                agreement_samples=100,
                latency_ms=Latency(p50=2.0, p95=2.5),
                fp32_latency_ms=fp32,
                speedup=4.0,
            ),
            "x86": EngineResult(
                int8=98.0,
                agreement=0.99,
                agreement_samples=100,
                latency_ms=Latency(p50=4.0, p95=4.5),
                fp32_latency_ms=fp32,
                speedup=2.0,
            ),
        },
        coverage=Coverage(
            macs=1000,
            macs_int8=0.98,
            integer_ops={"int8.conv2d": 3},
            float_ops=(FloatOp(op="aten.gelu", node="gelu", layer="act", reason="no kernel", macs=0),),
        ),
        training={"fp32_step_ms": 31.0, "qat_step_ms": 33.5, "step_ratio": 33.5 / 31.0, "prepare_s": 1.1, "convert_s": 0.4},
        artifact=ArtifactSize(path="artifact", bytes=250_000, fp32_bytes=1_000_000, ratio=0.25),
        gates=(
            Gate(name="kernel/fbgemm", passed=True, detail="21 tensors compared"),
            Gate(name="accuracy", passed=False, detail="drop +0.556 points, budget 0.5"),
        ),
        environment=environment(),
    )
