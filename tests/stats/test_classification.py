"""Scores of classifiers against scipy, hand counts and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, t, ttest_ind

from segdistill.errors import InputError
from segdistill.imaging.boxes import fill_box, tight_box
from segdistill.metrics.boxes import box_overlap, score_boxes
from segdistill.metrics.classification import (
    Classified,
    confusion,
    read_classification_csv,
    roc_curve,
    write_classification_csv,
)
from segdistill.stats.classification import classification_scores, summarise_classification
from segdistill.stats.repetitions import better_p, repeated


def stated(truth: np.ndarray, classes: int, seed: int = 0, decimals: int = 2) -> np.ndarray:
    """Probabilities that lean to the truth, rounded so that some tie."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(truth), classes)) + 1.2 * np.eye(classes)[truth]
    exp = np.exp(logits)
    return np.round(exp / exp.sum(axis=1, keepdims=True), decimals)


def test_scores_of_a_table_counted_by_hand() -> None:
    """5 ill and 3 well; 4 ill and 2 well are found. Ill: precision 4/5, recall 4/5; well: 2/3, 2/3."""
    truth = [0] * 5 + [1] * 3
    targets = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    scores = classification_scores(truth, np.stack([1 - targets, targets], axis=1).astype(float))
    assert scores["accuracy"].mean == pytest.approx(6 / 8)
    assert scores["precision"].mean == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores["recall"].mean == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores["f1"].mean == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert confusion(np.array(truth), targets, 2).tolist() == [[4, 1], [1, 2]]


@pytest.mark.parametrize("classes", [2, 3])
def test_auc_is_the_mann_whitney_statistic_and_the_area_of_the_curve(classes: int) -> None:
    truth = np.random.default_rng(1).integers(0, classes, 60)
    chance = stated(truth, classes, seed=2)
    areas = []
    for k in range(classes):
        one, rest = chance[truth == k, k], chance[truth != k, k]
        areas.append(mannwhitneyu(one, rest).statistic / len(one) / len(rest))
        curve = roc_curve(truth == k, chance[:, k])
        assert curve is not None
        assert curve.area == pytest.approx(areas[-1])
        assert (np.diff(curve.false_positive) >= 0).all()
        assert (np.diff(curve.true_positive) >= 0).all()
    assert classification_scores(truth, chance, resamples=10)["auc"].mean == pytest.approx(np.mean(areas))


def test_points_of_the_curve_are_the_rates_at_their_thresholds() -> None:
    truth = np.random.default_rng(3).integers(0, 2, 40)
    score = stated(truth, 2, seed=4)[:, 1]
    curve = roc_curve(truth, score)
    assert curve is not None
    for fpr, tpr, threshold in zip(*curve, strict=True):
        called = score >= threshold
        assert tpr == pytest.approx(called[truth == 1].mean())
        assert fpr == pytest.approx(called[truth == 0].mean())
    assert roc_curve(np.ones(3), np.arange(3.0)) is None


def test_the_interval_is_that_of_a_plain_loop_over_groups() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, 50)
    chance, groups = stated(truth, 2, seed=6), rng.integers(0, 30, 50)
    got = classification_scores(truth, chance, groups.tolist(), seed=1, resamples=4000)
    names = np.unique(groups)
    drawn: dict[str, list[float]] = {"accuracy": [], "auc": [], "f1": []}
    again = np.random.default_rng(7)
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in again.choice(names, len(names))])
        one = classification_scores(truth[rows], chance[rows], resamples=1)
        for name, values in drawn.items():
            values.append(one[name].mean or np.nan)
    for name, values in drawn.items():
        low, high = np.nanpercentile(values, [2.5, 97.5])
        assert got[name].low == pytest.approx(low, abs=0.02)
        assert got[name].high == pytest.approx(high, abs=0.02)


def test_where_a_class_is_missing() -> None:
    chance = np.array([[0.9, 0.1], [0.6, 0.4]])
    scores = classification_scores([0, 0], chance)
    assert scores["auc"].mean is None
    assert scores["auc"].low is None
    assert scores["accuracy"].mean == 1.0
    nothing = classification_scores([], np.zeros((0, 2)))
    assert nothing["accuracy"].mean is None
    # one case of a class: draws without it leave the interval of the AUC to the others
    lone = classification_scores([0, 1, 1, 1, 1], stated(np.array([0, 1, 1, 1, 1]), 2, decimals=6))
    assert lone["auc"].low is not None


def test_calibration_counted_by_hand() -> None:
    """Probabilities of the first class: 0.9 twice, true once; 0.1 twice, true never."""
    rows = [
        Classified("a", "a", "ill", (0.9, 0.1), {}),
        Classified("b", "b", "well", (0.9, 0.1), {}),
        Classified("c", "c", "well", (0.1, 0.9), {}),
        Classified("d", "d", "well", (0.1, 0.9), {"iou": 0.5}),
    ]
    summary = summarise_classification(rows, ["ill", "well"])
    assert summary.calibration_error == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    assert summary.confusion == [[1, 0], [1, 2]]
    assert summary.scores["iou"].n == 1


def test_the_table_is_read_back_exactly(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "classification.csv"
    rows = [Classified("a, b", "g", "ill", (1 / 3, 2 / 3), {"box_iou": 0.1 + 0.2})]
    write_classification_csv(rows, ["ill", "well"], path)
    assert read_classification_csv(path) == (["ill", "well"], rows)
    assert "well" in path.read_text().splitlines()[1]  # the answer
    path.write_text("case,p_ill\na,x\n")
    with pytest.raises(InputError, match=r"is not a classification\.csv"):
        read_classification_csv(path)


def test_boxes_are_those_of_filled_masks() -> None:
    rng = np.random.default_rng(8)
    for _ in range(50):
        size = (int(rng.integers(5, 20)), int(rng.integers(5, 20)))
        pair = []
        for _ in range(2):
            left, right = sorted(rng.choice(size[1] + 1, 2, replace=False))
            top, bottom = sorted(rng.choice(size[0] + 1, 2, replace=False))
            pair.append((int(left), int(top), int(right), int(bottom)))
        a, b = (fill_box(box, size) for box in pair)
        assert tight_box(a) == pair[0]
        overlap = box_overlap(pair[0], pair[1])
        assert overlap.iou == pytest.approx((a & b).sum() / (a | b).sum())
        assert overlap.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_the_largest_component_counts_and_nothing_scores_zero() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0, 0] = mask[4:8, 4:8] = True
    mask[8, 8] = True  # touches by a corner
    assert tight_box(mask) == (4, 4, 9, 9)
    assert tight_box(mask, largest=False) == (0, 0, 9, 9)
    assert score_boxes(np.zeros((10, 10)), mask) == (0.0, 0.0)
    assert score_boxes(mask, mask).iou == pytest.approx(25 / 81)


def test_three_repetitions_as_the_paper_s_intervals() -> None:
    values = [0.431, 0.438, 0.445]
    found = repeated(values)
    assert found.half == pytest.approx(4.303 * np.std(values, ddof=1) / np.sqrt(3), rel=1e-3)
    assert found.half == pytest.approx(t.interval(0.95, 2, scale=np.std(values, ddof=1) / np.sqrt(3))[1])
    assert repeated([0.5]).half is None
    with pytest.raises(ValueError, match="at least one value"):
        repeated([])


def test_the_one_sided_test() -> None:
    ours, other = [0.99, 0.985, 0.992], [0.97, 0.975, 0.961]
    assert better_p(ours, other) == pytest.approx(ttest_ind(ours, other).pvalue / 2)
    assert better_p(other, ours) == pytest.approx(1 - ttest_ind(ours, other).pvalue / 2)
    assert better_p([0.9], other) is None
    assert better_p([0.9, 0.9], [0.9, 0.9]) is None
