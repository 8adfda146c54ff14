"""One model measured on one set of cases, as `segdistill evaluate` does it: any model, any case table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from segdistill.data.cases import Case
from segdistill.errors import InputError
from segdistill.evaluation.calibration import Calibration
from segdistill.evaluation.pooled import Pool
from segdistill.evaluation.report_data import Report
from segdistill.evaluation.results import (
    Predict,
    Results,
    Summary,
    class_names,
    evaluate_cases,
    site_names,
    site_of,
    summarise,
)
from segdistill.imaging.intensity import Intensity


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
