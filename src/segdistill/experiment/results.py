"""What a run's folder says of its results: read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

METRICS_FILE = "metrics.csv"
SUMMARY_FILE = "evaluation.json"
RUN_FILE = "run.json"
FOLDS_FILE = "folds.json"


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


def read_recipe(run: Path) -> dict[str, Any]:
    """The resolved recipe of a run; empty when it is absent or damaged.

    >>> read_recipe(Path("nowhere"))
    {}
    """
    try:
        content = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def fold_folder(folder: Path, fold: int) -> Path:
    """Where a fold of a cross-validation lies, counted from 1.

    >>> fold_folder(Path("runs"), 2).name
    'fold-2'
    """
    return folder / f"fold-{fold}"


def run_summary(run: Path) -> dict[str, Any]:
    """Dice of every stage in the run's last report, for a machine and in one line each.

    >>> run_summary(Path("nowhere"))["stages"]
    {}
    """
    if (run / FOLDS_FILE).exists() and not (run / RUN_FILE).exists():
        return _fold_summary(run)
    stages: dict[str, Any] = {}
    evaluated_stages = sorted(path.parent.name for path in (run / "stages").glob(f"*/{SUMMARY_FILE}"))
    for name in read_json(run / RUN_FILE).get("stages", evaluated_stages):
        evaluated = read_json(run / "stages" / name / SUMMARY_FILE)
        summary, cost = evaluated.get("summary", {}), evaluated.get("cost", {})
        line = _line(summary.get("all", {}).get("dice", {}), cost)
        stages[name] = {"summary": summary, "cost": cost, "line": line}
        if "pooled" in evaluated:
            stages[name]["pooled"] = evaluated["pooled"]
        if "classification" in evaluated:
            found = stages[name]["classification"] = evaluated["classification"]
            stages[name]["line"] = f"{_class_line(found)}  {line}".replace("  no test case with a lesion", "")
    model = run / "model.onnx"
    return {
        "stages": stages,
        "model": str(model) if model.exists() else None,
        "report": str(run / "report.html"),
    }


def _fold_summary(run: Path) -> dict[str, Any]:
    """The same of a cross-validation: mean and standard deviation over its folds."""
    facts = read_json(run / FOLDS_FILE)
    count = facts.get("folds", 0)
    for stage in facts.get("stages", {}).values():
        dice = stage["summary"].get("all", {}).get("dice", {})
        done = len(dice.get("folds", []))
        words = f"over {done} folds" if done == count else f"over {done} of {count} folds"
        spread = f" ± {dice['sd']:.3f}" if dice.get("sd") is not None else ""
        known = dice.get("mean") is not None
        line = f"Dice {dice['mean']:.3f}{spread} {words}  n={dice['n']}" if known else ""
        stage["line"] = line or "no test case with a lesion"
    return {"stages": {}, **facts, "model": None, "report": str(run / "report.html")}


def _class_line(found: dict[str, Any]) -> str:
    words = [f"accuracy {found['accuracy']['mean']:.3f}"] if found["accuracy"]["mean"] is not None else []
    words += [f"AUC {found['auc']['mean']:.3f}"] if found["auc"]["mean"] is not None else []
    return "  ".join(words) or "no test case of a class"


def _line(dice: dict[str, Any], cost: dict[str, Any]) -> str:
    if dice.get("mean") is None:
        return "no test case with a lesion"
    interval = f" [{dice['low']:.3f}, {dice['high']:.3f}]" if dice.get("low") is not None else ""
    price = f"{cost['parameters'] / 1e6:.2f} M parameters  {cost['ms']:.1f} ms"
    return f"Dice {dice['mean']:.3f}{interval}  n={dice['n']}  {price}"


def variants_table(folder: Path, variants: Mapping[str, Sequence[str]]) -> list[str]:
    """One line per variant: its mean Dice with the spread over seeds, each seed's, and how many there are.

    Args:
        folder: of the run.
        variants: the stages of each variant, one per seed.

    >>> for line in variants_table(Path("nowhere"), {"kd": ["kd@0", "kd@1"]}):
    ...     print(line)
    variant   Dice  over seeds  seeds
    kd           -           -  0 of 2 seeds
    """
    facts = read_json(folder / RUN_FILE)
    failed, reported = facts.get("failed", {}), facts.get("stages", [])
    width = max(8, *map(len, variants))
    lines = [f"{'variant':{width}}  Dice  over seeds  seeds"]
    for variant, names in variants.items():
        found = {name: _dice(folder / "stages" / name) for name in names if name in reported}
        known = [dice for dice in found.values() if dice is not None]
        mean = f"{fmean(known):.3f}" if known else "-"
        spread = f"±{stdev(known):.3f}" if len(known) > 1 else "-"
        lost = [name for name in names if name in failed]
        words = f"{len(found)} of {len(names)} seeds"
        words += f" ({', '.join(f'{dice:.3f}' for dice in known)})" if known else ""
        words += f", failed: {', '.join(lost)}" if lost else ""
        lines.append(f"{variant:{width}} {mean:>5}  {spread:>10}  {words}")
    return lines


def _dice(stage: Path) -> float | None:
    mean = read_json(stage / SUMMARY_FILE).get("summary", {}).get("all", {}).get("dice", {}).get("mean")
    return float(mean) if isinstance(mean, int | float) else None
