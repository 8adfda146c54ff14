"""What `segdistill compare` writes: a table for the terminal, a CSV for machines, a page for readers."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segdistill.files import atomic_write, csv_cell, write_text
from segdistill.report.charts import forest_plot
from segdistill.report.render import render
from segdistill.report.sections.verdict import lesion_values, verdict_values
from segdistill.stats.comparison import Pairs
from segdistill.stats.folds import TrainingKey
from segdistill.stats.lesions import lesion_tables
from segdistill.stats.subgroups import Subgroup, subgroups
from segdistill.stats.verdict import Verdict, sentence_of


def write_comparison(
    comparisons: Sequence[Verdict], pairs: Pairs, folder: Path, title: str, seed: int = 0
) -> None:
    """Writes comparison.csv, forest.svg and report.html into `folder`, each whole or not at all.

    Args:
        comparisons: as compare_variants gives them.
        pairs: the variants behind them, in the same order.
        folder: is made where it is missing.
        title: of the page.
        seed: of the bootstrap.

    Raises:
        InputError: the folder cannot be written.
        MissingExtra: matplotlib or Jinja2 is not installed.
    """
    _write_csv(comparisons, folder / "comparison.csv")
    named = ", ".join(dict.fromkeys(c.baseline for c in comparisons))
    write_text(folder / "forest.svg", forest_plot(comparisons, f"Against {named}") + "\n")
    write_text(folder / "report.html", comparison_page(comparisons, pairs, title, seed))


def _write_csv(comparisons: Sequence[Verdict], path: Path) -> None:
    rows = [
        {
            **{name: getattr(v, name) for name in ("variant", "baseline", "kind", "metric", "tested_on")},
            "cases": v.difference.n,
            "groups": v.difference.groups,
            "seeds": v.seeds,
            "baseline_seeds": v.baseline_seeds,
            "difference": v.difference.mean,
            "low": v.difference.low,
            "high": v.difference.high,
            "low_with_seeds": v.low,
            "high_with_seeds": v.high,
            "spread_over_seeds": v.spread,
            "per_seed": ";".join(map(repr, v.per_seed)),
            "low_over_folds": None if v.resampled is None else v.resampled[0],
            "high_over_folds": None if v.resampled is None else v.resampled[1],
            "folds": v.folds,
            "p": v.difference.p,
            "p_holm": v.corrected,
            "variants_in_holm": v.family,
            "margin": v.accepted,
            "margin_stated": v.margin is not None,
            "not_worse": v.not_worse,
            "non_inferiority": v.non_inferiority,
            "false_claim": v.false_claim,
            "this_teacher": v.this_teacher,
            "verdict": v.outcome,
            "reasons": "; ".join(reason.text for reason in v.reasons),
            "needed": v.needed_text,
            "smallest": v.smallest,
        }
        for v in comparisons
    ]
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)


def comparison_page(comparisons: Sequence[Verdict], pairs: Pairs, title: str, seed: int = 0) -> str:
    """The page: verdicts with forest plots, the variants with their trainings, and the differences by subgroup."""
    variants = list({v.name: v for pair in pairs for v in pair}.values())
    metric = comparisons[0].metric
    means = [
        {_key_text(key): float(scores.mean()) for key, scores in v.scores(metric).items()} for v in variants
    ]
    return render(
        "comparison.html",
        title=title,
        sentence=sentence_of(comparisons),
        metric="Dice" if metric == "dice" else metric,
        variants=list(zip(variants, means, strict=True)),
        subgroups=_by_subgroup(metric, pairs, seed),
        **verdict_values(comparisons),
        **lesion_values(lesion_tables({v.name: v.results for v in variants}, seed)),
    )


def _key_text(key: TrainingKey) -> str:
    """Which training it is, as far as that is known.

    >>> _key_text(TrainingKey(1, 2)), _key_text(TrainingKey(None))
    ('seed 1, fold 2', '')
    """
    parts = {"seed": key.seed, "fold": key.fold}
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


def _by_subgroup(metric: str, pairs: Pairs, seed: int) -> list[tuple[str, list[Subgroup], list[Any]]]:
    """The difference by class, site and size: without verdicts, since many looks find something by chance."""
    found = subgroups(pairs[0][0].cases)
    tables = []
    for kind in dict.fromkeys(part.kind for part in found):
        parts, rows = [part for part in found if part.kind == kind], []
        for variant, baseline in pairs:
            a, b = variant.averaged(metric), baseline.averaged(metric)
            rows.append((variant, baseline, [part.difference(a, b, seed) for part in parts]))
        tables.append((kind, parts, rows))
    return tables


def comparison_text(comparisons: Sequence[Verdict]) -> str:
    """The table for the terminal, and what is missing where there is no evidence."""
    heads = "variant,baseline,difference,95 % interval,with trainings,seeds,spread,p (Holm),verdict"
    rows = [heads.split(","), *(_text_row(c) for c in comparisons)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<<>>>>>><"  # words to the left, numbers to the right
    lines = [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    first = comparisons[0]
    margin = "no margin" if first.accepted is None else f"margin {first.accepted:g}"
    margin += " (the default)" if first.margin is None and first.accepted is not None else ""
    folds = f", {first.fold_words}" if first.folds > 1 else ""
    better = "" if first.higher_is_better else ", smaller is better"
    lines.append(
        f"{first.metric}{better}: variant minus baseline, {first.difference.n} cases in "
        f"{first.difference.groups} groups{folds}, {margin}"
    )
    for c in comparisons:
        if c.reasons:
            lines.append(f"{c.variant} against {c.baseline}: {'; '.join(r.text for r in c.reasons)}")
        lines += [f"  {words}" for words in _texts(c) if words]
        if c.this_teacher:
            lines.append(f"  All trainings of {c.variant} had the same teacher: the verdict is about it.")
    return "\n".join(lines)


def _texts(c: Verdict) -> tuple[str, ...]:
    return c.smallest_text, c.not_worse_text, c.false_claim_text, c.needed_text


def _text_row(c: Verdict) -> list[str]:
    of = c.difference
    return [
        c.variant,
        f"{c.baseline} ({c.kind})" if c.kind else c.baseline,
        "-" if of.mean is None else f"{of.mean:+.4f}",
        _range(of.low, of.high),
        _range(c.low, c.high),
        str(c.seeds) if c.seeds == c.baseline_seeds else f"{c.seeds}/{c.baseline_seeds}",
        "-" if c.spread is None else f"{c.spread:.4f}",
        "-" if c.corrected is None else "<0.001" if c.corrected < 0.001 else f"{c.corrected:.3f}",
        c.words,
    ]


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.4f} {high:+.4f}"
