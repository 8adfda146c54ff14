"""A paper's tables beside ours: what was published, what our runs gave, the difference, and what has not been run."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from segdistill.errors import InputError
from segdistill.recipes.results import SUMMARY_FILE, read_json
from segdistill.registry import near_names


def published_papers() -> list[str]:
    """The papers whose tables are at hand.

    >>> "lightbtseg" in published_papers()
    True
    """
    folder = Path(str(resources.files("segdistill.recipes"))) / "published"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def compare_with_paper(paper: str, runs: Path, table: str | None = None) -> list[dict[str, Any]]:
    """The paper's tables with our numbers filled in.

    Our numbers come from runs anywhere below `runs`: those of the table's recipe first, then those of the paper's
    other recipes on the same dataset (such as lightbtseg/cpu); each carries its recipe's name and size.

    Args:
        paper: one of `published_papers`.
        runs: folder with runs.
        table: only this one.

    Returns:
        One entry per table and run: title, metrics, run (None: not run), and rows with published, ours and difference.

    Raises:
        InputError: unknown paper or table.

    >>> compare_with_paper("lightbtseg", Path("nowhere"), "3")[0]["rows"][0]["ours"] is None
    True
    """
    if paper not in published_papers():
        raise InputError(f"unknown paper '{paper}': {near_names(paper, published_papers())}")
    text = (Path(str(resources.files("segdistill.recipes"))) / "published" / f"{paper}.yaml").read_text(
        "utf-8"
    )
    content = yaml.safe_load(text)
    if table is not None and table not in content["tables"]:
        raise InputError(f"{paper} has no table {table}: it has {', '.join(content['tables'])}")
    compared = []
    for name, parts in content["tables"].items():
        if table not in (None, name):
            continue
        for part in parts:
            for run in _runs_for(part["recipe"], runs) or [None]:
                compared.append(_compare(part, content["metrics"], run))
    return compared


def _runs_for(recipe: str, runs: Path) -> list[Path | None]:
    """Runs of the table's recipe first, then runs on the same data set from the paper's other recipes."""
    found: list[tuple[bool, Path]] = []
    for path in sorted(runs.glob("**/run.json")) if runs.is_dir() else []:
        made_from = str(read_json(path).get("recipe", ""))
        same_paper = made_from.split("/")[0] == recipe.split("/")[0]
        dataset = _dataset(path.parent)
        if made_from == recipe or (same_paper and dataset == recipe.split("/")[-1]):
            found.append((made_from != recipe, path.parent))
    return [path for _, path in sorted(found)]


def _dataset(run: Path) -> str:
    try:
        return str(yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))["data"]["dataset"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return ""


def _compare(part: dict[str, Any], metrics: list[str], run: Path | None) -> dict[str, Any]:
    facts = read_json(run / "run.json") if run else {}
    rows = []
    for row in part["rows"]:
        published = dict(zip(metrics, row["values"], strict=True)) if "values" in row else None
        ours = _our_numbers(run, row["stage"], row.get("label", "all"), metrics)
        both = published is not None and ours is not None
        difference = {m: round(ours[m] - published[m], 4) for m in metrics} if both else None  # type: ignore[index]
        rows.append({"name": row["name"], "published": published, "ours": ours, "difference": difference})
    label = f"{facts.get('recipe')} ({_size(run)}) on {_data(facts)}" if run else None
    return {
        "title": part["title"],
        "recipe": part["recipe"],
        "run": label,
        "metrics": metrics,
        "rows": rows,
        "note": part.get("note", ""),
    }


def _data(facts: dict[str, Any]) -> str:
    """What the run was really made with, which --data may have changed."""
    return str(facts.get("data", "data unknown")).split(",")[0]


def _size(run: Path) -> str:
    try:
        size = yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))["data"]["size"]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return "size unknown"
    return f"{size}x{size}" if isinstance(size, int) else "x".join(map(str, size))


def _our_numbers(run: Path | None, stage: str, label: str, metrics: list[str]) -> dict[str, float] | None:
    if run is None:
        return None
    values = read_json(run / "stages" / stage / SUMMARY_FILE).get("summary", {}).get(label, {})
    if not all(values.get(metric, {}).get("mean") is not None for metric in metrics):
        return None
    return {metric: values[metric]["mean"] for metric in metrics}


def render(tables: list[dict[str, Any]]) -> str:
    """The tables as text: published, ours and difference for each metric."""
    lines: list[str] = []
    for table in tables:
        lines += [f"{table['title']}   [{table['run'] or 'not run: segdistill run ' + table['recipe']}]"]
        lines += [f"{'':36}" + "".join(f"{metric:>26}" for metric in table["metrics"])]
        lines += [f"{'':36}" + f"{'paper   ours    diff':>26}" * len(table["metrics"])]
        for row in table["rows"]:
            cells = []
            for metric in table["metrics"]:
                paper = f"{row['published'][metric]:.4f}" if row["published"] else "-"
                ours = f"{row['ours'][metric]:.4f}" if row["ours"] else "not run"
                difference = f"{row['difference'][metric]:+.4f}" if row["difference"] else ""
                cells.append(f"{paper:>10}{ours:>8}{difference:>8}")
            lines.append(f"{row['name']:36}" + "".join(cells))
        lines += [f"note: {table['note']}", ""] if table["note"] else [""]
    return "\n".join(lines)
