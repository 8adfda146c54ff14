"""Where distillation pays: few masks and many images, with the ensemble of the teachers beside its student.

`python benchmarks/pays.py busi --folds 1 --jobs 2` trains what one fold needs and adds its cases to
docs/results/data/pays-busi.csv; called again it continues, and other folds are added by further calls, on any day. In
the study `promise12-sites` a fold is a hospital whose cases no network has seen: they are tested beside those of the
others. `--summary` reads that file alone. The figure is the first difference in Dice over all folds that are there, for
most studies student minus baseline, the bar 0.03.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import log, machine, report
from segdistill.config.effort import DataFacts
from segdistill.config.ladder import DISTILLED, LONGEST, ladder_recipe, parse_rungs
from segdistill.config.load import load_recipe, parse_data
from segdistill.config.schema import Recipe
from segdistill.data.case import Case, select
from segdistill.data.datasets import create_dataset
from segdistill.data.levels import with_intensity
from segdistill.data.opened import open_case
from segdistill.data.store import prepare_store
from segdistill.data.table import read_cases, write_cases
from segdistill.experiment.cases import load_cases
from segdistill.experiment.inputs import StageInputs
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.experiment.results import external_folder, fold_folder
from segdistill.experiment.run import run
from segdistill.experiment.shrink import DEVELOPMENT, write_tables
from segdistill.experiment.stage import TrainedStage, load_stage
from segdistill.experiment.teachers import case_dice, predict_teacher, standings
from segdistill.metrics.base import Pair
from segdistill.metrics.cases import METRICS_FILE
from segdistill.metrics.overlap import dice
from segdistill.records import StageRecord
from segdistill.stats.folds import CaseScore, TrainingKey, compare_rows
from segdistill.stats.ladder import claimed_rung
from segdistill.stats.verdict import MARGIN
from segdistill.training.inference import scored_predictor

ROOT = Path(__file__).parents[1]
COLUMNS = ("fold", "seed", "network", "tested_on", "case", "group", "dice", "minutes")
ENSEMBLE, HOME = "ensemble", "home"
Row = dict[str, str]
FEW_MASKS = "pays/few_masks"
HALF = {
    "fit.steps": 1200,
    "stages.larger_1.fit.steps": 400,
    "stages.larger_2.fit.steps": 400,
    "stages.imagenet_1.fit.steps": 300,
    "stages.imagenet_2.fit.steps": 300,
}
"""Half the steps, for studies of one seed."""
PROMISE12 = {
    "data.dataset": "promise12",
    "data.labels": None,
    "data.intensity": "mr",
    "data.skip_empty": True,
}
STUDIES: dict[str, dict[str, Any]] = {
    "busi": {},
    "busi-10": HALF | {"data.locations": 0.1},
    "coronary": HALF | {"data.dataset": "coronary", "data.labels": None, "data.locations": 0.3},
    "promise12": HALF | PROMISE12 | {"data.locations": 0.28},
    "promise12-sites": PROMISE12 | {"data.locations": 0.2, "folds": None},
}
"""What each study changes in the recipe pays/few_masks. The shares leave masks to 8 images of coronary's training part
and to 6 volumes of PROMISE12's."""
RECIPES = {
    "folds-into-one": "pays/folds_into_one",
    "targets": "pays/targets",
    "busi-256": "pays/busi_256",
    "ladder": "shrink",
    "hippocampus": "pays/few_masks_volumes",
}
"""Studies with a recipe of their own; the others are changes of pays/few_masks."""
PAIRS = (
    ("student", "baseline"),
    ("student", ENSEMBLE),
    ("student_without_masks", "baseline"),
    ("student", "baseline_all"),
    ("student", "larger_1"),
    ("student_without_masks", "baseline_all"),
    ("student", "single"),
    ("single", "baseline"),
    (ENSEMBLE, "baseline"),
    ("case_one", "baseline"),
    ("view_one", "case_one"),
    ("case_three", "case_one"),
    ("view_three", "case_three"),
)
"""Which networks are compared, where both were trained; the first pair of a study is its figure."""
SITES = ("BIDMC", "RUNMC", "UCL")
RUNGS = ("simplified_unet", "lite_unet/large", "lite_unet/small", "lite_unet/tiny")
"""Of the ladder, from large to small; the first without a teacher is the reference."""


def main() -> None:
    """Runs folds, or sums up what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=[*STUDIES, *RECIPES])
    parser.add_argument("--folds", type=int, nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", help="by default those of the recipe")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="of all stages, to try this out: 1")
    parser.add_argument("--work", type=Path, help="folder of the runs; by default runs/pays-STUDY")
    parser.add_argument("--summary", action="store_true", help="only sum up the file of cases")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    work = args.work or ROOT / "runs" / f"pays-{args.study}"
    path = ROOT / "docs" / "results" / "data" / f"pays-{args.study}.csv"
    rows = _read(path)
    for fold in [] if args.summary else args.folds:
        folder, recipe = _run(args, fold, work)
        found = list(_fold(recipe, folder, fold))
        replaced = {(row["fold"], row["seed"], row["network"]) for row in found}
        rows = [row for row in rows if (row["fold"], row["seed"], row["network"]) not in replaced] + found
        _write(path, rows)
    _summary(args, rows)


def _run(args: argparse.Namespace, fold: int, work: Path) -> tuple[Path, Recipe]:
    """Trains and evaluates a fold (of a study without folds the only one); returns its folder and its recipe."""
    name, changes = RECIPES.get(args.study, FEW_MASKS), dict(STUDIES.get(args.study, {}))
    if args.seeds:
        changes["seeds"] = args.seeds
    if args.epochs:
        changes["epochs"] = args.epochs
    if args.study == "promise12-sites":
        changes |= _without_site(SITES[fold - 1], work)
    recipe = _ladder(changes, work) if args.study == "ladder" else load_recipe(name, changes)
    if recipe.folds is None:
        folder = out = fold_folder(work, fold)
    else:
        folder, out = fold_folder(work, fold), work
        recipe = recipe.model_copy(update={"only_folds": [fold]})
    data = Path(os.environ["SEGDISTILL_DATA"]) / "hippocampus" if args.study == "hippocampus" else None
    run(recipe, data=data, out=out, jobs=args.jobs)
    return folder, recipe


def _ladder(changes: dict[str, Any], work: Path) -> Recipe:
    """What `segdistill shrink --set data.dataset=busi` trains in a fold, without the cases of its last test."""
    data = {"size": 128, "channels": 1, "labels": ["benign", "malignant"]}
    loaded = load_cases(parse_data(data | {"dataset": "busi"}, "ladder"), None, work)
    work.mkdir(parents=True, exist_ok=True)
    write_tables(work, loaded)
    models = parse_rungs(RUNGS)
    first, *smaller = models
    content = ladder_recipe(
        models,
        "normal",
        DataFacts(imagenet=True),
        reference=first,
        margin=MARGIN,
        longer=dict.fromkeys(smaller, LONGEST),  # all are more than four times as fast
    )
    return load_recipe(content | {"data": data | {"table": str(work / DEVELOPMENT)}}, changes)


def _without_site(site: str, work: Path) -> dict[str, Any]:
    """Changes of the recipe: the other sites are trained and tested at home, this one is tested from elsewhere."""
    cases = create_dataset("promise12", Path(os.environ["SEGDISTILL_DATA"]) / "promise12")
    work.mkdir(parents=True, exist_ok=True)
    table = work / f"{site}.csv"
    write_cases([case for case in cases if case.site == site], table)
    return {
        "data.sites": [other for other in SITES if other != site],
        "data.split": {"method": "hold_out", "test": 0.25, "val": 0.15},
        "external": {site: str(table)},
    }


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
    """The rows of one fold: of every stage from its tables, and of the ensemble, which is predicted here."""
    for name, stage in recipe.stages.items():
        place = folder / "stages" / name
        record = StageRecord.read(place)
        assert record is not None
        minutes = f"{record.seconds / 60:.1f}"
        tables = {HOME: place} | {table: external_folder(place, table) for table in recipe.external}
        for tested_on, folder_of in tables.items():
            with (folder_of / METRICS_FILE).open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if row["label"] in (recipe.data.labels or [row["label"]]):
                        found = (row["case"], row["group"], row["dice"])
                        yield _row((fold, stage.seed or 0), recipe.variant(name), tested_on, found, minutes)
    home = select(read_cases(folder / "cases.csv"), split="test", labels=recipe.data.labels)
    tested = {HOME: home} | {name: read_cases(table) for name, table in recipe.external.items()}
    for name, stage in recipe.stages.items():
        if recipe.variant(name) != "student":  # of a ladder all have the same teachers
            continue
        for tested_on, cases in tested.items():
            log(f"fold {fold}: the ensemble of {name} predicts {len(cases)} cases of {tested_on}")
            found = _of_ensemble(folder, name, cases)
            for case, dice_of_case in zip(cases, found, strict=True):
                value = (case.id, case.group_key, str(dice_of_case))
                yield _row((fold, stage.seed or 0), ENSEMBLE, tested_on, value, "")


def _row(
    training: tuple[int, int], network: str, tested_on: str, found: tuple[str, str, str], minutes: str
) -> Row:
    case, group, value = found
    fold, seed = training
    values = (str(fold), str(seed % 1000), network, tested_on, case, group, f"{float(value):.5f}", minutes)
    return dict(zip(COLUMNS, values, strict=True))


def _of_ensemble(folder: Path, name: str, tested: list[Case]) -> list[float]:
    """Dice of a student's teachers together, whose members count as in its training: of pictures and slices at their
    own size, of volumes on the grid of the networks. Networks that were trained without a fold each count alike, and
    see no mirror image.
    """
    recipe = load_recipe(folder / "recipe.yaml")  # with what the data have decided
    stage = recipe.stages[name]
    members = [load_stage(folder / "stages" / member) for member in stage.taught_by]
    teacher, *further = stage.teachers.values()
    if further:
        return [_ensemble_dice(members, [1 / len(members)] * len(members), case, False) for case in tested]
    cases = read_cases(folder / "cases.csv")
    preprocess = with_intensity(recipe.data.preprocess(), cases)
    store = prepare_store(cases, preprocess, folder.parent / ".store", keep_small=recipe.data.keep_small)
    inputs = StageInputs(recipe, name, cases, store, preprocess, folder / "stages" / name)
    fabric = make_fabric(Machine("cpu"), "fp32", stage.model.name)
    fabric.launch()
    if store.holds_volumes:
        return case_dice(inputs, tested, predict_teacher(inputs, teacher, tested, fabric))
    found = standings(inputs, teacher, fabric)
    shares = [one.share for one in found] or [1 / len(teacher.members)] * len(teacher.members)
    return [_ensemble_dice(members, shares, case, True) for case in tested]


def _ensemble_dice(members: list[TrainedStage], shares: list[float], case: Case, flips: bool) -> float:
    """Dice of the mean probability of all members on each image, and on its mirror image, at the image's own size."""
    opened = open_case(case, members[0].preprocess.intensity)
    predictors = [
        scored_predictor(member.network, member.preprocess, member.postprocess, torch.device("cpu"))
        for member in members
    ]
    mask = np.zeros(opened.reference.shape, bool)
    for k in range(len(opened)):
        picture = opened.picture(k)
        views = [picture]
        if flips:
            views.append(replace(picture, pixels=np.ascontiguousarray(picture.pixels[:, ::-1])))
        total = np.zeros(opened.size, np.float64)
        for predict, share in zip(predictors, shares, strict=True):
            scores = [predict(view).score for view in views]
            total += share * np.mean([scores[0], *(score[:, ::-1] for score in scores[1:])], axis=0)
        mask[k] = total > 0.5
    return dice(Pair(mask, opened.reference))


def _summary(args: argparse.Namespace, rows: list[Row]) -> None:
    """Means and differences at home, and on what is tested from elsewhere, all tables together."""
    if args.study == "ladder":
        _decide(args, rows)
        return
    details: dict[str, Any] = {"folds": sorted({int(row["fold"]) for row in rows})}
    home = [row for row in rows if row["tested_on"] == HOME]
    elsewhere = [row for row in rows if row["tested_on"] != HOME]
    details[HOME], figure = _compared(_once_each(home))
    if elsewhere:
        details["elsewhere"], _ = _compared(elsewhere)
    report("pays", figure, 0.03, figure >= 0.03, details | {"machine": machine()}, args.json)


def _decide(args: argparse.Namespace, rows: list[Row]) -> None:
    """The networks of the ladder against the first without a teacher, as `shrink` decides; the figure is that of
    the one that it would choose, the bar the margin.
    """
    details, _ = _compared(rows)
    tests, _ = _by_network(rows)
    first, *smaller = parse_rungs(RUNGS)
    outcomes = []
    for name in (first, *smaller):
        taught = f"{name}{DISTILLED}"
        further = [] if name == first else [(name, first), (taught, name)]
        for network, other in [(taught, first), *further]:
            facts = {"variant": network, "baseline": other, "metric": "dice", "margin": MARGIN}
            found = compare_rows(tests[network], tests[other], **facts)
            one = found.difference
            details[f"{network} minus {other}"] = [one.mean, one.low, one.high, one.n, found.non_inferiority]
            if network == taught and other == first:
                outcomes.append((found.non_inferiority, one.mean))
    chosen = claimed_rung([outcome for outcome, _ in outcomes])
    figure = outcomes[chosen][1] if chosen is not None else float("nan")
    details["chosen"] = None if chosen is None else [first, *smaller][chosen]
    report("pays", figure, -MARGIN, chosen is not None, details | {"machine": machine()}, args.json)


def _once_each(rows: list[Row]) -> list[Row]:
    """The rows of folds that share test cases, as the hospitals at home do: a case counts once, with its mean Dice."""
    found: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["network"], row["seed"], row["case"]].append(row)
    return [
        own[0] | {"dice": str(float(np.mean([float(row["dice"]) for row in own])))} for own in found.values()
    ]


def _by_network(
    rows: list[Row],
) -> tuple[dict[str, dict[TrainingKey, list[CaseScore]]], dict[str, dict[tuple[str, str], float]]]:
    """Scores of every network by training, and its minutes."""
    by_network: dict[str, dict[TrainingKey, list[CaseScore]]] = defaultdict(lambda: defaultdict(list))
    minutes: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for row in rows:
        key = TrainingKey(int(row["seed"]), int(row["fold"]))
        by_network[row["network"]][key].append(CaseScore(row["case"], row["group"], float(row["dice"])))
        if row["minutes"]:
            minutes[row["network"]][row["seed"], row["fold"]] = float(row["minutes"])
    return by_network, minutes


def _compared(rows: list[Row]) -> tuple[dict[str, Any], float]:
    by_network, minutes = _by_network(rows)
    details: dict[str, Any] = {}
    for network, tests in by_network.items():
        values = [score.value for scores in tests.values() for score in scores]
        details[network] = {
            "dice": round(float(np.mean(values)), 4),
            "median": round(float(np.median(values)), 4),
            "trainings": len(tests),
            "minutes": round(float(np.mean(list(minutes[network].values()) or [0.0])), 1),
        }
    figure = float("nan")
    for first, second in PAIRS:
        if first in by_network and second in by_network:
            found = compare_rows(
                by_network[first], by_network[second], variant=first, baseline=second, metric="dice"
            )
            one = found.difference
            details[f"{first} minus {second}"] = [one.mean, one.low, one.high, one.n]
            figure = one.mean if np.isnan(figure) else figure
    return details, figure


if __name__ == "__main__":
    main()
