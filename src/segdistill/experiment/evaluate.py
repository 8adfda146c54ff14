"""Evaluates any model on any case table: a model file without torch, or a stage of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segdistill.data.case import SPLITS, Case, hash_files, select, with_channels
from segdistill.data.datasets import create_dataset
from segdistill.data.table import read_cases
from segdistill.errors import InputError, MissingExtra, needs
from segdistill.experiment.evaluation import (
    NO_SCORES,
    REPORT_FILE,
    Evaluation,
    Subject,
    open_model_file,
    require_own_folder,
    write_report_of,
    write_scores,
)
from segdistill.metrics.base import METRICS
from segdistill.metrics.cases import Results
from segdistill.metrics.robustness import STRENGTHS
from segdistill.plugins import load_plugins, use_installed
from segdistill.records import EvaluationRecord, FilesRecord
from segdistill.registry import near_names


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` measured.

    Attributes:
        record: means with intervals, and which cases were skipped or failed.
        results: one per case with a reference.
        report: None where none was written.
        notes: one line each, about the cases that were chosen and the files that were written.
    """

    record: EvaluationRecord
    results: Results
    report: Path | None = None
    notes: Sequence[str] = ()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row per case: case, group, label, site, and the metrics by name."""
        return [
            {"case": row.case, "group": row.group, "label": row.label, "site": row.site} | row.metrics
            for row in self.results
        ]


@use_installed(False)
def evaluate(
    model: str | Path,
    table: str | Path | None = None,
    *,
    stage: str | None = None,
    split: str | None = None,
    out: str | Path | None = None,
    metrics: Sequence[str] = (),
    pooled: bool = False,
    calibration: bool = False,
    robustness: bool = False,
    plugins: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> EvaluationResult:
    """Measures a model on cases: Dice, IoU, precision, recall and accuracy with bootstrap 95 % intervals.

    Args:
        model: a model file (.onnx), which needs no torch; or the folder of a run or of a stage.
        table: cases.csv, or a folder with images/ and masks/; by default the table of the run.
        stage: of the run; by default the one that its recipe exports.
        split: "test", "train", "val" or "all"; by default test, or all where the table has no test case.
        out: folder for metrics.csv, evaluation.json and report.html.
        metrics: names of metrics besides those that are always measured.
        pooled: also accuracy, sensitivity, F1, mIoU and AUC over all pixels of the set.
        calibration: also whether the probabilities are calibrated.
        robustness: also Dice under gamma, speckle and blur: ten more passes.
        plugins: files and modules to run first, because the stage's network or a metric comes from them.
        progress: called with (what, done, total).

    Raises:
        InputError: model, table, split or metric cannot be used, files of the table of a run have changed since it
            began, or no case could be measured.
        MissingExtra: torch is not installed, and the model is a stage.

    >>> evaluate("absent.onnx", "cases.csv")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such case table or folder: cases.csv
    """
    load_plugins(plugins)
    names, show = METRICS.optional(metrics), progress or (lambda what, done, total: None)
    place = _table_of(model, table)
    cases, chosen, split, notes = _choose(place, split)
    if table is None:
        _require_unchanged(place, chosen)
    folder = None if out is None else Path(out)
    if folder is not None:
        require_own_folder(folder)
    needs_scores = pooled or calibration or METRICS.need_probability(names)
    subject = _open(model, stage, needs_scores)
    if needs_scores and len(subject.classes) > 1:
        raise InputError(NO_SCORES)
    cases = [with_channels(case, subject.channels) for case in cases]
    chosen = [with_channels(case, subject.channels) for case in chosen]
    found = Evaluation(subject, names, pooled, calibration)
    for done in found.measure(chosen, keep_going=True):
        show("evaluating", done, len(chosen))
    if not found.results:
        reason = next(iter(found.results.failed.values()), "none of them has a reference mask")
        raise InputError(f"no case could be evaluated: {reason}")
    notes += _without_mask(len(found.results.skipped))
    if robustness:
        for done in found.disturb(chosen):
            show("disturbing", done, sum(map(len, STRENGTHS.values())))
    record, report = found.record(split), None
    if folder is not None:
        write_scores(folder, found.results, record)
        try:
            write_report_of(folder, found, record, cases, place.name, partial(show, "looking for leaks"))
            report = folder / REPORT_FILE
        except MissingExtra as error:
            notes.append(f"no report.html: {error}")
    return EvaluationResult(record, found.results, report, notes)


def _without_mask(count: int) -> list[str]:
    one = count == 1
    note = f"{count} case{'' if one else 's'} without mask {'is' if one else 'are'} not evaluated"
    return [note] if count else []


def _table_of(model: str | Path, table: str | Path | None) -> Path:
    """The case table, or the folder of images."""
    if table is None:
        folder = Path(model)
        places = [folder / "cases.csv", folder.absolute().parents[1] / "cases.csv"]  # of a run, of a stage
        table = next((place for place in places if folder.is_dir() and place.is_file()), None)
    if table is None:
        raise InputError(
            f"no cases to evaluate {model} on: give a cases.csv, or a folder with images/ and masks/"
        )
    if not Path(table).exists():
        raise InputError(f"no such case table or folder: {table}")
    return Path(table)


def _require_unchanged(table: Path, cases: Sequence[Case]) -> None:
    """Raises InputError where files of a run's own table are others than when it began; absent ones fail by themselves.

    Results of other files would not be those of the run's report.
    """
    record = FilesRecord.read(table.parent)
    found = {path: value for path, value in hash_files(cases).items() if value} if record else {}
    if record and (changes := record.changes(found)):
        raise InputError(
            f"{changes}: restore them, or name the table to measure them as they are now: {table}"
        )


def _choose(table: Path, split: str | None) -> tuple[list[Case], list[Case], str, list[str]]:
    """All cases of the table, those to evaluate, their split, and notes."""
    if split is not None and split not in (*SPLITS, "all"):
        raise InputError(f"unknown split '{split}': {near_names(split, [*SPLITS, 'all'])}")
    cases = create_dataset("folder", table) if table.is_dir() else read_cases(table)
    splits = {case.split for case in cases}
    if split is None and "test" not in splits:
        note = f"{table} has no test case: every case is measured, also any that the model was trained on"
        return cases, cases, "all", [note]
    split = split or "test"
    chosen = cases if split == "all" else select(cases, split=split)
    if not chosen:
        known = ", ".join(sorted(splits - {""})) or "none"
        raise InputError(f"{table} has no case in split '{split}' (its splits: {known}): use --split all")
    return cases, chosen, split, []


def _open(model: str | Path, stage: str | None, scores: bool) -> Subject:
    if not Path(model).is_dir():
        if stage is not None:
            raise InputError(f"{model} is not the folder of a run, so it has no stages: leave the stage out")
        return open_model_file(Path(model), scores)
    with needs("evaluating a stage of a run", "train"):
        from segdistill.experiment.stage import find_stage
        from segdistill.experiment.stage_evaluation import open_stage
    return open_stage(find_stage(model, stage), scores)
