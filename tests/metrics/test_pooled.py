from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import mannwhitneyu

from segdistill.metrics.base import Counts
from segdistill.metrics.pooled import Pool, auc, pooled_metrics


@settings(deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            arrays(np.float32, n, elements=st.sampled_from([0, 0.25, 0.5, 1])), arrays(bool, n)
        )
    )
)
def test_auc_is_mann_whitney(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = pair
    if truth.all() or not truth.any():
        assert auc(scores, truth) is None
        return
    u = mannwhitneyu(scores[truth], scores[~truth]).statistic
    assert auc(scores, truth) == pytest.approx(u / truth.sum() / (~truth).sum())
    by_pairs = np.mean([(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]])
    assert auc(scores, truth) == pytest.approx(by_pairs)
    assert auc(-scores, truth) == pytest.approx(1 - by_pairs)


def test_auc_of_many_pixels() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(2_000_000) < 0.034
    scores = (rng.normal(size=truth.size) + 2 * truth).astype(np.float32)
    assert auc(scores, truth) == pytest.approx(0.9214, abs=2e-3)  # Phi(2 / sqrt 2)
    with pytest.raises(ValueError, match="one score per pixel"):
        auc(scores, truth[1:])
    with pytest.raises(ValueError, match="a score is NaN"):
        auc(np.array([np.nan, 1]), np.array([0, 1]))


@pytest.mark.parametrize(
    ("accuracy", "sensitivity", "miou", "f1"),
    [(0.9835, 0.8671, 0.8112, 0.7801), (0.9804, 0.8155, 0.7822, 0.7378), (0.9835, 0.8620, 0.8106, 0.7791)],
)
def test_the_rows_of_lightvessels_table_hang_together(
    accuracy: float, sensitivity: float, miou: float, f1: float
) -> None:
    """From accuracy and F1 alone the paper's mIoU follows; so it is the mean over both classes, pooled."""
    total = 10_000_000
    iou = f1 / (2 - f1)
    errors = round((1 - accuracy) * total)
    tp = round(errors * iou / (1 - iou))
    fn = round(tp / sensitivity - tp)
    found = pooled_metrics(Counts(tp, errors - fn, fn, total - tp - errors))
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-5)
    assert found["f1"] == pytest.approx(f1, abs=1e-4)
    assert found["sensitivity"] == pytest.approx(sensitivity, abs=1e-4)
    assert found["miou"] == pytest.approx(miou, abs=2.5e-4)


def test_a_pool_is_one_large_picture() -> None:
    rng = np.random.default_rng(1)
    truths = [rng.random(shape) < 0.3 for shape in ((5, 6), (9, 4), (3, 5, 4))]
    scores = [np.clip(truth * 0.3 + rng.random(truth.shape), 0, 1) for truth in truths]
    pool = Pool()
    for truth, score in zip(truths, scores, strict=True):
        pool.add(score > 0.6, truth, score)
    truth, score = (np.concatenate([part.ravel() for part in parts]) for parts in (truths, scores))
    whole = Pool()
    whole.add((score > 0.6)[None], truth[None], score[None])
    assert pool.metrics() == whole.metrics()
    p = score > 0.6
    assert pool.metrics()["accuracy"] == pytest.approx((p == truth).mean())
    ious = [(a & b).sum() / (a | b).sum() for a, b in ((p, truth), (~p, ~truth))]
    assert pool.metrics()["miou"] == pytest.approx(np.mean(ious))
    pool.add(truths[0], truths[0])
    assert pool.metrics()["auc"] is None  # one picture came without scores
    with pytest.raises(ValueError, match="scores have shape"):
        pool.add(truths[0], truths[0], scores[1])
