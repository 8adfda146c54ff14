"""One model measured on one set of cases, as `segdistill evaluate` does it: any model, any case table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from segdistill.data.case import Case, name_values, table_classes, table_hash
from segdistill.data.check import run_check
from segdistill.data.leaks import leaks
from segdistill.data.opened import OpenedCase
from segdistill.errors import InputError
from segdistill.imaging.classes import class_names, few, parse_classes
from segdistill.imaging.grid import VolumePreprocess, foreground_at, mask_at
from segdistill.imaging.intensity import AnyIntensity
from segdistill.imaging.picture import Picture
from segdistill.metrics.calibration import Calibration
from segdistill.metrics.cases import (
    METRICS_FILE,
    Missed,
    Predict,
    Results,
    Scored,
    evaluate_cases,
    measure_cases,
    write_metrics_csv,
)
from segdistill.metrics.pooled import Pool
from segdistill.metrics.robustness import STRENGTHS, disturbed
from segdistill.records import Cost, Disturbance, EvaluationRecord, Weights
from segdistill.report.data import DataReport, Report, StageReport
from segdistill.report.page import finish_report
from segdistill.runtime.engine import milliseconds_per_image
from segdistill.runtime.machine import machine, versions
from segdistill.runtime.model_file import ModelInfo
from segdistill.runtime.predictor import Predictor
from segdistill.stats.bootstrap import bootstrap_mean
from segdistill.stats.summary import summarise

REPORT_FILE = "report.html"
NO_SCORES = (
    "pooled, calibrated and probability metrics are of one foreground, and the masks have several classes: leave them "
    "out, or join the classes with foreground: [1, 2]"
)
PACKAGES = ("onnxruntime", "numpy", "Pillow")


@dataclass(frozen=True)
class Subject:
    """A model that is evaluated: a model file, or a stage of a run.

    Attributes:
        name: of the model file or the stage.
        predict: segments a picture; gives probabilities where they are needed.
        intensity: how the values of a volume become 8 bits, that of the model's preprocessing.
        variant, seed, weights: as in `records.EvaluationRecord`.
        data_hash: hash of the case table that it was trained on; "" where that was not recorded.
        classes: names of the classes that it segments, without the background; none: not known, or one.
        channels: names of the channels that it takes; none: one image.
        describe: gives a report on the model without scores and data: title, its one stage (with curves and cost),
            settings, environment. It measures what was not recorded, which takes a while. None: not needed.
    """

    name: str
    predict: Predict
    intensity: AnyIntensity = None
    variant: str = ""
    seed: int | None = None
    weights: Weights | None = None
    data_hash: str = ""
    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    describe: Callable[[], Report] | None = None


class Evaluation:
    """What is measured of a model: case by case first, then over all of them.

    Args:
        subject: the model.
        metrics: names of metrics besides those that are always measured.
        pooled: also measure over all pixels of the set.
        calibrated: also measure calibration.
        missed: see `metrics.cases.measure_cases`.

    Attributes:
        results: one per case with a reference, with the cases that were skipped or failed.
        robustness: one per disturbance; empty: not measured.

    >>> Evaluation(Subject("net", lambda picture: picture.pixels > 0)).record("test").cases
    0
    """

    def __init__(
        self,
        subject: Subject,
        metrics: Sequence[str] = (),
        pooled: bool = False,
        calibrated: bool = False,
        missed: Missed = "skip",
    ) -> None:
        self.subject = subject
        self.results = Results()
        self.robustness: list[Disturbance] = []
        self._metrics, self._missed = metrics, missed
        self._pool = Pool() if pooled else None
        self._calibration = Calibration(then=self._pool) if calibrated else None

    def measure(self, cases: Iterable[Case], keep_going: bool = False) -> Iterator[int]:
        """Measures case by case; gives the number that is done, as `metrics.cases.measure_cases`.

        Raises:
            InputError: as there.
        """
        return measure_cases(
            same_classes(cases, self.subject),
            self.subject.predict,
            self.results,
            intensity=self.subject.intensity,
            extra=self._metrics,
            pool=self._calibration or self._pool,
            keep_going=keep_going,
            missed=self._missed,
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
        chosen = [case for case in same_classes(cases, self.subject) if case.id in before]
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


def same_classes(cases: Iterable[Case], subject: Subject) -> list[Case]:
    """The cases with their classes in the order of the model's.

    Raises:
        InputError: the model segments other classes than the masks hold.

    >>> same_classes([Case("a", Path("a.png"))], Subject("net", lambda picture: picture.pixels > 0))[0].id
    'a'
    """
    table = list(cases)
    wanted, there = subject.classes, class_names(table_classes(table))
    if len(wanted) < 2 and len(there) < 2:
        return table
    if set(wanted) != set(there):
        raise InputError(
            f"{subject.name} segments {few(wanted) or 'one class'}, and the masks of these cases hold "
            f"{few(there) or 'one class without a name'}: name the same classes in the table (column classes: "
            f"{'; '.join(f'{name}={k}' for k, name in enumerate(wanted or ('lesion',), 1))})"
        )
    return name_values(table, (), (), parse_classes(list(wanted)))


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


class WholeModel:
    """A model file of volumes: `metrics.cases.predict_case` gives it whole cases."""

    def __init__(self, predictor: Predictor, scores: bool = False) -> None:
        self._predictor, self._scores = predictor, scores

    def __call__(self, picture: Picture) -> Any:
        """Always an InputError: a picture is no volume."""
        return self._predictor.predict_pixels(picture.pixels)

    def volume(self, opened: OpenedCase) -> NDArray[np.uint8] | Scored:
        """The mask of a volume (D, H, W); with `scores` the probability of foreground beside it.

        Raises:
            InputError: a picture.
        """
        shape = (len(opened), *opened.size)
        if not opened.is_volume:
            raise InputError(f"{opened.case.image}: is a picture, and this model segments volumes")
        if self._scores:
            probability, post = (
                self._predictor.on_grid(opened.pixels, shape, opened.spacing_mm),
                self._predictor.postprocess,
            )
            return Scored(mask_at(probability, shape, post), foreground_at(probability, shape, post))
        mask = np.zeros(shape, np.uint8)
        self._predictor.segment_into(mask, opened.pixels, opened.spacing_mm)
        return mask


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
        WholeModel(predictor, scores) if isinstance(info.preprocess, VolumePreprocess) else segment,
        info.preprocess.intensity,
        weights=Weights(**kept) if isinstance(kept, dict) else None,
        data_hash=str(info.provenance.get("data_sha256") or ""),
        classes=info.classes[1:],
        channels=info.preprocess.channel_names,
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
