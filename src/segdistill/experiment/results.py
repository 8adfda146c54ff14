"""What a run's folder holds of its results, read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from segdistill.records import Cost, DamagedRecord, EvaluationRecord, Interval, RunRecord

FOLDS_FILE = "folds.json"
EXTERNAL = "external"
"""Folder of a stage with its evaluations on tables from elsewhere, one folder each."""
_MOST_FOLDS = 1000
_AGAIN = "restore it, or delete it and run the recipe again"
NO_LESION = "no test case with a lesion"
NOTHING_TESTED = "nothing was tested: the case table has no test cases"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON object's file; empty when it is absent.

    Raises:
        InputError: it is damaged, or holds something else.

    >>> read_json(Path("nowhere.json"))
    {}
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"{path} is damaged ({error}): {_AGAIN}") from error
    if not isinstance(content, dict):
        raise DamagedRecord(f"{path} is damaged (it holds no JSON object): {_AGAIN}")
    return content


def read_recipe(run: Path) -> dict[str, Any]:
    """The resolved recipe of a run; empty when it is absent.

    Raises:
        InputError: it is damaged.

    >>> read_recipe(Path("nowhere"))
    {}
    """
    path = run / "recipe.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        json.dumps(
            content, sort_keys=True, default=str
        )  # texts and numbers as keys of one mapping have no order
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise DamagedRecord(f"{path} is damaged ({line}): {_AGAIN}") from error
    stages = content.get("stages", {}) if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        raise DamagedRecord(f"{path} is damaged (it holds no recipe): {_AGAIN}")
    return dict(content)


def read_folds(run: Path) -> dict[str, Any]:
    """The content of folds.json of a cross-validation; empty when it is absent.

    Raises:
        InputError: it is damaged.

    >>> read_folds(Path("nowhere"))
    {}
    """
    path = run / FOLDS_FILE
    content = read_json(path)
    finished, stages = content.get("finished", []), content.get("stages", {})
    verdicts = content.get("verdicts", [])
    numbers = [content.get("folds", 0), *(finished if isinstance(finished, list) else [None])]
    is_sound = (
        isinstance(content.get("recipe", ""), str)
        and all(type(number) is int and 0 <= number <= _MOST_FOLDS for number in numbers)
        and isinstance(verdicts, list)
        and all(isinstance(verdict, dict) for verdict in verdicts)
        and all(_are_stages(found) for found in (stages, *_stages_elsewhere(content)))
    )
    if not is_sound:
        raise DamagedRecord(f"{path} is damaged (a key is missing or of another type): {_AGAIN}")
    return content


def _are_stages(stages: object) -> bool:
    return isinstance(stages, dict) and all(
        isinstance(stage, dict) and _is_summary(stage.get("summary")) for stage in stages.values()
    )


def _stages_elsewhere(content: dict[str, Any]) -> list[object]:
    """The stages of each table from elsewhere; a None for what has another form."""
    tables = content.get(EXTERNAL, {})
    if not isinstance(tables, dict):
        return [None]
    return [table.get("stages") if isinstance(table, dict) else None for table in tables.values()]


def _is_summary(groups: object) -> bool:
    """Whether it has the form of `report.folds.over_folds`, as far as a line on the Dice needs it."""
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        return False
    dice = groups.get("all", {}).get("dice", {})
    if not isinstance(dice, dict) or not isinstance(dice.get("folds", []), list | dict):
        return False
    return all(isinstance(dice.get(name), int | float | None) for name in ("mean", "sd", "n"))


def fold_folder(folder: Path, fold: int) -> Path:
    """Where a fold of a cross-validation lies, counted from 1.

    >>> fold_folder(Path("runs"), 2).name
    'fold-2'
    """
    return folder / f"fold-{fold}"


def external_folder(stage: Path, table: str) -> Path:
    """Where the evaluation of a stage on a table from elsewhere lies.

    >>> external_folder(Path("stages") / "student", "clinic").parts[-2:]
    ('external', 'clinic')
    """
    return stage / EXTERNAL / table


def evaluations(run: Path) -> dict[str, EvaluationRecord]:
    """The evaluated stages of a run, in the order of its report, or by name before there is one.

    Raises:
        InputError: a record is damaged or newer than this version.

    >>> evaluations(Path("nowhere"))
    {}
    """
    record = RunRecord.read(run)
    there = sorted(path.parent.name for path in (run / "stages").glob(f"*/{EvaluationRecord.FILE}"))
    names = record.stages if record is not None and record.stages else there
    found = {name: EvaluationRecord.read(run / "stages" / name) for name in names}
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}


def run_summary(run: Path) -> dict[str, Any]:
    """The results of every stage in the run's last report, for a machine and in one line each.

    >>> run_summary(Path("nowhere"))["stages"]
    {}
    """
    if (run / FOLDS_FILE).exists() and RunRecord.read(run) is None:
        return _fold_summary(run)
    stages = {
        name: {**found.to_dict(), "line": _line(found), EXTERNAL: _elsewhere(run, name)}
        for name, found in evaluations(run).items()
    }
    model = run / "model.onnx"
    return {
        "stages": stages,
        "model": str(model) if model.exists() else None,
        "report": str(run / "report.html"),
    }


def _elsewhere(run: Path, stage: str) -> dict[str, Any]:
    """Name of each table from elsewhere -> what was measured of a stage on it, with a line."""
    record = RunRecord.read(run)
    places = {
        name: external_folder(run / "stages" / stage, name) for name in (record.external if record else ())
    }
    found = {name: EvaluationRecord.read(place) for name, place in places.items()}
    return {name: {**one.to_dict(), "line": _line(one)} for name, one in found.items() if one is not None}


def _fold_summary(run: Path) -> dict[str, Any]:
    """The same of a cross-validation: mean and standard deviation over its folds."""
    facts = read_folds(run)
    count = facts.get("folds", 0)
    elsewhere = [stage for table in facts.get(EXTERNAL, {}).values() for stage in table["stages"].values()]
    for stage in (*facts.get("stages", {}).values(), *elsewhere):
        dice = stage["summary"].get("all", {}).get("dice", {})
        done = len(dice.get("folds", []))
        words = f"over {done} folds" if done == count else f"over {done} of {count} folds"
        spread = f" ± {dice['sd']:.3f}" if dice.get("sd") is not None else ""
        known = dice.get("mean") is not None
        stage["line"] = f"Dice {dice['mean']:.3f}{spread} {words}  n={dice['n']}" if known else NO_LESION
    return {"stages": {}, **facts, "model": None, "report": str(run / "report.html")}


def _line(found: EvaluationRecord) -> str:
    dice = _dice_line(found.summary.all.get("dice"), found.cost)
    if not (found.cases or found.skipped or found.classification):
        return NOTHING_TESTED
    if found.classification is None:
        return dice
    scores = {"accuracy": "accuracy", "auc": "AUC"}
    means = {words: found.classification.scores[name].mean for name, words in scores.items()}
    shown = [f"{words} {mean:.3f}" for words, mean in means.items() if mean is not None]
    return "  ".join([*(shown or ["no test case of a class"]), *([dice] if dice != NO_LESION else [])])


def _dice_line(dice: Interval | None, cost: Cost) -> str:
    if dice is None or dice.mean is None:
        return NO_LESION
    interval = f" [{dice.low:.3f}, {dice.high:.3f}]" if dice.low is not None else ""
    price = f"  {(cost.parameters or 0) / 1e6:.2f} M parameters  {cost.ms or 0:.1f} ms"
    return f"Dice {dice.mean:.3f}{interval}  n={dice.n}{price if cost != Cost() else ''}"


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
    record, reported = RunRecord.read(folder), evaluations(folder)
    failed = record.failed if record is not None else {}
    width = max(8, *map(len, variants))
    lines = [f"{'variant':{width}}  Dice  over seeds  seeds"]
    for variant, names in variants.items():
        means = [found.score("dice") for name, found in reported.items() if name in names]
        known = [dice.mean for dice in means if dice is not None and dice.mean is not None]
        mean = f"{fmean(known):.3f}" if known else "-"
        spread = f"±{stdev(known):.3f}" if len(known) > 1 else "-"
        lost = [name for name in names if name in failed]
        words = f"{len(means)} of {len(names)} seeds"
        words += f" ({', '.join(f'{dice:.3f}' for dice in known)})" if known else ""
        words += f", failed: {', '.join(lost)}" if lost else ""
        lines.append(f"{variant:{width}} {mean:>5}  {spread:>10}  {words}")
    return lines
