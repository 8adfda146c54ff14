"""Boxes against boxes: worked out by hand, and against SciPy's components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from segdistill.data.case import Case
from segdistill.metrics.boxes import mean_box_overlap, score_boxes
from segdistill.metrics.cases import evaluate_cases, read_metrics_csv, write_metrics_csv
from segdistill.stats.summary import summarise

EXTRA = ("box_iou", "box_dice", "voe")


def written(path: Path, array: np.ndarray) -> Path:
    Image.fromarray((array * 255).astype(np.uint8)).save(path)
    return path


def reference() -> np.ndarray:
    """A cross of 4 x 4 pixels: its box is (2, 2, 6, 6), 16 pixels, of which it fills 8."""
    mask = np.zeros((10, 10), bool)
    mask[3, 2:6] = mask[2:6, 4] = True
    mask[5, 4] = True
    return mask


def prediction() -> np.ndarray:
    """A diagonal from (4, 3) to (7, 6), box (4, 3, 8, 7), 16 pixels; and a lone pixel, which does not count."""
    mask = np.zeros((10, 10), bool)
    mask[range(3, 7), range(4, 8)] = True
    mask[9, 0] = True
    return mask


@pytest.mark.parametrize("located_by", ["mask", "box"])
def test_a_picture_by_hand(tmp_path: Path, located_by: str) -> None:
    """Both boxes have 16 pixels and share 2 x 3: IoU 6 / 26, Dice 12 / 32, however the place is stated."""
    image = written(tmp_path / "a.png", np.eye(10))
    case = (
        Case("a", image, (written(tmp_path / "m.png", reference()),))
        if located_by == "mask"
        else Case("a", image, box=(2, 2, 6, 6))
    )
    results = evaluate_cases([case], lambda _: prediction(), extra=EXTRA)
    assert results[0].metrics["box_iou"] == pytest.approx(6 / 26)
    assert results[0].metrics["box_dice"] == pytest.approx(12 / 32)
    write_metrics_csv(results, tmp_path / "metrics.csv")
    assert "box_iou,box_dice" in (tmp_path / "metrics.csv").read_text().splitlines()[0]
    kept = read_metrics_csv(tmp_path / "metrics.csv")
    assert kept[0].metrics == results[0].metrics
    assert summarise(kept).all["box_iou"].mean == pytest.approx(6 / 26)
    (missed,) = evaluate_cases([case], lambda _: np.zeros((10, 10)), extra=["box_iou"])
    assert missed.metrics["box_iou"] == 0
    assert "box_dice" not in missed.metrics


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    case = Case("a", written(tmp_path / "a.png", np.eye(10)), box=(2, 2, 6, 6))
    (result,) = evaluate_cases([case], lambda _: prediction())
    assert not {"box_iou", "box_dice"} & set(result.metrics)


def test_slices_without_a_box_do_not_count() -> None:
    empty = np.zeros((10, 10), bool)
    predicted = np.stack([reference(), empty, prediction(), empty])
    truth = np.stack([reference(), reference(), empty, empty])
    assert mean_box_overlap(predicted, truth) == pytest.approx((1 / 3, 1 / 3))
    assert mean_box_overlap(predicted[3:], truth[3:]) == (1, 1)


def test_against_scipys_components_and_filled_boxes() -> None:
    rng = np.random.default_rng(3)
    seen = 0
    for _ in range(60):
        p, r = rng.random((12, 15)) < 0.16, rng.random((12, 15)) < 0.1
        labels, count = ndimage.label(p, np.ones((3, 3)))
        sizes = ndimage.sum_labels(p, labels, range(1, count + 1))
        if not r.any() or not count or np.count_nonzero(sizes == sizes.max()) > 1:
            continue
        seen += 1
        filled = []
        for mask in (labels == sizes.argmax() + 1, r):
            box = np.zeros_like(p)
            box[ndimage.find_objects(mask.astype(int))[0]] = True
            filled.append(box)
        both, either = (filled[0] & filled[1]).sum(), (filled[0] | filled[1]).sum()
        found = score_boxes(p, r)
        assert found.iou == pytest.approx(both / either)
        assert found.dice == pytest.approx(2 * both / (filled[0].sum() + filled[1].sum()))
    assert seen > 20
