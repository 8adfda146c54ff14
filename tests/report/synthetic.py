"""Synthetic results and reports that several tests share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from segdistill.metrics.base import METRICS
from segdistill.metrics.cases import CaseResult
from segdistill.records import Cost
from segdistill.report.context import make_context
from segdistill.report.data import DataReport, Report, StageReport, TrainingReport
from segdistill.report.examples import Example
from segdistill.report.model_card import render_model_card
from segdistill.report.page import render_report


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


def example(case: str, seed: int = 0) -> Example:
    rng = np.random.default_rng(seed)
    reference = np.zeros((20, 30), dtype=bool)
    reference[5:15, 8:20] = True
    pixels = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    return Example(case, pixels, reference, np.roll(reference, 2, axis=1))


def curves(epochs: int = 4) -> list[dict[str, float]]:
    return [
        {
            "epoch": e,
            "step": 10 * e,
            "loss": 2 / e,
            "kl": 1 / e,
            "val_dice": 0.2 * e,
            "lr": 1e-3,
            "seconds": 3.0,
        }
        for e in range(1, epochs + 1)
    ]


def full_report() -> Report:
    cost = Cost(
        2_162_146, 1_000_000_000, 8.65, "weights as float32", "3x128x128", 17.3, "a 2-core machine", "torch"
    )
    shown = [example("c0"), example("c5"), example("n1")]
    common = {"curves": curves(), "examples": shown, "weights": "last epoch"}
    return Report(
        "lightbtseg/<cpu>",
        [
            StageReport(
                "teacher",
                "teacher",
                "big & wide",
                results=results(1),
                cost=replace(cost, parameters=31_000_000),
                **common,
            ),
            StageReport(
                "student",
                "student",
                "small",
                results=results(1, 0.05),
                cost=cost,
                training=TrainingReport(seconds=75),
                **common,
            ),
            StageReport("plain", "baseline", "small, alone", results=results(1), cost=cost, **common),
        ],
        data=DataReport(
            "BUSI",
            "ab" * 32,
            {"train": {"benign": 5, "malignant": 4}, "test": {"benign": 8, "malignant": 4, "normal": 2}},
            {"train": 8, "test": 8},
            "hold-out, seed 0",
            ["c0 (train) and c1 (test): same pixels"],
            [],
        ),
        settings="name: <script>alert(1)</script>\nsize: 128\n",
        environment={"Python": "3.11", "Threads": 1},
        date="2026-01-01",
    )


def page_of(report: Report) -> str:
    return render_report(make_context(report))


def card_of(report: Report) -> str:
    return render_model_card(make_context(report))
