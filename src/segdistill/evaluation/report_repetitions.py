"""Stages that were trained several times with other seeds (NAME@0, NAME@1, ...), taken together as LA-Net does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segdistill.evaluation.html import number, table, text
from segdistill.evaluation.repetitions import better_p, repeated

SHOWN = {
    "accuracy": "Accuracy",
    "f1": "F1",
    "auc": "AUC",
    "iou": "IoU of the map",
    "dice": "Dice of the map",
}
TESTED = ("auc", "iou")
"""What the paper tests: AUC for classes, IoU for places."""


def repetitions_table(summaries: Mapping[str, Mapping[str, Any]], shown: str) -> str:
    """Mean and 95 % t-interval over the repetitions of each method, and p of the one-sided test that the shown one is
    better; "" where nothing was repeated.

    Args:
        summaries: stage -> its classification summary.
        shown: the stage in the headline; its method is tested against each other one.

    >>> made = {f"net@{k}": {"auc": {"mean": value}} for k, value in enumerate((0.8, 0.9, 1.0))}
    >>> "0.900±0.248" in repetitions_table(made, "net@0")
    True
    >>> repetitions_table({"net": {"auc": {"mean": 0.8}}}, "net")
    ''
    """
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for stage, summary in summaries.items():
        method, at, seed = stage.rpartition("@")
        if at and seed.isdecimal():
            methods.setdefault(method, []).append(summary)
    methods = {name: found for name, found in methods.items() if len(found) > 1}
    if not methods:
        return ""
    ours = methods.get(shown.rpartition("@")[0])
    tested = [name for name in TESTED if ours and _values(ours, name)]
    rows = []
    for method, found in methods.items():
        cells = [text(method), str(len(found))]
        for name in SHOWN:
            values = _values(found, name)
            cells.append(str(repeated(values)) if values else "—")
        for name in tested:
            against = _values(found, name)
            p = None if found is ours or not against else better_p(_values(ours or [], name), against)
            cells.append(number(p, 3))
        rows.append(cells)
    heads = ["Method", "Repetitions", *SHOWN.values(), *(f"p, {SHOWN[name]}" for name in tested)]
    words = (
        "<h3>Repetitions</h3><p>Mean and 95 % interval of Student's t over trainings with other seeds, on the same "
        "test cases: they tell how much training varies, not how much patients do. p is of the one-sided independent "
        "t-test that the method in the headline is not better.</p>"
    )
    return words + table(heads, rows)


def _values(summaries: list[Mapping[str, Any]], name: str) -> list[float]:
    """The metric in every repetition; empty where one lacks it."""
    values = [summary.get(name, {}).get("mean") for summary in summaries]
    return [] if any(value is None for value in values) else [float(value) for value in values]
