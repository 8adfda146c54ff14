"""The last steps of every report: cases are counted, examples chosen and predicted, and the page is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from segdistill.data.cases import Case
from segdistill.evaluation.examples import choose_examples, choose_slices, predict_shown, read_shown
from segdistill.evaluation.report import write_report
from segdistill.evaluation.report_data import Report, StageReport, count_cases
from segdistill.evaluation.report_trust import pictured_stages
from segdistill.evaluation.results import Predict
from segdistill.imaging.intensity import Intensity


def finish_report(
    report: Report,
    table: Sequence[Case],
    evaluated: Sequence[Case],
    predictor_of: Callable[[StageReport], Predict],
    intensity: Intensity | None,
    path: Path,
) -> None:
    """Fills in what every report shows of its cases, and writes it.

    Args:
        report: with its stages and their results, and the hash of its table.
        table: all cases of the experiment, which are counted.
        evaluated: those that the results are of.
        predictor_of: the network of a stage; asked once for each.
        intensity: how the values of volumes become 8 bits, that of the networks' preprocessing.
        path: of report.html.

    Raises:
        InputError: an image cannot be read, or the file cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    report.data.counts, report.data.groups = count_cases(table)
    report.date = datetime.now(UTC).date().isoformat()
    stage = report.headline()
    if stage is not None:
        chosen = choose_examples(stage.results)
        ids = [case for kind in ("worst", "median", "best") for case in chosen[kind]]
        shown = read_shown(evaluated, ids, intensity)
        slices = choose_slices(stage.results)
        worst = read_shown(evaluated, slices, intensity, slices)
        for one in pictured_stages(report):  # a classifier marks nothing
            predict = predictor_of(one)
            one.examples = predict_shown(shown, predict)
            one.worst_slices = predict_shown(worst, predict)
    write_report(report, path)
