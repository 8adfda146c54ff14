"""One model measured on one set of cases, as `segdistill evaluate` does it: any model, any case table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from segdistill.data.case import SPLITS, Case, select, table_hash
from segdistill.data.check import run_check
from segdistill.data.datasets import create_dataset
from segdistill.data.leaks import leaks
from segdistill.data.table import read_cases
from segdistill.errors import InputError, MissingExtra, needs
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.picture import Picture
from segdistill.metrics.base import METRICS
from segdistill.metrics.calibration import Calibration
from segdistill.metrics.cases import (
    METRICS_FILE,
    Predict,
    Results,
    Scored,
    evaluate_cases,
    measure_cases,
    write_metrics_csv,
)
from segdistill.metrics.pooled import Pool
from segdistill.metrics.robustness import STRENGTHS, disturbed
from segdistill.plugins import load_plugins
from segdistill.records import Cost, Disturbance, EvaluationRecord, Weights
from segdistill.registry import near_names
from segdistill.report.data import DataReport, Report, StageReport
from segdistill.report.page import finish_report
from segdistill.runtime.engine import milliseconds_per_image
from segdistill.runtime.machine import machine, versions
from segdistill.runtime.model_file import ModelInfo
from segdistill.runtime.predictor import Predictor
from segdistill.stats.bootstrap import bootstrap_mean
from segdistill.stats.summary import summarise

REPORT_FILE = "report.html"
PACKAGES = ("onnxruntime", "numpy", "Pillow")


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
        InputError: model, table, split or metric cannot be used, or no case could be measured.
        MissingExtra: torch is not installed, and the model is a stage.

    >>> evaluate("absent.onnx", "cases.csv")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such case table or folder: cases.csv
    """
    load_plugins(plugins)
    names, show = METRICS.optional(metrics), progress or (lambda what, done, total: None)
    place = _table_of(model, table)
    cases, chosen, split, notes = _choose(place, split)
    folder = None if out is None else Path(out)
    if folder is not None:
        require_own_folder(folder)
    needs_scores = pooled or calibration or any(METRICS.create(name).needs_probability for name in names)
    subject = _open(model, stage, needs_scores)
    found = Evaluation(subject, names, pooled, calibration)
    for done in found.measure(chosen, keep_going=True):
        show("evaluating", done, len(chosen))
    if not found.results:
        reason = next(iter(found.results.failed.values()), "none of them has a reference mask")
        raise InputError(f"no case could be evaluated: {reason}")
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


@dataclass(frozen=True)
class Subject:
    """A model that is evaluated: a model file, or a stage of a run.

    Attributes:
        name: of the model file or the stage.
        predict: segments a picture; gives probabilities where they are needed.
        intensity: how the values of a volume become 8 bits, that of the model's preprocessing.
        variant, seed, weights: as in `records.EvaluationRecord`.
        data_hash: hash of the case table that it was trained on; "" where that was not recorded.
        describe: gives a report on the model without scores and data: title, its one stage (with curves and cost),
            settings, environment. It measures what was not recorded, which takes a while. None: not needed.
    """

    name: str
    predict: Predict
    intensity: Intensity | None = None
    variant: str = ""
    seed: int | None = None
    weights: Weights | None = None
    data_hash: str = ""
    describe: Callable[[], Report] | None = None


class Evaluation:
    """What is measured of a model: case by case first, then over all of them.

    Args:
        subject: the model.
        metrics: names of metrics besides those that are always measured.
        pooled: also measure over all pixels of the set.
        calibrated: also measure calibration.

    Attributes:
        results: one per case with a reference, with the cases that were skipped or failed.
        robustness: one per disturbance; empty: not measured.

    >>> Evaluation(Subject("net", lambda picture: picture.pixels > 0)).record("test").cases
    0
    """

    def __init__(
        self, subject: Subject, metrics: Sequence[str] = (), pooled: bool = False, calibrated: bool = False
    ) -> None:
        self.subject = subject
        self.results = Results()
        self.robustness: list[Disturbance] = []
        self._metrics = metrics
        self._pool = Pool() if pooled else None
        self._calibration = Calibration(then=self._pool) if calibrated else None

    def measure(self, cases: Iterable[Case], keep_going: bool = False) -> Iterator[int]:
        """Measures case by case; gives the number that is done, as `metrics.cases.measure_cases`.

        Raises:
            InputError: as there.
        """
        return measure_cases(
            cases,
            self.subject.predict,
            self.results,
            intensity=self.subject.intensity,
            extra=self._metrics,
            pool=self._calibration or self._pool,
            keep_going=keep_going,
        )

    def disturb(
        self, cases: Iterable[Case], strengths: Mapping[str, Sequence[float]] = STRENGTHS
    ) -> Iterator[int]:
        """Measures Dice under every disturbance, of the cases with something to find; gives the number that is done.

        Args:
            cases: rows of the case table, of which those in `results` are taken.
            strengths: kind of disturbance -> its strengths.

        Raises:
            InputError: a file cannot be read.
        """
        before = {r.case: r.metrics["dice"] for r in self.results if not r.normal}
        chosen = [case for case in cases if case.id in before]
        for kind, strength in ((k, value) for k, values in strengths.items() for value in values if chosen):
            changed = disturbed(self.subject.predict, kind, strength)
            after = evaluate_cases(chosen, changed, intensity=self.subject.intensity)
            groups = [r.group for r in after]
            score = bootstrap_mean([r.metrics["dice"] for r in after], groups)
            difference = bootstrap_mean([r.metrics["dice"] - before[r.case] for r in after], groups)
            self.robustness.append(Disturbance(kind, strength, score, difference))
            yield len(self.robustness)

    def record(self, split: str, **facts: Any) -> EvaluationRecord:
        """The content of evaluation.json and of `--json`; `facts` are further fields of it."""
        subject, measured = self.subject, bool(self.results)
        return EvaluationRecord(
            model=subject.name,
            variant=subject.variant,
            seed=subject.seed,
            weights=subject.weights,
            split=split,
            cases=len(self.results),
            skipped=self.results.skipped,
            failed=self.results.failed,
            summary=summarise(self.results),
            pooled=self._pool.metrics() if self._pool is not None and measured else {},
            calibration=self._calibration.metrics() if self._calibration is not None and measured else {},
            robustness=self.robustness,
            **facts,
        )


def require_own_folder(folder: Path) -> None:
    """Refuses a folder in which an evaluation would replace another file of the user, such as a run's report.

    Raises:
        InputError: it is a file or holds such files.

    >>> require_own_folder(Path("new"))
    """
    blocking = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if blocking is not None:
        raise InputError(f"cannot write to {folder}: {blocking} is a file: choose another folder with -o")
    names = (EvaluationRecord.FILE, METRICS_FILE, REPORT_FILE)
    there = [folder / name for name in names if (folder / name).exists()]
    if there and not _is_ours(folder):
        raise InputError(
            f"{there[0]} would be replaced, and it is not of an evaluation: choose another folder with -o"
        )


def _is_ours(folder: Path) -> bool:
    try:
        record = EvaluationRecord.read(folder)
    except InputError:
        return False
    return record is not None and not record.inputs  # which only a stage of a run has


def write_scores(folder: Path, results: Results, record: EvaluationRecord) -> None:
    """Writes metrics.csv and evaluation.json, each whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    write_metrics_csv(results, folder / METRICS_FILE)
    record.write(folder)


def write_report_of(
    folder: Path,
    evaluation: Evaluation,
    record: EvaluationRecord,
    table: Sequence[Case],
    name: str,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes report.html: what a run's report has, of this one model on this table.

    Args:
        folder: to write to.
        evaluation: what was measured.
        record: of the evaluation.
        table: all cases of the table, in every split: they are searched for leaks.
        name: of the table.
        progress: called with (done, total) while the table is checked.

    Raises:
        InputError: the file cannot be written.
        MissingExtra: matplotlib or Jinja2 is not installed.
    """
    subject, split = evaluation.subject, record.split
    assert subject.describe is not None
    report = subject.describe()
    stage = replace(
        report.stages[0],
        weights=str(subject.weights or ""),
        results=evaluation.results,
        summary=record.summary,
        pooled=record.pooled,
        calibration=record.calibration,
        robustness=record.robustness,
    )
    data = replace(describe_table(table, name, progress), skipped=record.skipped)
    limits, warning = list(report.limits), report.warning
    if subject.data_hash and subject.data_hash == data.hash:
        data = replace(data, trained_on="this table")
        if split in ("train", "all"):
            warning = (
                "Cases that the network was trained on are among these: scores are optimistically biased."
            )
    else:
        known = f"another table, hash {subject.data_hash}" if subject.data_hash else "not recorded"
        data = replace(data, trained_on=known)
        limits.append("Whether the network was trained on any of these cases is not known.")
    if record.failed:
        limits.append(f"Cases that could not be evaluated: {len(record.failed)}.")
    on = "" if split == "all" else split
    report = replace(report, stages=[stage], data=data, evaluated_on=on, limits=limits, warning=warning)
    finish_report(report, table, table, lambda _: subject.predict, subject.intensity, folder / REPORT_FILE)


def describe_table(
    table: Sequence[Case], name: str, progress: Callable[[int, int], None] | None = None
) -> DataReport:
    """Splits, leaks, near-duplicates and findings of a table, as `segdistill data check` has them.

    A file that cannot be read is a finding; a case without a reference is not.

    >>> describe_table([Case("a", Path("absent.png"), split="test")], "cases.csv").findings
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


def open_model_file(path: Path, scores: bool = False) -> Subject:
    """A model file, ready to be evaluated.

    Args:
        path: of the model file.
        scores: give probabilities beside the masks.

    Raises:
        InputError: not a model file of segdistill.

    >>> open_model_file(Path("absent.onnx"))
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """
    predictor = Predictor(path)

    def segment(picture: Picture) -> Any:
        predicted = predictor.predict_pixels(picture.pixels)
        return Scored(predicted.mask, predicted.probability) if scores else predicted.mask

    info = predictor.info
    kept = info.provenance.get("weights")
    return Subject(
        path.name,
        segment,
        info.preprocess.intensity,
        weights=Weights(**kept) if isinstance(kept, dict) else None,
        data_hash=str(info.provenance.get("data_sha256") or ""),
        describe=lambda: _describe(path, predictor),
    )


def _describe(path: Path, predictor: Predictor) -> Report:
    info = predictor.info
    known, patches = info.provenance, info.preprocess.patches
    named = known.get("teachers")
    teachers = [str(name) for name in named] if isinstance(named, list) else []
    cost = Cost(
        parameters=known.get("parameters"),
        macs=known.get("macs"),
        size_mb=path.stat().st_size / 2**20,
        size_of="of the model file",
        input="x".join(map(str, (info.input_channels, *info.preprocess.size))),
        ms=milliseconds_per_image(predictor.engine),
        machine=f"CPU, {os.cpu_count()} cores",
        engine="ONNX Runtime, batch 1" + (f", one of {patches.count**2} patches" if patches else ""),
    )
    words = f"stage {known['stage']} of recipe {known.get('recipe') or 'unknown'}" if "stage" in known else ""
    words += f", distilled from {' and '.join(teachers)}" if teachers else ""
    role = "student" if teachers else "comparator"
    return Report(
        title=f"Evaluation of {path}",
        stages=[StageReport(path.name, role, words or info.name, cost=cost)],
        settings=_settings(info),
        settings_of="model file",
        environment=machine() | versions(PACKAGES),
    )


def _settings(info: ModelInfo) -> str:
    """The metadata of the file, without the scores of its own test set."""
    facts = {
        "name": info.name,
        "labels": list(info.labels),
        "preprocess": info.preprocess.to_dict(),
        "postprocess": info.postprocess.to_dict(),
        "provenance": dict(info.provenance),
    }
    stated = {name: value for name, value in facts.items() if value}
    return yaml.safe_dump(stated, sort_keys=False, allow_unicode=True)
