"""Every metric knows its direction: better predictions help, worse ones hurt. One from outside works as ours do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import Case
from segdistill.errors import InputError
from segdistill.metrics.base import METRICS, Pair, register_metric
from segdistill.metrics.cases import (
    Results,
    Scored,
    columns_of,
    evaluate_cases,
    find_column,
    read_metrics_csv,
    write_metrics_csv,
)
from segdistill.metrics.classification import LOCATION, SCORES, weighted_scores
from segdistill.metrics.pooled import POOLED, Pool
from segdistill.stats.comparison import Training, Variant, compare_variants
from segdistill.stats.summary import summarise


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Squares of several sizes and places on 40 x 40 pixels."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    made = []
    for k in range(12):
        mask = np.zeros((40, 40), np.uint8)
        top, left, size = rng.integers(10, 15, 3)
        mask[top : top + size, left : left + size] = 255
        Image.fromarray(mask).save(folder / f"{k}.png")
        made.append(Case(f"c{k}", folder / f"{k}.png", (folder / f"{k}.png",)))
    return made


def predictions(cases: list[Case], shift: int, seed: int, extra: list[str]) -> Results:
    """The references, moved by `shift` pixels, one more or less by chance, with probabilities that are as sure."""
    rng = np.random.default_rng(seed)

    def predict(picture: object) -> Scored:
        moved = np.roll(picture.pixels, (shift + rng.integers(0, 2), shift), (0, 1))  # type: ignore[attr-defined]
        return Scored(moved > 0, np.where(moved > 0, 0.9, 0.1).astype(np.float32))

    return evaluate_cases(cases, predict, extra=extra)


def variant(name: str, cases: list[Case], shift: int, extra: list[str]) -> Variant:
    rows = [predictions(cases, shift, 100 * shift + seed, extra) for seed in range(3)]
    return Variant(name, tuple(Training(name, found, seed, source=name) for seed, found in enumerate(rows)))


@pytest.mark.slow
def test_better_predictions_help_and_worse_ones_hurt_in_every_metric(cases: list[Case]) -> None:
    names = METRICS.names() if hasattr(METRICS, "names") else list(METRICS)
    assert len(names) >= 15
    of_lesions = ["missed", "lesions_found", "lesions_matched", "false_positive_components"]
    good, moved = (variant(n, cases, shift, names) for n, shift in (("good", 1), ("bad", 5)))
    beside = variant("bad", cases, 16, of_lesions)
    for name in names:
        bad = beside if name in of_lesions else moved  # a lesion is found where one pixel is
        (better,), (worse,) = compare_variants([(good, bad)], name), compare_variants([(bad, good)], name)
        assert (better.outcome, worse.outcome) == ("helps", "hurts"), f"{name}: {better}"
        assert better.label.endswith(METRICS.create(name).label)


def test_metrics_of_a_set_know_their_direction() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((60, 60)) < 0.4
    found = []
    for noise in (0.2, 0.6):
        score = np.clip(0.5 + 0.4 * (2 * truth - 1) + rng.normal(0, noise, truth.shape), 0, 1)
        pool = Pool()
        pool.add(score > 0.5, truth, score)
        found.append(pool.metrics())
    for name, metric in POOLED.items():
        assert (found[0][name] > found[1][name]) == metric.higher_is_better  # type: ignore[operator]
    label = rng.integers(0, 2, 400)
    by_noise = []
    for noise in (0.2, 0.9):
        first = np.clip(0.5 + 0.4 * (1 - 2 * label) + rng.normal(0, noise, 400), 0, 1)
        by_noise.append(weighted_scores(label, np.stack([first, 1 - first], 1), np.ones((1, 400))))
    for name, metric in SCORES.items():
        assert (by_noise[0][name] > by_noise[1][name]) == metric.higher_is_better
    assert all(metric.higher_is_better for metric in LOCATION.values())  # overlaps and a share


def test_a_metric_without_a_direction_is_refused() -> None:
    with pytest.raises(InputError, match="metric 'size' has no direction: register it with higher_is_better"):
        register_metric("size", label="Size")(lambda pair: 0.0)
    with pytest.raises(InputError, match="metric 'size' has no option 'smaller_is_better'"):
        register_metric("size", higher_is_better=True, smaller_is_better=False)(lambda pair: 0.0)
    with pytest.raises(InputError, match=r"metric 'dice' is registered by segdistill\.metrics\.overlap"):
        register_metric("dice", higher_is_better=True)(lambda pair: 0.0)
    assert "size" not in METRICS


@pytest.fixture
def volume_error() -> Iterator[str]:
    """A metric as a user would write it."""

    @register_metric("volume_error", higher_is_better=False, label="Volume error", unit="pixels", digits=0)
    def volume_error(pair: Pair) -> float:
        return abs(int(pair.prediction.sum()) - int(pair.reference.sum()))

    yield "volume_error"
    METRICS._parts.pop("volume_error")


def test_a_metric_from_outside_works_everywhere(cases: list[Case], tmp_path: Path, volume_error: str) -> None:
    def grown(pixels: int) -> Results:
        def predict(picture: object) -> np.ndarray:
            mask = picture.pixels > 0  # type: ignore[attr-defined]
            mask[0, :pixels] = True
            return mask

        return evaluate_cases(cases, predict, extra=[volume_error, "hd95"])

    found = grown(7)
    assert {r.metrics[volume_error] for r in found} == {7.0}
    write_metrics_csv(found, tmp_path / "metrics.csv")
    assert list(read_metrics_csv(tmp_path / "metrics.csv")) == list(found)
    assert [c.head for c in columns_of(found)][5:] == ["Volume error, pixels", "HD95, px"]
    assert summarise(found).all[volume_error].mean == 7.0
    assert (find_column(volume_error).metric.digits, find_column("hd95_px").unit) == (0, "px")
    small, large = (
        Variant(str(n), tuple(Training(str(n), grown(n + s), s, source=str(n)) for s in range(3)))
        for n in (3, 9)
    )
    (verdict,) = compare_variants([(small, large)], volume_error)
    assert (verdict.outcome, verdict.difference.mean, verdict.label) == ("helps", -6.0, "pixels Volume error")


def test_a_metric_must_give_a_number(cases: list[Case], volume_error: str) -> None:
    @register_metric("nothing", higher_is_better=True)
    def nothing(pair: Pair) -> float:
        return float("nan")

    try:
        with pytest.raises(InputError, match="case c0: metric nothing is nan"):
            evaluate_cases(cases, lambda picture: picture.pixels, extra=["nothing"])
    finally:
        METRICS._parts.pop("nothing")


def test_metrics_of_a_plugin_that_is_not_loaded_are_read_but_not_judged(
    cases: list[Case], tmp_path: Path
) -> None:
    rows = [predictions(cases, 1, 0, [])[k] for k in range(12)]
    for row in rows:
        row.metrics["unloaded"] = 1.0
    write_metrics_csv(rows, tmp_path / "metrics.csv")
    again = read_metrics_csv(tmp_path / "metrics.csv")
    assert again[0].metrics["unloaded"] == 1.0
    one = Variant("a", (Training("a", again, source="a"),))
    with pytest.raises(InputError, match="unknown metric 'unloaded'"):
        compare_variants([(one, one)], "unloaded")
