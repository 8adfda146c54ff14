"""One model measured on one set of cases, as `segdistill evaluate` does it: any model, any case table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from segdistill.data.case import Case, table_hash
from segdistill.data.check import run_check
from segdistill.data.leaks import leaks
from segdistill.errors import InputError
from segdistill.files import write_json
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.picture import Picture
from segdistill.metrics.calibration import Calibration
from segdistill.metrics.cases import Predict, Results, Scored, write_metrics_csv
from segdistill.metrics.measuring import evaluate_cases
from segdistill.metrics.pooled import Pool
from segdistill.report.data import DataReport, Report, StageReport
from segdistill.report.page import finish_report
from segdistill.runtime.engine import milliseconds_per_image
from segdistill.runtime.machine import machine, versions
from segdistill.runtime.model_file import ModelInfo
from segdistill.runtime.predictor import Predictor
from segdistill.stats.summary import Summary, class_names, site_names, site_of, summarise


@dataclass(frozen=True)
class Subject:
    """A model that is evaluated, be it a model file or a stage of a run.

    Attributes:
        predict: what segments a picture, with scores where they were asked for.
        intensity: how the values of a volume become 8 bits, that of the model's preprocessing.
        describe: gives a report with all that is known of the model, without scores and data: title, its one stage
            (with curves and cost), settings, environment. Takes a while: it measures what was not recorded.
        data_hash: hash of the case table that it was trained on; "" where that was not recorded.
    """

    predict: Predict
    intensity: Intensity | None
    describe: Callable[[], Report]
    data_hash: str = ""


class Evaluation:
    """What is measured of a model: cases are added one by one, and what concerns them all is read at the end.

    Args:
        extra: further metrics of every case, of EXTRA_METRICS.
        pooled: also over all pixels of the set.
        calibrated: also whether the probabilities mean what they say.

    Attributes:
        results: one per case with a reference.
        failed: "case" and "reason" of every case that could not be used.
        robustness: as from Disturbed.to_dict; empty: not asked for.
    """

    def __init__(self, extra: Sequence[str] = (), pooled: bool = False, calibrated: bool = False) -> None:
        self.results = Results()
        self.failed: list[dict[str, str]] = []
        self.robustness: list[dict[str, Any]] = []
        self._extra = extra
        self._pool = Pool() if pooled else None
        self._calibration = Calibration(then=self._pool) if calibrated else None

    def add(self, case: Case, predict: Predict, intensity: Intensity | None = None) -> None:
        """Measures a case; one without a reference is noted as skipped.

        Raises:
            InputError: the case cannot be used, and has no result.
        """
        pool = self._calibration or self._pool
        one = evaluate_cases([case], predict, intensity=intensity, extra=self._extra, pool=pool)
        self.results.extend(one)
        self.results.skipped += one.skipped

    @cached_property
    def pooled(self) -> dict[str, Any]:
        """As from Pool.metrics; empty: not asked for, or no case measured."""
        return self._pool.metrics() if self._pool is not None and self.results else {}

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """As from Calibration.metrics; empty: not asked for, or no case measured."""
        return self._calibration.metrics() if self._calibration is not None and self.results else {}

    @cached_property
    def summary(self) -> Summary:
        """Means with intervals: of all cases, by class and by site."""
        return summarise(self.results)

    def facts(self, split: str) -> dict[str, Any]:
        """The content of evaluation.json and of `--json`.

        >>> list(Evaluation().facts("test"))[-4:]
        ['cases', 'skipped', 'failed', 'split']
        """
        summary = self.summary
        sites = {name: summary[site_of(name)] for name in site_names(summary)}
        measured = {
            "by_site": sites,
            "pooled": self.pooled,
            "calibration": self.calibration,
            "robustness": self.robustness,
        }
        return {
            **summary.get("all", {}),
            "by_label": {name: summary[name] for name in class_names(summary) if name != "all"},
            "normal": summary.get("normal"),
            **{name: value for name, value in measured.items() if value},
            "cases": len(self.results),
            "skipped": self.results.skipped,
            "failed": self.failed,
            "split": split,
        }


def evaluate_subject(
    cases: Iterable[Case],
    subject: Subject,
    extra: Sequence[str] = (),
    pooled: bool = False,
    calibrated: bool = False,
) -> Evaluation:
    """Measures a model case by case; a case that cannot be used is noted, and the others are measured.

    Args:
        cases: rows of the case table.
        subject: the model; it gives scores where what is asked for needs them.
        extra: further metrics, of EXTRA_METRICS.
        pooled: also over all pixels of the set.
        calibrated: also whether the probabilities mean what they say.

    Raises:
        InputError: no case could be measured.
    """
    found = Evaluation(extra, pooled, calibrated)
    for case in cases:
        try:
            found.add(case, subject.predict, subject.intensity)
        except InputError as error:
            found.failed.append({"case": case.id, "reason": str(error)})
    if not found.results:
        reason = found.failed[0]["reason"] if found.failed else "none of them has a reference mask"
        raise InputError(f"no case could be evaluated: {reason}")
    return found


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


PACKAGES = ("onnxruntime", "numpy", "Pillow")


def open_model_file(path: Path, scores: bool = False) -> Subject:
    """A model file, ready to be evaluated.

    Args:
        path: of the model file.
        scores: give probabilities beside the masks.

    Raises:
        InputError: not a model file of ours.

    >>> open_model_file(Path("absent.onnx"))
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """
    predictor = Predictor(path)

    def segment(picture: Picture) -> Any:
        answer = predictor.predict_pixels(picture.pixels)
        return Scored(answer.mask, answer.probability) if scores else answer.mask

    info = predictor.info
    return Subject(
        segment,
        info.preprocess.intensity,
        lambda: _describe(path, predictor),
        str(info.provenance.get("data_sha256") or ""),
    )


def _describe(path: Path, predictor: Predictor) -> Report:
    info = predictor.info
    known, patches = info.provenance, info.preprocess.patches
    teachers = _teachers(info)
    cost = {
        "parameters": known.get("parameters"),
        "macs": known.get("macs"),
        "size_mb": path.stat().st_size / 2**20,
        "size_of": "of the model file",
        "input": "x".join(map(str, (info.input_channels, *info.preprocess.size))),
        "ms": milliseconds_per_image(predictor.engine),
        "machine": f"CPU, {os.cpu_count()} cores",
        "engine": "ONNX Runtime, batch 1" + (f", one of {patches.count**2} patches" if patches else ""),
    }
    words = f"stage {known['stage']} of recipe {known.get('recipe') or 'unknown'}" if "stage" in known else ""
    words += f", distilled from {' and '.join(teachers)}" if teachers else ""
    stage = StageReport(
        name=path.name,
        role="student" if teachers else "baseline",
        task=words or info.name,
        cost=cost,
    )
    return Report(
        title=f"Evaluation of {path}",
        stages=[stage],
        settings=_settings(info),
        settings_of="model file",
        environment=machine() | versions(PACKAGES),
    )


def _teachers(info: ModelInfo) -> list[str]:
    named = info.provenance.get("teachers")
    return [str(name) for name in named] if isinstance(named, list) else []


def _settings(info: ModelInfo) -> str:
    """What the file says of itself, but for the scores of its own test set."""
    facts = {
        "name": info.name,
        "labels": list(info.labels),
        "preprocess": info.preprocess.to_dict(),
        "postprocess": info.postprocess.to_dict(),
        "provenance": dict(info.provenance),
    }
    stated = {name: value for name, value in facts.items() if value}
    return yaml.safe_dump(stated, sort_keys=False, allow_unicode=True)
