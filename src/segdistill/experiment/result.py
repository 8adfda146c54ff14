"""What a run left: its stages, metrics, verdict, report and model file. Each is read when it is first used."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdistill.errors import InputError, needs
from segdistill.experiment.results import (
    FOLDS_FILE,
    METRICS_FILE,
    RUN_FILE,
    SUMMARY_FILE,
    fold_folder,
    read_json,
)
from segdistill.metrics.cases import read_metrics_csv
from segdistill.runtime.model_file import ModelInfo
from segdistill.runtime.predictor import Predictor, Runs

if TYPE_CHECKING:
    from torch import nn

    from segdistill.stats.verdict import Comparison

REPORT, MODEL_FILE = "report.html", "model.onnx"
