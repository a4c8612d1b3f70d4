"""Write the results table of README.md from the reports in docs/results/.

python scripts/readme_table.py            after copying a run's report.json to docs/results/<recipe>.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: written by scripts/readme_table.py -->", "<!-- end of results -->"


def table(reports: list[Mapping[str, Any]]) -> str:
    """One row per recipe, numbers as the runs wrote them."""
    lines = [
        "| recipe | metric | n | FP32 | PTQ | QAT | INT8 | drop [95 % interval] | speed-up | size | engine |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        stages, (low, high) = report["stages"], report["drop"]["ci95"]
        engine, best = max(report["engines"].items(), key=lambda item: item[1]["speedup"])
        cells = [
            f"`{report['recipe']}` (seed {report['seed']})",
            report["metric"]["name"],
            report["n_eval"],
            *(f"{stages[name]:.2f}" for name in ("fp32", "ptq", "fake_quant", "int8")),
            f"{report['drop']['value']:+.2f} [{low:+.2f}, {high:+.2f}]",
            f"{best['speedup']:.1f}×",
            f"{report['artifact']['ratio']:.2f}×",
            engine,
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    env = reports[0]["environment"]
    lines += ["", f"Metrics in points. {env['cpu']}, {env['isa']}, {env['threads']} threads, torch {env['torch']}, batch 1."]
    return "\n".join(lines)


def rewritten(readme: str, reports: list[Mapping[str, Any]]) -> str:
    """README with the part between the two markers replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(reports)}\n{END}{rest.split(END)[1]}"


def reports() -> list[Mapping[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "results").glob("*.json"))]
    if not found:
        raise SystemExit("docs/results holds no report")
    return found


def main() -> None:
    path = ROOT / "README.md"
    path.write_text(rewritten(path.read_text(), reports()))


if __name__ == "__main__":
    main()
