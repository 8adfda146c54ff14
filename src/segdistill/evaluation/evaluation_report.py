"""What an evaluation leaves in its folder: metrics.csv, evaluation.json and report.html."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from segdistill.data.cases import Case, table_hash
from segdistill.data.check import run_check
from segdistill.data.leaks import leaks
from segdistill.errors import InputError
from segdistill.evaluation.evaluating import Evaluation, Subject
from segdistill.evaluation.report_build import finish_report
from segdistill.evaluation.report_data import DataReport, Report
from segdistill.evaluation.results import write_metrics_csv
from segdistill.files import write_json

METRICS_FILE, SUMMARY_FILE, REPORT_FILE = "metrics.csv", "evaluation.json", "report.html"


def require_own_folder(folder: Path) -> None:
    """Refuses a folder in which an evaluation would replace what no evaluation has written, such as a run's report.

    Raises:
        InputError: it is a file or holds such files.

    >>> require_own_folder(Path("new"))
    """
    blocking = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if blocking is not None:
        raise InputError(f"cannot write to {folder}: {blocking} is a file: choose another folder with -o")
    there = [folder / name for name in (SUMMARY_FILE, METRICS_FILE, REPORT_FILE) if (folder / name).exists()]
    if there and not _is_ours(folder / SUMMARY_FILE):
        raise InputError(
            f"{there[0]} would be replaced, and no evaluation has written it: choose another folder with -o"
        )


def _is_ours(summary: Path) -> bool:
    try:
        found = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"by_label", "split", "failed"} <= set(found)


def write_scores(folder: Path, evaluation: Evaluation, split: str) -> None:
    """Writes metrics.csv and evaluation.json, whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    write_metrics_csv(evaluation.results, folder / METRICS_FILE)
    write_json(folder / SUMMARY_FILE, evaluation.facts(split))


def write_report_of(
    folder: Path,
    subject: Subject,
    evaluation: Evaluation,
    table: Sequence[Case],
    name: str,
    split: str,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes report.html: what a run's report has, of this one model on this table.

    Args:
        folder: to write to.
        subject: what was evaluated.
        evaluation: what was measured.
        table: all cases of the table, in every split: they are looked at for leaks.
        name: of the table.
        split: that was evaluated; "all" for every case.
        progress: called with (done, total) while the table is looked at.

    Raises:
        InputError: the file cannot be written. MissingExtra: matplotlib is not installed.
    """
    report = subject.describe()
    report.stages = [
        replace(
            report.stages[0],
            results=evaluation.results,
            summary=evaluation.summary,
            pooled=evaluation.pooled,
            calibration=evaluation.calibration,
            robustness=evaluation.robustness,
        )
    ]
    report.data = look_at_table(table, name, progress)
    report.data.skipped = evaluation.results.skipped
    report.evaluated_on = "" if split == "all" else split
    _compare_tables(report, subject.data_hash, split)
    if evaluation.failed:
        report.limits = [*report.limits, f"Cases that could not be evaluated: {len(evaluation.failed)}."]
    finish_report(report, table, table, lambda _: subject.predict, subject.intensity, folder / REPORT_FILE)


def look_at_table(
    table: Sequence[Case], name: str, progress: Callable[[int, int], None] | None = None
) -> DataReport:
    """Splits, leaks, near-duplicates and findings of a table, as `segdistill data check` has them.

    A file that cannot be read is a finding; cases without a reference are not.

    >>> look_at_table([Case("a", Path("absent.png"), split="test")], "cases.csv").findings
    ['absent.png: no such file']
    """
    check = run_check(table, progress, require_reference=False)
    several = len({case.split for case in table}) > 1
    try:
        found = table_hash(table)
    except InputError:  # a file is missing: the findings name it
        found = ""
    return DataReport(
        name=name,
        hash=found,
        split="as given in the case table" if any(case.split for case in table) else "none in the case table",
        leaks=[str(leak) for leak in leaks(table, check.pairs)] if several else None,
        near_duplicates=[str(pair) for pair in check.pairs],
        findings=[one.message for one in check.findings if one.level != "note" and len(one.cases) == 1],
    )


def _compare_tables(report: Report, trained_on: str, split: str) -> None:
    """Notes whether this is the table that the model was trained on, by its hash, and what follows from it."""
    same = bool(trained_on) and trained_on == report.data.hash
    if not same:
        report.data.trained_on = f"another table, hash {trained_on}" if trained_on else "not recorded"
        unknown = "Whether the network was trained on any of these cases is not known."
        report.limits = [*report.limits, unknown]
        return
    report.data.trained_on = "this table"
    if split in ("train", "all"):
        report.warning = (
            "Cases that the network was trained on are among those evaluated: the scores are too kind."
        )
