"""Where distillation pays: few masks and many images, by folds, with the ensemble of the teachers itself beside its student.

`python benchmarks/pays.py busi --folds 1 --jobs 2` trains what one fold needs and adds its cases to
docs/results/data/pays-busi.csv; called again it continues, and other folds are added by further calls, on any day. `--summary`
reads that file alone. The figure is student minus baseline in Dice over all folds that are there, the bar 0.03.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import log, machine, report
from segdistill.config.load import load_recipe
from segdistill.config.schema import Recipe
from segdistill.data.case import Case, select
from segdistill.data.opened import open_case
from segdistill.data.table import read_cases
from segdistill.experiment.results import fold_folder
from segdistill.experiment.run import run
from segdistill.experiment.stage import TrainedStage, load_stage
from segdistill.metrics.base import Pair
from segdistill.metrics.overlap import dice
from segdistill.records import StageRecord
from segdistill.stats.folds import CaseScore, TrainingKey, compare_rows
from segdistill.training.inference import scored_predictor

ROOT = Path(__file__).parents[1]
COLUMNS = ("fold", "seed", "network", "case", "group", "dice", "minutes")
ENSEMBLE = "ensemble"
Row = dict[str, str]


def main() -> None:
    """Runs folds, or sums up what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=["busi"])
    parser.add_argument("--folds", type=int, nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, help="other than those of the recipe, to try this out")
    parser.add_argument("--work", type=Path, help="folder of the runs; by default runs/pays-STUDY")
    parser.add_argument("--summary", action="store_true", help="only sum up the file of cases")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    work = args.work or ROOT / "runs" / f"pays-{args.study}"
    path = ROOT / "docs" / "results" / "data" / f"pays-{args.study}.csv"
    rows = _read(path)
    if not args.summary:
        changes = {"only_folds": args.folds, "seeds": args.seeds} | ({"fit.steps": args.steps} if args.steps else {})
        run(f"pays/{args.study}", set=changes, out=work, jobs=args.jobs)
        recipe = load_recipe(f"pays/{args.study}", changes)
        for fold in args.folds:
            found = list(_fold(recipe, fold_folder(work, fold), fold))
            replaced = {(row["fold"], row["seed"], row["network"]) for row in found}
            rows = [row for row in rows if (row["fold"], row["seed"], row["network"]) not in replaced] + found
            _write(path, rows)
    _summary(args, rows)


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(rows, key=lambda row: (row["network"], int(row["seed"]), int(row["fold"]), row["case"]))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(ordered)


def _fold(recipe: Recipe, folder: Path, fold: int) -> Iterator[Row]:
    """The rows of one fold: of every stage from its metrics.csv, and of the ensemble, which is predicted here."""
    for name, stage in recipe.stages.items():
        place = folder / "stages" / name
        record = StageRecord.read(place)
        assert record is not None
        minutes = f"{record.seconds / 60:.1f}"
        with (place / "metrics.csv").open(newline="", encoding="utf-8") as file:
            for found in csv.DictReader(file):
                yield _row(
                    fold,
                    stage.seed or 0,
                    recipe.variant(name),
                    found["case"],
                    found["group"],
                    found["dice"],
                    minutes,
                )
    cases = select(read_cases(folder / "cases.csv"), split="test", labels=recipe.data.labels)
    for name, stage in recipe.stages.items():
        if recipe.variant(name) != "student":
            continue
        log(f"fold {fold}: the ensemble of {name} predicts {len(cases)} cases")
        members = [load_stage(folder / "stages" / member) for member in stage.taught_by]
        for case in cases:
            yield _row(
                fold,
                stage.seed or 0,
                ENSEMBLE,
                case.id,
                case.group_key,
                str(_ensemble_dice(members, case)),
                "",
            )


def _row(fold: int, seed: int, network: str, case: str, group: str, value: str, minutes: str) -> Row:
    values = (str(fold), str(seed % 1000), network, case, group, f"{float(value):.5f}", minutes)
    return dict(zip(COLUMNS, values, strict=True))


def _ensemble_dice(members: list[TrainedStage], case: Case) -> float:
    """Dice of the mean probability of all members on the image and on its mirror image, at the image's own size."""
    opened = open_case(case)
    picture = opened.picture(0)
    mirrored = replace(picture, pixels=np.ascontiguousarray(picture.pixels[:, ::-1]))
    total = np.zeros(opened.size, np.float64)
    for member in members:
        predict = scored_predictor(member.network, member.preprocess, member.postprocess, torch.device("cpu"))
        total += predict(picture).score + predict(mirrored).score[:, ::-1]
    return dice(Pair(total / (2 * len(members)) > 0.5, opened.reference[0]))


def _summary(args: argparse.Namespace, rows: list[Row]) -> None:
    by_network: dict[str, dict[TrainingKey, list[CaseScore]]] = defaultdict(lambda: defaultdict(list))
    minutes: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for row in rows:
        key = TrainingKey(int(row["seed"]), int(row["fold"]))
        by_network[row["network"]][key].append(CaseScore(row["case"], row["group"], float(row["dice"])))
        if row["minutes"]:
            minutes[row["network"]][row["seed"], row["fold"]] = float(row["minutes"])
    details: dict[str, Any] = {"folds": sorted({int(row["fold"]) for row in rows})}
    for network, tests in by_network.items():
        values = [score.value for scores in tests.values() for score in scores]
        details[network] = {
            "dice": round(float(np.mean(values)), 4),
            "median": round(float(np.median(values)), 4),
            "trainings": len(tests),
            "minutes": round(float(np.mean(list(minutes[network].values()) or [0.0])), 1),
        }
    figure = None
    for first, second in (
        ("student", "baseline"),
        ("student", ENSEMBLE),
        ("student_without_masks", "baseline"),
        ("student", "baseline_all"),
        (ENSEMBLE, "baseline"),
    ):
        if first in by_network and second in by_network:
            found = compare_rows(
                by_network[first], by_network[second], variant=first, baseline=second, metric="dice"
            )
            one = found.difference
            details[f"{first} minus {second}"] = [one.mean, one.low, one.high, one.n]
            figure = one.mean if figure is None else figure
    figure = float("nan") if figure is None else figure
    report("pays", figure, 0.03, figure >= 0.03, details | {"machine": machine()}, args.json)


if __name__ == "__main__":
    main()
