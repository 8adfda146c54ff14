"""Synthetic results that several tests share."""

from __future__ import annotations

import numpy as np

from segdistill.metrics.base import METRICS
from segdistill.metrics.cases import CaseResult


def result(case: str, score: float, label: str = "benign", group: str = "", **changes: object) -> CaseResult:
    values: dict[str, object] = {
        "group": group or case,
        "label": label,
        "split": "test",
        "metrics": dict.fromkeys(METRICS.always(), score),
        "reference_area": 0.0 if label == "normal" else 0.1,
        "predicted_area": 0.1,
        "height": 20,
        "width": 30,
    }
    return CaseResult(case=case, **{**values, **changes})  # type: ignore[arg-type]


def results(seed: int, lift: float = 0.0, count: int = 12) -> list[CaseResult]:
    rng = np.random.default_rng(seed)
    scores = np.clip(rng.uniform(0.5, 0.9, count) + lift, 0, 1)
    found = [
        result(f"c{k}", float(s), "benign" if k % 3 else "malignant", f"g{k // 2}")
        for k, s in enumerate(scores)
    ]
    return [*found, result("n0", 1.0, "normal", predicted_area=0.0), result("n1", 0.0, "normal")]
