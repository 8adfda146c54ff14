"""Label audit: how many planted errors in 5 % of BUSI's masks stand among the first 10 % of `segdistill data audit`.

A cross-validation of two folds at 128x128, whose networks train on the planted errors, too. A quarter of the errors
each: an empty mask; the mask moved by a quarter of the image; another case's mask; foreground and background exchanged.

    python benchmarks/audit.py --data BUSI --json
    python benchmarks/audit.py --data BUSI --choose
    python benchmarks/audit.py --data BUSI --first 50

The second compares scores, on other errors, planted into the first fold alone. The third lists BUSI's own masks by case
id, from the same networks.

Called again it continues. `figure` is the share over all cases; `details` has it for the second fold, which chose no
score, and for each kind of error.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from common import arguments, log, machine, report
from segdistill.data.case import Case, reference_mask, select
from segdistill.data.datasets import create_dataset
from segdistill.data.duplicates import find_duplicates, group_duplicates
from segdistill.data.table import read_cases, write_cases
from segdistill.experiment.audit import audit, disagreement
from segdistill.experiment.run import run
from segdistill.imaging.read import read_picture
from segdistill.metrics.base import Pair
from segdistill.metrics.overlap import dice

ROOT = Path(__file__).parents[1]
BAR = 0.8
SHARE, FIRST = 0.05, 0.1
KINDS = ("empty", "shifted", "another's", "inverted")
Mask = NDArray[np.bool_]


def recipe(table: Path, steps: int) -> dict[str, Any]:
    """A short training of a small network, in two folds."""
    return {
        "name": "audit",
        "data": {"table": str(table), "size": 128, "labels": ["benign", "malignant"]},
        "fit": {
            "steps": steps,
            "batch_size": 8,
            "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
            "schedule": {"name": "one_cycle"},
            "augment": "light",
        },
        "folds": 2,
        "stages": {
            "network": {
                "model": {"name": "lite_unet", "preset": "small"},
                "loss": {"name": "cross_entropy_dice"},
            }
        },
    }


def planted(cases: list[Case], seed: int) -> Iterator[tuple[Case, str, Mask]]:
    """The cases whose masks are to be wrong, how, and the wrong masks."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(cases))[: round(SHARE * len(cases))]
    for number, k in enumerate(chosen):
        case, kind = cases[k], KINDS[number % len(KINDS)]
        mask = reference_mask(case, read_picture(case.image).size)
        other = cases[(k + 1 + rng.integers(len(cases) - 1)) % len(cases)]
        yield case, kind, wrong(mask, kind, reference_mask(other, read_picture(other.image).size), rng)


def wrong(mask: Mask, kind: str, other: Mask, rng: np.random.Generator) -> Mask:
    """A wrong mask of the same size; moved so that at least half of the foreground stays in the image."""
    if kind == "empty":
        return np.zeros_like(mask)
    if kind == "inverted":
        return ~mask
    if kind == "another's":
        return np.asarray(Image.fromarray(other).resize(mask.shape[::-1], Image.Resampling.NEAREST))
    for angle in rng.uniform(0, 2 * np.pi, 100):
        down, right = round(0.25 * mask.shape[0] * np.sin(angle)), round(0.25 * mask.shape[1] * np.cos(angle))
        rows, columns = np.nonzero(mask)
        rows, columns = rows + down, columns + right
        inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
        if inside.mean() >= 0.5:
            break
    moved = np.zeros_like(mask)
    moved[rows[inside], columns[inside]] = True
    return moved


def write_tables(busi: Path, work: Path, seed: int) -> tuple[Path, Path]:
    """The case tables without and with planted errors, and planted.csv: which case has which error."""
    good, bad = work / "cases.csv", work / f"cases-{seed}.csv"
    if not good.exists():
        cases = select(create_dataset("busi", busi), labels=["benign", "malignant"])
        write_cases(group_duplicates(cases, find_duplicates(cases)), good)
    if not bad.exists():
        cases, changed, rows = read_cases(good), {}, [("case", "kind")]
        for case, kind, mask in planted(cases, seed):
            path = work / f"masks-{seed}" / f"{len(changed):03d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(path)
            changed[case.id] = replace(case, masks=(path,), resize_mask=False, foreground=(255,))
            rows.append((case.id, kind))
        with (work / f"planted-{seed}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        write_cases([changed.get(case.id, case) for case in cases], bad)
    return good, bad


Score = Callable[[Mask, NDArray[np.float32]], float]


def scores() -> dict[str, Score]:
    """What was compared: a name and a function of mask and probability of foreground."""

    def weighted(mask: Mask, p: NDArray[np.float32]) -> float:
        predicted = p > 0.5
        return float(np.abs(2 * p - 1)[predicted ^ mask].sum() / max(predicted.sum() + mask.sum(), 1))

    def opposite(mask: Mask, p: NDArray[np.float32]) -> float:
        disputed = (p > 0.5) ^ mask
        return float(np.abs(mask - p)[disputed].mean()) if disputed.any() else 0.0

    def sides(share: float) -> Score:
        return lambda mask, p: disagreement(mask, p, share)

    return {
        "1 - Dice": lambda mask, p: 1 - dice(Pair(p > 0.5, mask)),
        "certainty of disputed pixels, of both areas": weighted,
        "mean probability of the other class over disputed pixels": opposite,
        **{
            f"two sides, weight {share} for what the mask lacks": sides(share)
            for share in (0.5, 0.6, 0.7, 0.8, 0.9)
        },
    }


def choose(run_folder: Path, good: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Score -> share of planted errors found in the first tenth, for each seed; cases that the first fold tests."""
    tested = {c.id for c in select(read_cases(run_folder / "fold-1" / "cases.csv"), split="test")}
    cases = [case for case in read_cases(good) if case.id in tested]
    found, step = audit(run_folder, table=good), 2
    maps, own = {}, {}
    for case in cases:
        maps[case.id] = found.probability(case)[0, 0, ::step, ::step]
        own[case.id] = reference_mask(case, read_picture(case.image).size)[::step, ::step]
    shares: dict[str, list[float]] = {}
    for name, score in scores().items():
        usual = {key: score(own[key], maps[key]) for key in own}
        for seed in seeds:
            bad = {case.id: mask[::step, ::step] for case, _, mask in planted(cases, seed)}
            order = sorted(usual, key=lambda k: -(score(bad[k], maps[k]) if k in bad else usual[k]))
            shares.setdefault(name, []).append(share_found(order, bad))
        log(f"{name}: {np.mean(shares[name]):.3f} {np.round(shares[name], 2).tolist()}")
    return shares


def share_found(order: Sequence[str], wanted: Collection[str]) -> float:
    """Share of the wanted among the first tenth."""
    first = order[: round(FIRST * len(order))]
    return len(set(first) & set(wanted)) / len(wanted)


def main() -> None:
    """Trains what is not trained yet, and prints the share."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of BUSI")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "audit")
    parser.add_argument("--seed", type=int, default=0, help="of the planted errors")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--choose", action="store_true", help="compare scores, and stop")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="list N of BUSI's own masks, and stop"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    good, bad = write_tables(args.data, args.work, args.seed)
    folder = args.work / f"planted-{args.seed}"
    run(recipe(bad, args.steps), out=folder, device="cpu", progress=not args.json)
    if args.choose:
        print(json.dumps(choose(folder, good, range(1, 11)), indent=2))
        return
    if args.first:
        for rank, row in enumerate(audit(folder, table=good).findings[: args.first], 1):
            print(f"| {rank} | {row.case.id} | {row.score:.3f} | {row.looks_like} |")
        return
    began = time.thread_time()
    found = audit(folder)
    seconds = time.thread_time() - began
    with (args.work / f"planted-{args.seed}.csv").open(newline="", encoding="utf-8") as file:
        kinds = {row["case"]: row["kind"] for row in csv.DictReader(file)}
    order = [row.case.id for row in found.findings]
    second = {c.id for c in select(read_cases(folder / "fold-2" / "cases.csv"), split="test")}
    first = set(order[: round(FIRST * len(order))])
    details = {
        "masks": len(order),
        "planted": len(kinds),
        "of_the_second_fold": share_found(
            [k for k in order if k in second], [k for k in kinds if k in second]
        ),
        "by_kind": {
            kind: f"{sum(kinds[k] == kind for k in kinds if k in first)} of {sum(v == kind for v in kinds.values())}"
            for kind in KINDS
        },
        "ranks": {f"{kinds[key]}: {key}": rank for rank, key in enumerate(order, 1) if key in kinds},
        "own_masks_in_the_first_tenth": len(first - set(kinds)),
        "steps": args.steps,
        "seconds_of_audit": round(seconds, 1),
        "machine": machine(),
    }
    figure = share_found(order, kinds)
    report(Path(__file__).stem, figure, BAR, figure >= BAR, details, args.json)


if __name__ == "__main__":
    main()
