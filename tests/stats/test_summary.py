from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import Case, reference_mask
from segdistill.errors import InputError
from segdistill.imaging.read import Picture, read_picture
from segdistill.metrics.base import METRICS
from segdistill.metrics.cases import (
    CaseResult,
    Results,
    evaluate_cases,
    measure_cases,
    read_metrics_csv,
    write_metrics_csv,
)
from segdistill.records import Interval
from segdistill.stats.summary import summarise
from tests.stats.made_results import result, results


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """A bright square with its mask, two normal images (one has a mask), a case without a reference."""
    square = np.zeros((24, 32), np.uint8)
    square[4:14, 6:18] = 255
    dim = np.full((24, 32), 20, np.uint8)
    for name, pixels in (("a", square), ("a_mask", square), ("n", dim), ("n_mask", dim * 0)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    image, mask = tmp_path / "a.png", tmp_path / "a_mask.png"
    return [
        Case("a", image, (mask,), group="p1", label="benign", split="test"),
        Case("n", tmp_path / "n.png", (tmp_path / "n_mask.png",), label="normal", split="test"),
        Case("m", tmp_path / "n.png", label="normal", split="test"),
        Case("u", image, split="test"),
    ]


def bright(picture: Picture) -> np.ndarray:
    pixels = picture.pixels if picture.pixels.ndim == 2 else picture.pixels[..., 0]
    mask = (pixels > 127).astype(np.uint8)
    mask[:, :12] = 0
    return mask


def test_evaluate_cases(cases: list[Case]) -> None:
    found = Results()
    assert list(measure_cases(cases, bright, found)) == [1, 2, 3, 4]
    assert found.skipped == ["u"]
    assert [r.case for r in found] == ["a", "n", "m"]
    first = found[0]
    assert (first.group, first.label, first.split, first.height, first.width) == (
        "p1",
        "benign",
        "test",
        24,
        32,
    )
    assert first.metrics == pytest.approx(
        {"dice": 2 / 3, "iou": 0.5, "precision": 1, "recall": 0.5, "accuracy": 1 - 60 / (24 * 32)}
    )
    assert first.reference_area == pytest.approx(120 / (24 * 32))
    assert [r.normal for r in found] == [False, True, True]
    assert found[1].group == "n"


def test_published_images() -> None:
    if not os.environ.get("SEGDISTILL_DATA"):
        pytest.skip("SEGDISTILL_DATA is not set: the BUSI images are not here")
    folder = Path(os.environ["SEGDISTILL_DATA"]) / "busi" / "Dataset_BUSI_with_GT"
    if not folder.is_dir():
        pytest.skip("SEGDISTILL_DATA holds no busi/Dataset_BUSI_with_GT")
    cases = [
        Case(name, folder / label / f"{name}.png", (folder / label / f"{name}_mask.png",), label=label)
        for label in ("benign", "malignant", "normal")
        for name in (f"{label} (1)", f"{label} (2)")
    ]
    masks = {case.image: reference_mask(case, read_picture(case.image).pixels.shape[:2]) for case in cases}
    perfect = summarise(evaluate_cases(cases, lambda picture: masks[picture.source]))
    assert perfect.all["dice"] == Interval(1.0, 1.0, 1.0, 4)
    assert perfect.normal["false_positive_rate"].mean == 0
    assert perfect.normal["area"] == Interval(0.0, None, None, 2)


def test_a_prediction_of_another_size_is_an_error(cases: list[Case]) -> None:
    with pytest.raises(ValueError, match="case a"):
        evaluate_cases(cases, lambda picture: np.zeros((3, 3)))


def test_a_missing_image_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png"):
        evaluate_cases([Case("a", tmp_path / "gone.png", label="normal")], bright)


def test_csv_round_trip_is_exact(tmp_path: Path) -> None:
    rows = [*results(7), result('odd, "name" ü', 1 / 3, site="X; Y")]
    write_metrics_csv(rows, tmp_path / "metrics.csv")
    assert list(read_metrics_csv(tmp_path / "metrics.csv")) == rows
    before = (tmp_path / "metrics.csv").read_bytes()
    write_metrics_csv(rows, tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_bad_csv_names_row_and_column(tmp_path: Path) -> None:
    target = tmp_path / "metrics.csv"
    write_metrics_csv([result("a", 0.5)], target)
    target.write_text(target.read_text().replace("0.5", "half", 1))
    with pytest.raises(InputError, match="row 2, column dice: 'half'"):
        read_metrics_csv(target)
    target.write_text("case,dice\na,0.5\n")
    with pytest.raises(InputError, match="'group' is missing"):
        read_metrics_csv(target)
    target.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"not a metrics\.csv"):
        read_metrics_csv(target)


def test_a_case_that_fails_is_noted_and_the_others_are_measured(cases: list[Case], tmp_path: Path) -> None:
    found = Results()
    gone = Case("gone", tmp_path / "gone.png", label="normal")
    assert list(measure_cases([gone, *cases], bright, found, keep_going=True)) == [1, 2, 3, 4, 5]
    assert [r.case for r in found] == ["a", "n", "m"]
    assert list(found.failed) == ["gone"]


def test_summarise() -> None:
    rows = results(3)
    summary = summarise(rows)
    assert list(summary.groups()) == ["all", "benign", "malignant"]
    lesions = [r for r in rows if r.label != "normal"]
    assert summary.all["dice"].mean == pytest.approx(np.mean([r.metrics["dice"] for r in lesions]))
    assert summary.all["dice"].n == 12
    assert summary.classes["benign"]["iou"].n + summary.classes["malignant"]["iou"].n == 12
    assert list(summary.all) == METRICS.always()
    assert summary.normal["false_positive_rate"].mean == 0.5
    assert summary.normal["area"].mean == pytest.approx(0.05)
    assert summary == summarise(rows)
    assert summary.all["dice"].low != summarise(rows, seed=1).all["dice"].low


def test_sites_are_summed_up_apart() -> None:
    rows = [result(f"c{k}", k / 10, site="UCL" if k % 2 else "BMC") for k in range(6)]
    summary = summarise([*rows, result("n", 0.0, "normal", site="HK")])
    assert list(summary.sites) == ["BMC", "UCL"]
    assert summary.sites["UCL"]["dice"].mean == pytest.approx((0.1 + 0.3 + 0.5) / 3)
    assert summary.sites["BMC"]["dice"].n == 3
    one = summarise([result("a", 0.5, site="UCL"), result("b", 0.5)])
    assert one.sites == {}  # of a single site there is nothing to compare
    odd = summarise([result("a", 0.5, "all"), result("b", 0.5, "normal site", reference_area=0.1)])
    assert list(odd.classes) == ["all", "normal site"]  # labels are no keys of anything else


def test_summaries_hold_no_nan() -> None:
    for rows in ([], [result("a", 0.5)], [result("n", 0.0, "normal")], [result("a", 0.5, "all")]):
        json.dumps(asdict(summarise(rows)), allow_nan=False)
    assert summarise([]).all["dice"] == Interval(None, None, None, 0)
    assert summarise([result("a", 0.5)]).classes["benign"]["dice"].low is None


def test_an_empty_reference_is_normal_whatever_its_label() -> None:
    assert CaseResult("a", "a", "benign").normal
    assert summarise([result("a", 0.5, reference_area=0.0)]).classes == {}
