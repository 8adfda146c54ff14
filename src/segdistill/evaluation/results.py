"""Per-case results in one import: computed from a predictor, kept in metrics.csv, and summed up with intervals."""

from segdistill.evaluation.case_result import EXTRA_METRICS, CaseResult, Predict, Results, Scored
from segdistill.evaluation.measuring import evaluate_cases, predict_case, slice_dice, worst_slice
from segdistill.evaluation.metrics_csv import COLUMNS, read_metrics_csv, write_metrics_csv
from segdistill.evaluation.summary import (
    Summary,
    class_names,
    paired_results,
    site_names,
    site_of,
    summarise,
)

__all__ = [
    "COLUMNS",
    "EXTRA_METRICS",
    "CaseResult",
    "Predict",
    "Results",
    "Scored",
    "Summary",
    "class_names",
    "evaluate_cases",
    "paired_results",
    "predict_case",
    "read_metrics_csv",
    "site_names",
    "site_of",
    "slice_dice",
    "summarise",
    "worst_slice",
    "write_metrics_csv",
]
