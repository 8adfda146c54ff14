from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from segdistill.data.case import Case
from segdistill.errors import InputError
from segdistill.imaging.intensity import CT
from segdistill.imaging.picture import Picture
from segdistill.metrics.base import METRICS
from segdistill.metrics.cases import (
    CaseResult,
    Scored,
    evaluate_cases,
    read_metrics_csv,
    slice_dice,
    worst_slice,
    write_metrics_csv,
)
from segdistill.metrics.pooled import Pool
from segdistill.report.examples import choose_slices, predict_shown, read_shown
from segdistill.stats.summary import summarise
from tests.imaging.volumes import ORGAN, blocks, organ, write_itk

dice, recall, rmse_map, hd95, voe, voe_emkd, voe_printed = (
    METRICS.create(name) for name in ("dice", "recall", "rmse_map", "hd95", "voe", "voe_emkd", "voe_printed")
)
EXTRA = ("voe", "voe_emkd", "voe_printed", "sensitivity", "hd95", "msd", "rmse_boundary")
MASKS = st.tuples(*[st.integers(1, 4)] * 3).flatmap(lambda s: st.tuples(arrays(bool, s), arrays(bool, s)))


@settings(deadline=None)
@given(MASKS)
def test_overlap_errors_in_their_three_forms(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, r = pair
    sizes, both = p.sum() + r.sum(), (p & r).sum()
    if not sizes:
        assert (voe(p, r), voe_emkd(p, r), voe_printed(p, r)) == (0, 0, 0.5)
        return
    assert voe(p, r) == pytest.approx(1 - both / (p | r).sum())
    assert voe_emkd(p, r) == pytest.approx(2 * (p.sum() - both) / sizes)
    assert voe_printed(p, r) == pytest.approx(1 - both / sizes)
    assert 0 <= voe_emkd(p, r) <= 2 * (1 - dice(p, r)) + 1e-12
    by_slice = [dice(a, b) for a, b in zip(p, r, strict=True)]
    assert slice_dice(p, r) == pytest.approx(
        [s if a.any() or b.any() else np.nan for s, a, b in zip(by_slice, p, r, strict=True)], nan_ok=True
    )
    assert slice_dice(p, r)[worst_slice(p, r)] == np.nanmin(slice_dice(p, r))


def cases(root: Path) -> list[Case]:
    return [
        Case(
            "known",
            write_itk(root / "a.mhd", blocks()),
            (write_itk(root / "am.mhd", organ()),),
            classes=ORGAN,
        ),
        Case(
            "unknown",
            write_itk(root / "b.mhd", blocks(), spacing=(1.0, 1.0, 1.0)),
            (write_itk(root / "bm.mhd", organ(), spacing=(1.0, 1.0, 1.0)),),
        ),
    ]


def shifted(truth: np.ndarray) -> np.ndarray:
    return np.roll(truth, 1, axis=2)


def replay(teacher_targets: np.ndarray):  # type: ignore[no-untyped-def]
    """A predictor that gives one slice after the other."""
    source = iter(teacher_targets)
    return lambda picture: next(source)


def test_a_volume_is_measured_as_a_whole(tmp_path: Path) -> None:
    known, unknown = cases(tmp_path)
    p, r = shifted(organ()) > 0, organ() > 0
    pool = Pool()
    (result,) = evaluate_cases([known], replay(p), extra=EXTRA, pool=pool)
    assert (result.depth, result.height, result.width, result.unit) == (5, 12, 10, "mm")
    assert result.metrics["dice"] == dice(p, r)
    assert result.metrics["sensitivity"] == recall(p, r)
    assert result.metrics["voe_emkd"] == voe_emkd(p, r)
    assert result.metrics["hd95"] == hd95(p, r, spacing=(3.0, 0.6, 0.5))
    assert result.metrics["hd95"] == pytest.approx(0.5)
    assert pool.metrics()["f1"] == pytest.approx(dice(p, r))
    (other,) = evaluate_cases([unknown], replay(p), extra=EXTRA)
    assert (other.unit, other.metrics["hd95"]) == ("px", 1.0)
    summary = summarise([result, other]).all
    assert (summary["hd95_mm"].n, summary["hd95_px"].n, summary["dice"].n) == (1, 1, 2)
    assert summary["hd95_mm"].mean == pytest.approx(0.5)
    (missed,) = evaluate_cases([known], replay(np.zeros_like(p)), extra=EXTRA)
    assert missed.metrics["hd95"] == pytest.approx(np.linalg.norm([5 * 3.0, 12 * 0.6, 10 * 0.5]))
    assert missed.worst_slice in (1, 2, 3)


def test_slices_come_in_order_windowed_and_with_their_spacing(tmp_path: Path) -> None:
    seen: list[Picture] = []

    def predict(picture: Picture) -> np.ndarray:
        seen.append(picture)
        return picture.pixels > 128

    evaluate_cases(cases(tmp_path)[:1], predict, intensity=CT)
    assert np.array_equal(np.stack([picture.pixels for picture in seen]), CT(blocks()))
    assert seen[0].spacing is not None
    assert (seen[0].spacing.row_mm, seen[0].spacing.column_mm) == pytest.approx((0.6, 0.5))


def test_scores_give_rmse_and_auc(tmp_path: Path) -> None:
    known = cases(tmp_path)[0]
    score = np.random.default_rng(0).random((5, 12, 10)).astype(np.float32)
    pool = Pool()
    teacher_targets = [Scored(part > 0.5, part) for part in score]
    (result,) = evaluate_cases([known], replay(teacher_targets), extra=["rmse_map"], pool=pool)  # type: ignore[arg-type]
    assert result.metrics["rmse_map"] == pytest.approx(np.sqrt(((score - organ()) ** 2).mean()), rel=1e-6)
    assert result.metrics["rmse_map"] == rmse_map(organ(), organ(), probability=score)
    assert 0 < pool.metrics()["auc"] < 1  # type: ignore[operator]
    with pytest.raises(InputError, match="needs probabilities"):
        evaluate_cases([known], replay(score > 0.5), extra=["rmse_map"])
    with pytest.raises(InputError, match="unknown metric 'hd59': did you mean 'hd95'"):
        evaluate_cases([known], replay(score > 0.5), extra=["hd59"])


def test_tables_with_and_without_extras(tmp_path: Path) -> None:
    p = shifted(organ()) > 0
    found = evaluate_cases(cases(tmp_path), replay(np.concatenate([p, p])), extra=EXTRA)
    write_metrics_csv(found, tmp_path / "new.csv")
    assert list(read_metrics_csv(tmp_path / "new.csv")) == list(found)
    old = [CaseResult("a", "a", metrics=dict.fromkeys(METRICS.always(), 0.1), height=3, width=4)]
    write_metrics_csv(old, tmp_path / "old.csv")
    header = (tmp_path / "old.csv").read_text().splitlines()[0]
    assert header == (
        "case,group,label,site,split,dice,iou,precision,recall,accuracy,reference_area,predicted_area,height,width"
    )
    assert list(read_metrics_csv(tmp_path / "old.csv")) == old


def test_pictures_have_distances_in_two_dimensions(tmp_path: Path) -> None:
    Image.fromarray(organ()[2] * 255).save(tmp_path / "a.png")
    case = Case("a", tmp_path / "a.png", (tmp_path / "a.png",), spacing_mm=(2.0, 3.0))
    moved = np.roll(organ()[2], 1, axis=0)
    (result,) = evaluate_cases([case], lambda picture: moved, extra=["hd95"])
    assert (result.metrics["hd95"], result.unit, result.depth, result.worst_slice) == (2.0, "mm", 1, -1)
    assert result.metrics["dice"] == dice(moved > 0, organ()[2] > 0)


def test_examples_show_the_worst_slice_or_the_fullest(tmp_path: Path) -> None:
    known = cases(tmp_path)[0]
    p = organ() > 0
    p[3, 3:5] = False
    (result,) = evaluate_cases([known], replay(p))
    assert (result.worst_slice, result.worst_dice) == (3, dice(p[3], organ()[3] > 0))
    assert choose_slices([result]) == {"known": 3}
    (worst,) = predict_shown(read_shown([known], ["known"], CT, choose_slices([result])), lambda _: p[3])
    assert (worst.slice, worst.depth) == (3, 5)
    assert np.array_equal(worst.pixels, CT(blocks())[3])
    assert np.array_equal(worst.reference, organ()[3] > 0)
    larger = organ()
    larger[2, 1, 1] = 1
    write_itk(tmp_path / "am.mhd", larger)
    (full,) = predict_shown(read_shown([known], ["known"], CT), lambda _: p[2])
    assert full.slice == 2
    assert np.array_equal(full.prediction, p[2])


def test_which_slices_are_worst() -> None:
    def one(case: str, worst: float, whole: float, k: int = 1) -> CaseResult:
        return CaseResult(case, case, metrics={"dice": whole}, depth=9, worst_slice=k, worst_dice=worst)

    found = [one("a", 0.5, 0.9), one("b", 0.0, 0.8), one("c", 0.0, 0.4), one("d", 1.0, 1.0, -1)]
    assert list(choose_slices(found, 2)) == ["c", "b"]
    assert list(choose_slices(found)) == ["c", "b", "a"]  # d has no slice with anything
