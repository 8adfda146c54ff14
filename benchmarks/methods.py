"""Every method of distillation, as published and at an equal share of the gradient: signal, share, gain and cost.

`python benchmarks/methods.py busi` trains the baseline, the teacher and one student for each method and kind of
weights, and adds its cases and terms to docs/results/data/methods-*.csv; called again it continues, `--methods` takes
some of them. `python benchmarks/methods.py cost` times a step of each. `--summary` writes the tables of
docs/results/methods.md from these files and nothing else. The figure is the largest gain of a method over its baseline
in Dice, the bar 0.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from common import alternate, log, machine, report
from segdistill.config.load import load_recipe
from segdistill.config.schema import Recipe
from segdistill.data.case import select
from segdistill.data.store import prepare_store
from segdistill.data.table import read_cases
from segdistill.data.views import Views, batches
from segdistill.distillation import DistillationMethod, Teacher, create_method
from segdistill.distillation.base import Targets, term_targets, weighted_terms
from segdistill.distillation.layers import pick
from segdistill.distillation.methods.lightvessel import feature_autoencoder
from segdistill.experiment.build import load_autoencoders, make_methods
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.experiment.run import run
from segdistill.experiment.stage import TrainedStage, build_network, load_stage
from segdistill.imaging.preprocess import Preprocess
from segdistill.losses import create_loss
from segdistill.metrics.cases import METRICS_FILE
from segdistill.models.network import Output
from segdistill.models.registry import create_network
from segdistill.records import StageRecord
from segdistill.stats.bootstrap import paired_difference
from segdistill.training.curves import read_curves
from segdistill.training.distillation import Distillation, Methods
from segdistill.training.loop import Training
from segdistill.training.settings import FitSettings
from segdistill.training.task import Batch, Supervised

ROOT = Path(__file__).parents[1]
DATA, PAGE = ROOT / "docs" / "results" / "data", ROOT / "docs" / "results" / "methods.md"
TABLES = "<!-- tables: from here on written by benchmarks/methods.py --summary -->"
STUDENT: dict[str, Any] = {"name": "lite_unet", "preset": "medium"}
TEACHER: dict[str, Any] = {"name": "unet_efficientnet_lite", "pretrained": "imagenet"}
CODES: dict[str, Any] = {"student": "student_codes", "teacher": "teacher_codes"}
METHODS: dict[str, dict[str, Any]] = {
    "soft_prediction": {"soft_prediction": {"temperature": 4.0}},
    "soft_mask": {"soft_mask": {}},
    "attention_transfer": {"attention_transfer": {"exponent": 2}},
    "fitnet": {"fitnet": {}},
    "skd": {"skd": {}},
    "ifvd": {"ifvd": {}},
    "cwd": {"cwd": {"features": 50.0}},
    "dist": {"dist": {}},
    "bpkd": {"bpkd": {}},
    "mgd": {"mgd": {}},
    "emkd": {"emkd": {}},
    "af_dcd": {"soft_prediction": {}, "af_dcd": {}},
    "cirkd": {"cirkd": {}},
    "cirkd_v2": {"cirkd": {"batch_channel": 1.0, "memory_channel": 0.1}},
    "protokd": {"protokd": {}},
    "amtml": {"amtml": {}},
    "lightvessel": {"feature_similarity": {"autoencoders": CODES}, "adversarial_similarity": {}},
    "calibrated": {
        "soft_prediction": {"temperature": 4.0, "balance": "class"},
        "channel_wise": {"layers": ["decoder"], "balance": "class"},
    },
}
"""Name -> methods of the student, with their defaults. `calibrated` is soft predictions and channel-wise features, both
balanced; it has no published weights."""
KINDS = {"published": "", "equal": "-equal"}
"""Weights as published, or set so that each term has half of the supervised gradient; and the ending of the stage."""
STUDIES: dict[str, dict[str, Any]] = {
    "coronary": {
        "dataset": "coronary",
        "patches": {"count": 3, "size": 128},
        "split": {"method": "hold_out", "test": 0.5, "val": 0.0},
    },
    "busi": {
        "dataset": "busi",
        "size": 128,
        "labels": ["benign", "malignant"],
        "locations": 0.2,
        "split": {"method": "hold_out", "test": 0.2, "val": 0.0},
    },
}
COLUMNS = {
    "cases": ("method", "weights", "seed", "case", "group", "dice", "minutes"),
    "terms": (
        "method",
        "weights",
        "seed",
        "term",
        *(f"{what}_{end}" for end in ("first", "last") for what in ("weight", "ratio", "cosine")),
        "between_images",
        "from_untrained",
    ),
    "cost": ("method", "milliseconds", "times_baseline"),
}
IMAGES = 16  # of which targets are compared
Row = dict[str, str]


def main() -> None:
    """Trains and measures what is missing, or sums up what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", choices=[*STUDIES, "cost"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--weights", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=400, help="of a student; the teacher takes as many")
    parser.add_argument("--minutes", type=float, default=120, help="no training begins after so many")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each method, for cost")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "methods", help="folder of the runs")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the CSV files")
    parser.add_argument("--page", type=Path, default=PAGE, help="where --summary writes its tables")
    parser.add_argument("--summary", action="store_true", help="only write the tables from the CSV files")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.summary and args.study is None:
        parser.error("name a study, or give --summary")
    torch.set_num_threads(1)
    if args.summary:
        _write_page(args.page, args.data)
    elif args.study == "cost":
        _add(args.data / "methods-cost.csv", "cost", [_cost(name, args.rounds) for name in args.methods])
    else:
        until = time.monotonic() + 60 * args.minutes
        for seed in args.seeds:
            _study(args, seed, until)
    gains = [gain for _, _, _, gain in _gains(args.data)]
    figure = max(gains, default=float("nan"))
    report("methods", figure, 0.0, figure > 0, {"machine": machine()}, args.json)


def _recipe(study: str, seed: int, steps: int) -> Recipe:
    """All stages: the runs of some of them share the teacher and the baseline."""
    student = {"model": STUDENT, "loss": {"name": "cross_entropy_dice"}}
    codes = {
        "task": "autoencoder",
        "model": {"name": "feature_autoencoder"},
        "fit": {"optimizer": {"weight_decay": 0.0}, "schedule": {"name": "constant"}},
    }
    stages: dict[str, Any] = {
        "teacher": {**student, "model": TEACHER, "role": "teacher"},
        "baseline": {**student, "role": "baseline"},
        "teacher_codes": {**codes, "teachers": {"teacher": {}}},
        "student_codes": {**codes, "teachers": {"baseline": {}}},
    }
    for name, kind in _students():
        methods = METHODS[name]
        if kind == "equal":
            methods = {method: {**options, "scale": "gradient"} for method, options in methods.items()}
        stages[name + KINDS[kind]] = {
            **student,
            "task": "distillation",
            "teachers": {"teacher": {}},
            "methods": methods,
        }
    return load_recipe(
        {
            "name": f"methods-{study}",
            "seed": seed,
            "data": {"channels": 3, "keep_small": False} | STUDIES[study],
            "fit": {
                "steps": steps,
                "batch_size": 8,
                "optimizer": {"name": "adamw", "lr": 0.002, "weight_decay": 0.01},
                "schedule": {"name": "one_cycle"},
                "augment": "vessel" if study == "coronary" else "light",
                "select": "last",
            },
            "stages": stages,
            "export": None,
        }
    )


def _students() -> Iterator[tuple[str, str]]:
    for name in METHODS:
        for kind in KINDS:
            if (name, kind) != ("calibrated", "published"):
                yield name, kind


def _study(args: argparse.Namespace, seed: int, until: float) -> None:
    """Trains the students that are missing, and adds their rows after each; none begins after `until`."""
    recipe = _recipe(args.study, seed, args.steps)
    folder = args.work / f"{args.study}-{seed}"
    paths = {table: args.data / f"methods-{table}-{args.study}.csv" for table in ("cases", "terms")}
    known = {(row["method"], row["weights"], row["seed"]) for row in _read(paths["cases"])}
    wanted = [("teacher", ""), ("baseline", ""), *_students()]
    for name, kind in wanted:
        chosen = not kind or (name in args.methods and kind in args.weights)
        if not chosen or (name, kind, str(seed)) in known:
            continue
        stage = name + KINDS.get(kind, "")
        if time.monotonic() > until:
            log(f"{stage} and what follows is missing: call again")
            return
        log(f"{args.study}, seed {seed}: {stage}")
        run(recipe, out=folder, stages=[stage], device="cpu", progress=False)
        _add(paths["cases"], "cases", list(_cases(folder / "stages" / stage, name, kind, seed)))
        if kind:
            _add(paths["terms"], "terms", list(_terms(recipe, folder, name, kind, seed)))


def _cases(folder: Path, name: str, kind: str, seed: int) -> Iterator[Row]:
    record = StageRecord.read(folder)
    assert record is not None
    with (folder / METRICS_FILE).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {
                "method": name,
                "weights": kind,
                "seed": str(seed),
                "case": row["case"],
                "group": row["group"],
                "dice": f"{float(row['dice']):.5f}",
                "minutes": f"{record.seconds / 60:.1f}",
            }


def _terms(recipe: Recipe, folder: Path, name: str, kind: str, seed: int) -> Iterator[Row]:
    """The share of each term in the gradient at both ends of the training, and the signal of its targets."""
    stage = name + KINDS[kind]
    curves = [
        row
        for row in read_curves(folder / "stages" / stage / "curves.csv")
        if any(column.startswith("grad/") for column in row)
    ]
    signal = _signal(recipe, folder, stage)
    for term in [column.removeprefix("grad/") for column in curves[0] if column.startswith("grad/")]:
        row = {"method": name, "weights": kind, "seed": str(seed), "term": term}
        for end, found in (("first", curves[0]), ("last", curves[-1])):
            row |= {
                f"weight_{end}": f"{found[f'grad_weight/{term}']:.4g}",
                f"ratio_{end}": f"{found[f'grad/{term}']:.4g}",
                f"cosine_{end}": f"{found[f'grad_cosine/{term}']:.3f}",
            }
        between, untrained = signal[term]
        yield row | {"between_images": f"{between:.3f}", "from_untrained": f"{untrained:.3f}"}


@torch.no_grad()
def _signal(recipe: Recipe, folder: Path, stage: str) -> dict[str, tuple[float, float]]:
    """Of each term two shares from 0 to 1, of targets X of the teacher on test images.

    Between images: the variance of X over images, position by position, as a share of its mean square. From untrained:
    |X - U|^2 / (|X|^2 + |U|^2), with U the targets of the teacher's network before its training. Parts of the targets
    that are the same for both networks are those of the reference, and do not count.
    """
    teacher = load_stage(folder / "stages" / "teacher")
    torch.manual_seed(0)
    model = recipe.stages["teacher"].model.model_copy(update={"pretrained": None})
    untrained = build_network(model, recipe.data.channels)
    batch = _test_batch(folder, teacher)

    def codes(network: str, own: str) -> nn.Module:
        trained = load_stage(folder / "stages" / ("baseline" if network == "student" else "teacher"))
        return load_autoencoders(folder / "stages" / own, trained.network, network)

    found = {}
    outputs = [network.eval()(batch["image"]) for network in (teacher.network, untrained)]
    for name, (_, method) in make_methods(recipe.stages[stage], cast(Any, codes)).items():
        trained, other = (_targets(method, output, batch) for output in outputs)
        for part in weighted_terms(1.0, method):
            own, before = (_numbers(term_targets(each, part)) for each in (trained, other))
            kept = [
                key for key in own if own[key].shape == before[key].shape and (own[key] != before[key]).any()
            ]
            x = np.concatenate([own[key] for key in kept], 1) if kept else np.zeros((1, 1))
            u = np.concatenate([before[key] for key in kept], 1) if kept else np.zeros((1, 1))
            between = x.var(0).mean() / max(np.square(x).mean(), 1e-30)
            apart = np.square(x - u).sum() / max((np.square(x) + np.square(u)).sum(), 1e-30)
            found["/".join(filter(None, (name, part)))] = (float(between), float(apart))
    return found


def _targets(method: DistillationMethod, output: Output, batch: Batch) -> Targets:
    features = pick(output.features, method.features, batch["image"])
    return method.targets(output._replace(features=features), batch["mask"], "teacher")


def _numbers(targets: Targets) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Each target as (B, numbers); of predictions the probabilities, since logarithms have no end."""
    return {
        name: (value.exp() if name == "log_probability" else value).double().flatten(1).numpy()
        for name, value in targets.items()
        if value.is_floating_point()
    }


def _test_batch(folder: Path, teacher: TrainedStage) -> Batch:
    """A batch of test images, as they are."""
    cases = [case for case in select(read_cases(folder / "cases.csv"), split="test") if case.has_reference]
    preprocess = cast(Preprocess, teacher.preprocess)
    store = prepare_store(cases[:IMAGES], preprocess, folder / ".store", keep_small=False)
    views = Views(store, [case.id for case in cases[:IMAGES]], preprocess, "none")
    return next(iter(batches(views, IMAGES, 0, workers=0)))


def _cost(name: str, rounds: int) -> Row:
    """Processor time of a training step on one thread, the teacher's forward pass included, beside the baseline's."""
    log(f"cost of {name}")
    torch.manual_seed(0)
    teacher = create_network(TEACHER["name"]).eval()
    students = [create_network(**STUDENT) for _ in range(2)]
    shape = (8, 3, 128, 128)
    batch = {
        "image": torch.rand(shape),
        "mask": (torch.rand(8, 128, 128) > 0.9).long(),
        "index": torch.arange(8),
        "has_mask": torch.ones(8, dtype=torch.bool),
    }
    methods: Methods = {
        method: (1.0, create_method(method, **_with_codes(options, students[1], teacher)))
        for method, options in METHODS[name].items()
    }
    loss = create_loss("cross_entropy_dice")
    distilled = Distillation(students[1], loss, [Teacher("teacher", teacher)], torch.ones(8, 1), methods)
    assert distilled.gradients is not None
    distilled.gradients.is_open = False
    fabric = make_fabric(Machine("cpu"), "fp32")
    trainings = [
        Training(task, FitSettings(), fabric, 10_000) for task in (Supervised(students[0], loss), distilled)
    ]
    turns = [lambda training=each: training.step(iter([batch])) for each in trainings]  # type: ignore[misc]
    plain, own = (float(np.median(times)) for times in alternate(turns, rounds, clock=time.process_time))
    return {"method": name, "milliseconds": f"{1000 * own:.0f}", "times_baseline": f"{own / plain:.2f}"}


def _with_codes(options: Mapping[str, Any], student: nn.Module, teacher: nn.Module) -> dict[str, Any]:
    """The options, with untrained auto-encoders where trained ones are named."""
    if "autoencoders" not in options:
        return dict(options)
    networks = {"student": student, "teacher": teacher}
    codes = {name: feature_autoencoder(network, name) for name, network in networks.items()}
    return {**options, "autoencoders": codes}


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _add(path: Path, table: str, rows: Sequence[Row]) -> None:
    """Adds rows to a file; rows of the same training, or method, are replaced."""

    def key(row: Row) -> tuple[str | None, ...]:
        return tuple(row.get(column) for column in ("method", "weights", "seed"))

    replaced = {key(row) for row in rows}
    kept = [row for row in _read(path) if key(row) not in replaced]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS[table], lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])
    os.replace(temporary, path)


def _gains(data: Path) -> Iterator[tuple[str, str, str, float]]:
    """Study, method, kind of weights and mean gain over the baseline, of each that was trained."""
    for study in STUDIES:
        scores = _scores(data, study)
        for (name, kind), of_cases in scores.items():
            if kind:
                base = scores["baseline", ""]
                yield study, name, kind, float(np.mean([of_cases[c] - base[c] for c in of_cases]))


def _scores(data: Path, study: str) -> dict[tuple[str, str], dict[tuple[str, str, str], float]]:
    """(Method, kind of weights) -> (seed, case, group) -> Dice."""
    found: dict[tuple[str, str], dict[tuple[str, str, str], float]] = {}
    for row in _read(data / f"methods-cases-{study}.csv"):
        of_cases = found.setdefault((row["method"], row["weights"]), {})
        of_cases[row["seed"], row["case"], row["group"]] = float(row["dice"])
    return found


def _write_page(page: Path, data: Path) -> None:
    """Replaces what follows the mark of the page by tables of the CSV files."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    before = text.split(TABLES)[0].rstrip()
    parts = [before, TABLES]
    for study in STUDIES:
        parts += [*_gain_table(data, study), *_term_table(data, study)]
    parts += _cost_table(data)
    page.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _gain_table(data: Path, study: str) -> list[str]:
    scores = _scores(data, study)
    if ("baseline", "") not in scores:
        return []
    base = scores["baseline", ""]
    rows = []
    for (name, kind), of_cases in scores.items():
        cells = [name, kind or "-", f"{np.mean(list(of_cases.values())):.3f}"]
        if name != "baseline":
            keys = [key for key in of_cases if key in base]
            found = paired_difference(
                [of_cases[key] for key in keys],
                [base[key] for key in keys],
                [group or case for _, case, group in keys],
            )
            ends = "" if found.low is None else f"{found.low:+.3f} to {found.high:+.3f}"
            cells += [f"{found.mean:+.3f}", ends, str(found.n)]
        rows.append(cells)
    seeds = len({seed for seed, _, _ in base})
    head = ["method", "weights", "Dice", "minus baseline", "95 % interval", "pairs"]
    return [f"## {study}: gain over the baseline", f"Seeds: {seeds}.", _table(head, rows)]


def _term_table(data: Path, study: str) -> list[str]:
    rows = _read(data / f"methods-terms-{study}.csv")
    if not rows:
        return []
    head = ["term", "weights", "between images", "from untrained"]
    head += [f"{what}, {end} epoch" for end in ("first", "last") for what in ("share", "cosine", "weight")]
    columns = ["between_images", "from_untrained"]
    columns += [f"{what}_{end}" for end in ("first", "last") for what in ("ratio", "cosine", "weight")]
    cells = [
        [_term_name(row), f"{row['weights']}, seed {row['seed']}", *(row[column] for column in columns)]
        for row in rows
    ]
    return [f"## {study}: signal of the targets, and share of the gradient", _table(head, cells)]


def _term_name(row: Row) -> str:
    return row["term"] if row["term"].startswith(row["method"]) else f"{row['method']}: {row['term']}"


def _cost_table(data: Path) -> list[str]:
    rows = _read(data / "methods-cost.csv")
    head = ["method", "milliseconds", "times the baseline's step"]
    cells = [[row["method"], row["milliseconds"], row["times_baseline"]] for row in rows]
    return ["## Cost of a step", _table(head, cells)] if rows else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *(list(row) + [""] * (len(head) - len(row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
