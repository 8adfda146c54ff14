"""Reports of many seeds: a row per method that says what a reader asks, every training folded away."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from segdistill.records import Cost
from segdistill.report.context import make_context
from segdistill.report.data import Report, StageReport
from segdistill.report.page import PICTURED, pictured_stages
from segdistill.report.seeds import over_seeds
from segdistill.stats.bootstrap import bootstrap_mean
from segdistill.stats.text import number, signed
from tests.report.synthetic import curves, example, page_of, result
from tests.report.test_report import Page
from tests.report.test_report_verdict import ALONE, AT, CALIBRATION, CWD, KD, LONGER, TEACHER

STUDENTS = [replace(s, teachers=["teacher"]) for s in (*KD, *AT, *CWD)]
BY_SEED = sorted([*ALONE, *LONGER, *STUDENTS], key=lambda s: s.name[-1])
MATRIX = Report("m", [*TEACHER, *BY_SEED], student="kd@0", margin=0.05)


class Rows(HTMLParser):
    """Rows of all tables, each with whether it is folded away and in which section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.folds, self.section, self.inside = 0, "header", False
        self.rows: list[tuple[str, bool, list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.folds += tag == "details"
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag == "tr":
            self.rows.append((self.section, self.folds > 0, []))
        if tag in ("th", "td"):
            self.rows[-1][2].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.folds -= tag == "details"
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self.inside:
            cells = self.rows[-1][2]
            cells[-1] = f"{cells[-1]} {data}".strip()


def scores(stages: list[StageReport]) -> np.ndarray:
    return np.array([[r.metrics["dice"] for r in s.results] for s in stages])


def test_a_method_is_the_mean_of_its_trainings_case_by_case() -> None:
    stage = next(s for s in over_seeds(MATRIX) if s.name == "kd")
    cases = scores(KD).mean(0)
    np.testing.assert_allclose([r.metrics["dice"] for r in stage.results], cases)
    assert stage.summary is not None
    dice = stage.summary.all["dice"]
    assert dice.n == 40
    # drawing groups with all their trainings is drawing the cases' means
    expected = bootstrap_mean(cases.tolist(), [r.group for r in KD[0].results])
    assert [dice.mean, dice.low, dice.high] == pytest.approx([expected.mean, expected.low, expected.high])
    assert stage.training.seconds == 60.0
    headline = make_context(MATRIX).headline
    assert headline is not None
    assert headline.name == "kd"


def test_false_alarms_are_counted_over_all_trainings() -> None:
    """Two normal images, three trainings: marked in 1 and in 3 of them, so 4 of 6; a mean area would say 2 of 2."""
    marked = {"n0": (0.1, 0.0, 0.0), "n1": (0.1, 0.2, 0.3)}
    stages = [
        StageReport(
            f"kd@{k}",
            "student",
            variant="kd",
            seed=k,
            results=[result(case, 0, "normal", predicted_area=areas[k]) for case, areas in marked.items()],
        )
        for k in range(3)
    ]
    (stage,) = over_seeds(Report("r", stages))
    assert stage.summary is not None
    rate = stage.summary.normal["false_positive_rate"]
    assert (rate.mean, rate.n) == (pytest.approx(4 / 6), 2)


def test_reports_without_seeds_are_left_alone() -> None:
    plain = Report(
        "r", [*TEACHER, replace(KD[0], name="kd", variant=""), replace(ALONE[0], name="baseline", variant="")]
    )
    context = make_context(plain)
    assert context.variants is context.trainings
    html = page_of(plain)
    assert "Spread" not in html.partition("</header>")[0]
    assert "trainings</summary>" not in html


def test_the_first_table_answers_method_by_method() -> None:
    header = [row for section, _, row in Rows(page_of(MATRIX)).rows if section == "header"]
    heads, *rows = header
    names = [row[0].split()[0] for row in rows]
    assert names == ["teacher", "baseline", "baseline_equal_time", "kd", "attention", "cwd"]
    assert heads[3] == "Difference to baseline at equal steps"
    assert heads[6] == "At equal wall-clock to baseline_equal_time"
    found = {(c.variant, c.kind): c for c in make_context(MATRIX).verdicts}
    for stages, name, verdict in (
        (KD, "kd", "helps"),
        (AT, "attention", "hurts"),
        (CWD, "cwd", "no evidence"),
    ):
        row = rows[names.index(name)]
        means = scores(stages).mean(1)
        gap = (scores(stages).mean(0) - scores(ALONE).mean(0)).mean()
        longer = (scores(stages).mean(0) - scores(LONGER).mean(0)).mean()
        assert row[1].split()[0] == number(means.mean())
        assert row[2] == f"{number(means.std(ddof=1))} 3 seeds"
        one = found[name, "equal steps"]
        assert row[3] == f"{signed(gap)} {signed(one.difference.low)} to {signed(one.difference.high)}"
        assert row[4] == ("< 0.001" if (one.corrected or 0) < 0.001 else number(one.corrected))
        assert row[5].startswith(verdict)
        verdict, _, more = found[name, "equal time"].words.partition(", ")
        assert row[6] == f"{verdict} {signed(longer)}{', ' * bool(more)}{more}"
    assert rows[names.index("baseline")][3:] == ["—"] * 4
    assert rows[0][2] == f"{number(None)} 1 seed"


@pytest.mark.slow
def test_every_training_is_folded_away() -> None:
    shown = [
        replace(s, curves=curves(), calibration=CALIBRATION, examples=[example("c0")]) for s in MATRIX.stages
    ]
    html = page_of(replace(MATRIX, stages=shown))
    Page(html)  # tags nest
    found = Rows(html).rows
    open_rows = [(section, row[0]) for section, folded, row in found if not folded and row]
    few = {"trust"}  # four networks at most, as in every report
    assert not [place for place in open_rows if "@" in place[1] and place[0] not in few]
    for section in ("results", "cost"):
        folded = [row[0] for where, is_folded, row in found if where == section and is_folded]
        assert {"kd@0", "kd@1", "kd@2", "baseline@2"} <= set(folded)
    assert re.search(r"<summary>kd: 3 trainings</summary>", html)
    assert "On 40 test cases, “kd”" in Page(html).text
    assert "All numbers are means over 3 seeds." in Page(html).text


def test_several_students_name_their_own_baseline() -> None:
    others = [
        replace(s, name=f"wide-{s.name}", variant=f"wide-{s.variant}", cost=Cost(9_000_000))
        for s in (*ALONE, *KD)
    ]
    report = Report("m", [*TEACHER, *ALONE, *KD, *others])
    heads, *rows = [row for section, _, row in Rows(page_of(report)).rows if section == "header"]
    assert heads[3] == "Difference to the baseline at equal steps"
    told = {row[0].split()[0]: row[3] for row in rows}
    assert told["kd"].endswith("to baseline")
    assert told["wide-kd"].endswith("to wide-baseline")


def test_a_method_of_which_a_seed_failed_and_one_without_results() -> None:
    report = Report("m", [*TEACHER, *ALONE, *KD[:2], CWD[0], *(replace(s, results=[]) for s in AT)])
    rows = {row[0].split()[0]: row for where, _, row in Rows(page_of(report)).rows if where == "header"}
    assert rows["kd"][2].endswith("2 seeds")
    assert rows["kd"][5] == "no evidence shows nothing below 3 seeds"
    assert rows["cwd"][2] == "— 1 seed"
    assert rows["attention"][1:3] == ["not measured", "—"]


def test_a_stage_without_a_seed_keeps_its_name() -> None:
    """As in lanet/repeated, whose base trains the same network once."""
    report = Report("m", [*TEACHER, replace(KD[0], name="kd", variant=""), *KD], student="kd@0")
    assert [s.name for s in over_seeds(report)] == ["teacher", "kd", "kd over seeds"]
    rows = [row for where, _, row in Rows(page_of(report)).rows if where == "header"]
    assert [row[2].split(" ", 1)[1] for row in rows[1:]] == ["1 seed", "1 seed", "3 seeds"]


def test_calibration_of_a_method_is_the_mean_over_its_trainings() -> None:
    def measured(ece: float) -> dict[str, object]:
        return {**CALIBRATION, "all": {**CALIBRATION["all"], "ece": ece}}  # type: ignore[dict-item]

    stages = [replace(s, calibration=measured(ece)) for s, ece in zip(KD, (0.01, 0.02, 0.06), strict=True)]
    rows = [
        row
        for where, folded, row in Rows(page_of(Report("m", stages))).rows
        if where == "trust" and not folded
    ]
    assert ["kd", "0.0300", "0.0200", "—", "—"] in rows


def test_pictures_of_one_training_of_few_methods() -> None:
    many = [replace(s, name=f"m{k}@{s.name[-1]}", variant=f"m{k}") for k in range(12) for s in KD]
    report = Report("m", [*TEACHER, *ALONE, *KD, *many], student="kd@1")
    names = [s.name for s in pictured_stages(report)]
    assert len(names) == PICTURED
    assert {"kd@1", "baseline@0", "teacher"} <= set(names)
    assert len({name.partition("@")[0] for name in names}) == PICTURED
    plain = Report("m", [replace(s, name=f"n{k}", variant="") for k, s in enumerate(many)])
    assert len(pictured_stages(plain)) == len(many)
