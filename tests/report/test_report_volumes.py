"""What the report shows of volumes, of several sites, of pooled metrics and of thin structures."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from segdistill.metrics.cases import CaseResult, Structure
from segdistill.report.data import Report, StageReport
from segdistill.report.examples import Example
from segdistill.report.panels import (
    PREDICTION,
    REFERENCE,
    WINDOW,
    are_thin,
    choose_window,
    draw_case,
    thickness,
)
from tests.report.synthetic import card_of, example, full_report, page_of, result
from tests.report.test_report import Page


def volume(case: str, score: float, site: str, unit: str = "mm", **changes: object) -> CaseResult:
    metrics = dict.fromkeys(("dice", "iou", "precision", "recall", "accuracy"), score)
    extra = {"voe_emkd": 1 - score, "hd95": 40 * (1 - score)}
    made = result(case, score, "", site=site, depth=24, worst_slice=7, worst_dice=score / 2, unit=unit)
    return replace(made, metrics={**metrics, **extra}, **changes)


def slice_of(case: str, k: int) -> Example:
    return replace(example(case), slice=k, depth=24)


def report(unit: str = "mm") -> Report:
    def results(lift: float) -> list[CaseResult]:
        return [volume(f"Case{k}", 0.5 + lift + k / 20, "UCL" if k < 3 else "BIDMC", unit) for k in range(6)]

    shown = [slice_of(f"Case{k}", 12) for k in (0, 3, 5)]
    worst = [slice_of(f"Case{k}", 7) for k in (0, 1)]
    pooled = {"accuracy": 0.98354, "sensitivity": 0.8671, "f1": 0.7801, "miou": 0.8112, "auc": None}
    stages = [
        StageReport("teacher", "teacher", results=results(0.1), examples=shown, worst_slices=worst),
        StageReport(
            "student", "student", results=results(0), examples=shown, worst_slices=worst, pooled=pooled
        ),
    ]
    return Report("volumes", stages)


def row_of(html: str, case: str) -> list[str]:
    (found,) = re.findall(rf'<tr[^>]*><th scope="row">{case}</th>(.*?)</tr>', html)
    return re.findall(r"<td[^>]*>(.*?)</td>", found)


def test_a_row_per_volume_with_units() -> None:
    html = page_of(report())
    page = Page(html)
    heads = re.findall(r'<button type="button">(.*?)</button>', html)
    names = [re.sub(r"<small>.*?</small>", "", head) for head in heads]
    assert names[:5] == ["Case", "Site", "Slices", "Dice", "Dice"]
    assert {"VOE (EMKD)", "HD95, mm", "Worst slice", "Share, %"} <= set(names)
    cells = row_of(html, "Case1")
    assert cells[:4] == ["UCL", "24", "0.650", "0.550"]
    assert cells[names.index("HD95, mm") - 1] == "18.00"
    assert cells[names.index("Worst slice") - 1 :][:2] == ["8", "0.275"]
    assert "6 volumes, each measured as a whole" in page.text
    assert "HD95, px" in page_of(report("px"))
    assert "their distances are in pixels" in page_of(report("px"))
    assert "their distances are in pixels" not in page.text


def test_site_by_site() -> None:
    made = report()
    html = page_of(made)
    page = Page(html)
    assert "#sites" in page.links
    section = html[html.index('<section id="sites">') : html.index('<section id="distribution">')]
    assert "UCL<small>n = 3</small>" in section
    student = np.mean([r.metrics["dice"] for r in made.stages[1].results if r.site == "BIDMC"])
    assert f"<td>{student:.3f}<small>" in section
    assert "HD95, mm" in section
    whole = Page(page_of(full_report()))
    assert "#sites" not in whole.links
    assert "#slices" not in whole.links
    assert '<section id="sites">' not in page_of(full_report())


def test_worst_slices_beside_each_other() -> None:
    html = page_of(report())
    section = html[html.index('<section id="slices">') : html.index('<section id="table">')]
    assert section.count("<img") == 4
    assert "Case0 · slice 8 of 24" in section
    one = example("x")
    expected = 2 * (one.prediction & one.reference).sum() / (one.prediction.sum() + one.reference.sum())
    assert f"Dice of the slice {expected:.3f}" in section
    cases = html[html.index('<section id="cases">') : html.index('<section id="slices">')]
    assert "Case0 · UCL · slice 13 of 24" in cases
    assert "Dice of the volume 0.500; Dice of the slice" in cases


def test_pooled_numbers_are_named_as_such() -> None:
    page = Page(page_of(report()))
    assert "Pooled over all pixels of the set" in page.text
    assert "0.9835 0.8671 0.7801 0.8112 —" in page.text
    assert "Pooled" not in Page(page_of(full_report())).text
    card = card_of(report())
    assert "Pooled over all pixels of the set: Accuracy 0.9835, Sensitivity 0.8671" in card
    assert "| HD95, mm | " in card
    assert "site UCL (n = 3)" in card


def vessel(side: int = 300, width: int = 4) -> np.ndarray:
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).line([(20, 30), (150, 160), (280, 90)], fill=255, width=width)
    return np.asarray(mask) > 0


def test_what_is_thin() -> None:
    y, x = np.indices((300, 300))
    disc = (y - 150) ** 2 + (x - 150) ** 2 < 30**2
    assert thickness(vessel(width=4)) == pytest.approx(4, abs=1)
    assert thickness(disc) == pytest.approx(30, rel=0.2)
    assert are_thin([vessel(), vessel(width=3), disc])
    assert not are_thin([disc, disc, vessel()])
    assert not are_thin([np.zeros((9, 9), bool)])


def test_the_window_holds_the_errors() -> None:
    truth = vessel()
    wrong = truth.copy()
    wrong[100:, 200:] = False  # the right arm is missed
    top, left, bottom, right = choose_window(truth, wrong)
    assert (bottom - top, right - left) == (120, 120)
    missed = truth & ~wrong
    assert missed[top:bottom, left:right].sum() == missed.sum()
    top, left, bottom, right = choose_window(truth, truth)
    assert truth[top:bottom, left:right].any()


def test_thin_structures_are_drawn_large() -> None:
    truth = vessel()
    shifted = np.roll(truth, 6, axis=0)
    window = choose_window(truth, shifted)
    grey = np.full((300, 300), 90, np.uint8)
    drawn = draw_case(grey, truth, shifted, 420, window)
    assert drawn.shape == (420, 420, 3)
    scale = 420 / 120
    for colour, mask in ((REFERENCE, truth), (PREDICTION, shifted)):
        line = (drawn == colour).all(axis=2).sum()
        part = mask[window[0] : window[2], window[1] : window[3]]
        area = part.sum() * scale**2
        assert 0.1 * area < line < 0.75 * area  # outlines, with the vessel's inside left open
    whole = draw_case(grey, truth, shifted, 420, line=1, box=window)
    assert (whole == WINDOW).all(axis=2).sum() > 4 * 120 * 420 / 300 * 0.9
    made = Report(
        "vessels",
        [
            StageReport(
                "s", "student", results=[result("a", 0.5)], examples=[Example("a", grey, truth, shifted)]
            )
        ],
    )
    html = page_of(made)
    assert html.count("<img") == 2
    assert "the framed part is enlarged" in html
    assert '<div class="panels large"' in html
    assert "panels large" not in re.sub(r"<style>.*?</style>", "", page_of(full_report()), flags=re.S)


def test_environments_that_differ() -> None:
    def shown(*environments: dict[str, str]) -> str:
        made = replace(report(), environment={"torch": "2.13", "threads": "2"})
        stages = [replace(s, environment=e) for s, e in zip(made.stages, environments, strict=True)]
        return Page(page_of(replace(made, stages=stages))).text

    same = {"torch": "2.13", "threads": "2"}
    other = {"torch": "2.11", "threads": "2", "changed during training": "torch was 2.9, is 2.11"}
    assert "All on what is listed above." in shown(same, same)
    assert (
        "Network torch changed during training teacher 2.11 torch was 2.9, is 2.11 student 2.13 —"
        in shown(other, same)
    )
    assert "Network torch changed during training teacher 2.11" in shown(other, other)
    assert "What the networks were trained on" not in shown({}, {})


@pytest.mark.parametrize(
    ("missed", "sentence"),
    [
        (None, "a structure that was missed altogether counts with the image&#39;s diagonal"),
        (
            Structure({"dice": 0.0}, 0.1, 0.0),
            "of several structures one that was missed altogether has none and is",
        ),
        (
            Structure({"dice": 0.0, "hd95": 90.0}, 0.1, 0.0),
            "a structure that was missed altogether counts with",
        ),
        (Structure({"dice": 0.5, "hd95": 9.0}, 0.1, 0.1), "of several structures none was missed altogether"),
    ],
)
def test_the_note_on_distances_follows_the_option(missed: Structure | None, sentence: str) -> None:
    known = Structure({"dice": 0.9, "hd95": 1.0}, 0.1, 0.1)
    structures = {} if missed is None else {"head": known, "body": missed}
    rows = [volume(f"Case{k}", 0.5 + k / 20, "UCL", structures=structures) for k in range(6)]
    page = page_of(Report("classes", [StageReport("student", "student", results=rows)]))
    assert sentence.replace("&#39;", "'") in page.replace("&#39;", "'")
