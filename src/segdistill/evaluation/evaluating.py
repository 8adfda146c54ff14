"""One model measured on one set of cases, as `segdistill evaluate` does it: any model, any case table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
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


@dataclass
class Evaluation:
    """What was measured.

    Attributes:
        results: one per case.
        failed: "case" and "reason" of every case that could not be used.
        pooled, calibration: as from Pool.metrics and Calibration.metrics; empty: not asked for.
        robustness: as from Disturbed.to_dict; empty: not asked for.
    """

    results: Results
    failed: list[dict[str, str]] = field(default_factory=list)
    pooled: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    robustness: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def summary(self) -> Summary:
        """Means with intervals: of all cases, by class and by site."""
        return summarise(self.results)

    def facts(self, split: str) -> dict[str, Any]:
        """The content of evaluation.json and of `--json`.

        >>> list(Evaluation(Results()).facts("test"))[-4:]
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
    pool = Pool() if pooled else None
    calibration = Calibration(then=pool) if calibrated else None
    found = Evaluation(Results())
    for case in cases:
        try:
            one = evaluate_cases(
                [case],
                subject.predict,
                intensity=subject.intensity,
                extra=extra,
                pool=calibration or pool,
            )
        except InputError as error:
            found.failed.append({"case": case.id, "reason": str(error)})
            continue
        found.results.extend(one)
        found.results.skipped += one.skipped
    if not found.results:
        reason = found.failed[0]["reason"] if found.failed else "none of them has a reference mask"
        raise InputError(f"no case could be evaluated: {reason}")
    found.pooled = pool.metrics() if pool is not None else {}
    found.calibration = calibration.metrics() if calibration is not None else {}
    return found
