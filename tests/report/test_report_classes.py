"""The report of networks that classify whole images: tables, charts, and repetitions over seeds."""

from __future__ import annotations

import re

import numpy as np
from scipy.stats import ttest_ind

from segdistill.metrics.classification import Classified, ClassReport
from segdistill.report.context import make_context
from segdistill.report.data import Report, StageReport
from segdistill.report.page import render_report
from segdistill.stats.repetitions import repeated
from tests.stats.test_classification import stated


def classes(names: list[str], seed: int, location: dict[str, float] | None = None) -> ClassReport:
    truth = np.random.default_rng(seed).integers(0, 2, 20)
    rows = [
        Classified(f"case {k}", f"{k}", names[c], tuple(p), dict(location or {}))
        for k, (c, p) in enumerate(zip(truth, stated(truth, 2, seed, decimals=8).tolist(), strict=True))
    ]
    return ClassReport(names, rows, {"case 3": b"\x89PNG"} if location else {})


def page(*stages: StageReport, **facts: str) -> str:
    return render_report(make_context(Report("classes", stages, **facts)))


def test_a_classifier_has_its_section() -> None:
    own = classes(["malignant", "benign"], 9, {"cam_inside": 0.25})
    shown = page(StageReport("lanet<b>", "teacher", classes=own))
    for words in (
        "Classes of images",
        "predicted benign",
        "ROC curves for malignant",
        "Reliability diagram for malignant",
        "25 % of the map in the lesion",
        "Grad-CAM in the lesion",
    ):
        assert words in shown, words
    assert "lanet<b>" not in shown
    assert "Classes of images" not in page(StageReport("unet", "baseline"))


def seeds(variant: str, count: int = 3) -> list[StageReport]:
    return [
        StageReport(
            f"{variant}@{k}",
            "student",
            variant=variant,
            seed=k,
            classes=classes(["a", "b"], k + len(variant)),
        )
        for k in range(count)
    ]


def test_seeds_of_a_classifier_are_folded_away() -> None:
    shown = page(StageReport("once", "student", classes=classes(["a", "b"], 5)), *seeds("lanet"))
    section = shown.partition('<section id="classes">')[2].partition("</section>")[0]
    first, _, folded = section.partition("<details><summary>Each of the 4 trainings")
    names = [re.sub("<[^>]*>", "", one) for one in re.findall(r'<th scope="row">(.*?)</th>', first)]
    assert names[:2] == ["lanet", "once"]
    assert all(name in folded for name in ("once", "lanet@0", "lanet@1", "lanet@2"))


def test_repetitions_have_a_t_interval_and_a_test_against_the_headline() -> None:
    stages = [*seeds("lanet"), *seeds("rmtl")]
    context = make_context(Report("r", stages, student="lanet@0"))
    ours, other = context.repetitions
    assert [(row.name, row.count) for row in (ours, other)] == [("lanet", 3), ("rmtl", 3)]
    found = {n.name: n.classes.scores.scores["auc"].mean for n in context.trainings if n.classes}
    values = {name: [found[f"{name}@{k}"] for k in range(3)] for name in ("lanet", "rmtl")}
    assert other.scores["auc"] == repeated(values["rmtl"])
    assert ours.p["auc"] is None
    p = ttest_ind(values["lanet"], values["rmtl"], alternative="greater").pvalue
    assert np.isclose(other.p["auc"], p)
    assert str(repeated(values["rmtl"])) in page(*stages, student="lanet@0")
