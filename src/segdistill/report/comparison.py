"""What `segdistill compare` leaves: a table for the eyes, a CSV for machines, a page for readers."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from segdistill.files import atomic_write, write_text
from segdistill.report.charts import forest_plot
from segdistill.report.html import page, table, text
from segdistill.report.sections.context import RESEARCH_ONLY
from segdistill.report.sections.verdict import verdicts_html
from segdistill.stats.comparison import Variant, lesions
from segdistill.stats.subgroups import subgroups
from segdistill.stats.text import number, signed
from segdistill.stats.verdict import Comparison

NAMED = 4
"""Comparisons that a sentence still names one by one."""

Pairs = Sequence[tuple[Variant, Variant]]


def write_comparison(
    comparisons: Sequence[Comparison], pairs: Pairs, folder: Path, title: str, seed: int = 0
) -> None:
    """Writes comparison.csv, forest.svg and report.html into `folder`, each whole or not at all.

    Args:
        comparisons: as compare_methods gives them.
        pairs: the methods behind them, in the same order.
        folder: is made where it is missing.
        title: of the page.
        seed: of the bootstrap.

    Raises:
        InputError: the folder cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    _write_csv(comparisons, folder / "comparison.csv")
    named = ", ".join(dict.fromkeys(c.baseline for c in comparisons))
    write_text(folder / "forest.svg", forest_plot(comparisons, f"Against {named}") + "\n")
    write_text(folder / "report.html", comparison_page(comparisons, pairs, title, seed))


def _write_csv(comparisons: Sequence[Comparison], path: Path) -> None:
    rows = [c.to_dict() for c in comparisons]
    for row in rows:
        row["per_seed"] = ";".join(map(repr, row["per_seed"]))
        row["doubts"] = "; ".join(row["doubts"])
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def comparison_page(comparisons: Sequence[Comparison], pairs: Pairs, title: str, seed: int = 0) -> str:
    """The page: verdicts with forest plots, the methods with their trainings, and the differences by subgroup."""
    methods = list({m.name: m for pair in pairs for m in pair}.values())
    metric = comparisons[0].metric
    parts = [
        f"<header><h1>{text(title)}</h1><p class='lead'>{text(verdicts_sentence(comparisons))}</p></header>",
        f'<section id="verdict"><h2>Verdicts</h2>\n{verdicts_html(comparisons)}</section>',
        f'<section id="methods"><h2>Methods</h2>\n{_methods(methods, metric)}</section>',
    ]
    if by := _by_subgroup(comparisons, pairs, seed):
        parts.append(f'<section id="subgroups"><h2>Subgroups</h2>\n{by}</section>')
    parts.append(f"<footer>{RESEARCH_ONLY} Written by segdistill.</footer>")
    return page(text(title), "\n".join(parts).replace('xmlns="http://www.w3.org/2000/svg" ', ""))


def verdicts_sentence(comparisons: Sequence[Comparison]) -> str:
    """The verdicts in a sentence; of many, those that are alike together."""
    if len(comparisons) <= NAMED:
        return "; ".join(f"{c.method} against {c.baseline}: {c.words}" for c in comparisons) + "."
    alike: dict[str, list[Comparison]] = {}
    for c in comparisons:
        alike.setdefault(c.words, []).append(c)
    parts = []
    for words, members in alike.items():
        named = ", ".join(f"{c.method} against {c.baseline}" for c in members)
        count = f"{'all ' if len(alike) == 1 else ''}{len(members)}"
        parts.append(f"{words}: {named if len(members) <= NAMED else count}")
    return f"Of {len(comparisons)} comparisons: {'; '.join(parts)}."


def _methods(methods: Sequence[Variant], metric: str) -> str:
    rows = []
    for method in methods:
        means = {seed: float(scores.mean()) for seed, scores in method.scores(metric).items()}
        each = ", ".join(
            f"{number(mean)}" + (f" (seed {s})" if s is not None else "") for s, mean in means.items()
        )
        mean = sum(means.values()) / len(means)
        sources = ", ".join(t.source for t in method.trainings)
        rows.append([text(method.name), number(mean), text(each), text(sources)])
    heads = [
        "Variant",
        f"Mean {'Dice' if metric == 'dice' else text(metric)}",
        "Each training",
        "From",
    ]
    return table(heads, rows, "left")


def _by_subgroup(comparisons: Sequence[Comparison], pairs: Pairs, seed: int) -> str:
    """The difference by class, site and size: without verdicts, since many looks find something by chance."""
    metric = comparisons[0].metric
    parts = subgroups(lesions(pairs[0][0].first))
    drawn = []
    for kind in dict.fromkeys(part.kind for part in parts):
        members = [part for part in parts if part.kind == kind]
        heads = [f"{text(p.name)}<small>n = {len(p.cases)}, {p.groups} groups</small>" for p in members]
        rows = []
        for method, baseline in pairs:
            a, b = method.averaged(metric), baseline.averaged(metric)
            cells = []
            for part in members:
                found = part.difference(a, b, seed)
                span = "no interval" if found.low is None else f"{signed(found.low)} to {signed(found.high)}"
                cells.append(f"{signed(found.mean)}<small>{span}</small>")
            rows.append([f"{text(method.name)}<small>minus {text(baseline.name)}</small>", *cells])
        drawn.append(table([kind.capitalize(), *heads], rows))
    if not drawn:
        return ""
    return (
        "<p>The same differences, each case averaged over seeds, with intervals over cases alone. There is no verdict "
        "here: the more subgroups are looked at, the more of them differ by chance.</p>" + "".join(drawn)
    )


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """The table for the terminal, and what a "no evidence" lacks."""
    width = max(len(c.method) for c in comparisons)
    against = [f"{c.baseline} ({c.kind})" if c.kind else c.baseline for c in comparisons]
    wide = max(len(name) for name in against)
    head = f"{'method':{width}}  {'baseline':{wide}}  {'difference':>10}  {'95 % interval':>18}"
    lines = [head + f"  {'with trainings':>18}  {'seeds':>5}  {'spread':>7}  {'p (Holm)':>8}  verdict"]
    for c, name in zip(comparisons, against, strict=True):
        of = c.difference
        seeds = str(c.seeds) if c.seeds == c.baseline_seeds else f"{c.seeds}/{c.baseline_seeds}"
        lines.append(
            f"{c.method:{width}}  {name:{wide}}  {_plain(of.mean):>10}  {_range(of.low, of.high):>18}  "
            f"{_range(c.low, c.high):>18}  {seeds:>5}  {'-' if c.spread is None else f'{c.spread:.4f}':>7}  "
            f"{_p(c.corrected):>8}  {c.words}"
        )
    first = comparisons[0]
    margin = "no margin was stated" if first.margin is None else f"margin {first.margin:g}"
    better = ", smaller is better" if first.smaller_is_better else ""
    lines.append(
        f"{first.metric}{better}: method minus baseline, {first.difference.n} cases in "
        f"{first.difference.groups} groups, {margin}"
    )
    lines += [f"{c.method} against {c.baseline}: {'; '.join(c.doubts)}" for c in comparisons if c.doubts]
    return "\n".join(lines)


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.4f} {high:+.4f}"
