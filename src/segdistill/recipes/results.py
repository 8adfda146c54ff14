"""What a run's folder says of its results: read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.csv"
SUMMARY_FILE = "evaluation.json"
RUN_FILE = "run.json"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON object's file; empty when it is absent, damaged or something else.

    >>> read_json(Path("nowhere.json"))
    {}
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def run_summary(run: Path) -> dict[str, Any]:
    """Dice of every stage in the run's last report, for a machine and in one line each.

    >>> run_summary(Path("nowhere"))["stages"]
    {}
    """
    stages: dict[str, Any] = {}
    evaluated_stages = sorted(path.parent.name for path in (run / "stages").glob(f"*/{SUMMARY_FILE}"))
    for name in read_json(run / RUN_FILE).get("stages", evaluated_stages):
        evaluated = read_json(run / "stages" / name / SUMMARY_FILE)
        summary, cost = evaluated.get("summary", {}), evaluated.get("cost", {})
        line = _line(summary.get("all", {}).get("dice", {}), cost)
        stages[name] = {"summary": summary, "cost": cost, "line": line}
    model = run / "model.onnx"
    return {
        "stages": stages,
        "model": str(model) if model.exists() else None,
        "report": str(run / "report.html"),
    }


def _line(dice: dict[str, Any], cost: dict[str, Any]) -> str:
    if dice.get("mean") is None:
        return "no test case with a lesion"
    interval = f" [{dice['low']:.3f}, {dice['high']:.3f}]" if dice.get("low") is not None else ""
    price = f"{cost['parameters'] / 1e6:.2f} M parameters  {cost['ms']:.1f} ms"
    return f"Dice {dice['mean']:.3f}{interval}  n={dice['n']}  {price}"
