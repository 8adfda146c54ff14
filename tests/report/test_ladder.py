"""The page and the chart of a ladder: valid, complete, and true to the record."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from segdistill.records import Interval, Rung, ShrinkRecord
from segdistill.report.charts import ladder_chart
from segdistill.report.ladder import ladder_page, ladder_text
from segdistill.stats.bootstrap import PairedDifference
from segdistill.stats.verdict import Verdict


def rung(name: str, ms: float, dice: float, margin: float = 0.02) -> Rung:
    found = PairedDifference(dice - 0.8, dice - 0.81, dice - 0.79, 90, 80, 0.5)
    ends = {"low": dice - 0.815, "high": dice - 0.785, "seeds": 5, "baseline_seeds": 5}
    verdict = Verdict(name, "big", "dice", found, margin=margin, **ends)
    return Rung(
        name,
        {"name": "unet"},
        int(1e5 * ms),
        ms,
        ms / 2,
        distilled=Interval(dice, dice - 0.03, dice + 0.03, 90),
        plain=Interval(dice - 0.01, dice - 0.04, dice + 0.02, 90),
        verdict=json.loads(json.dumps(verdict.to_dict())),
        passing_margin=0.815 - dice,
    )


@pytest.fixture
def record() -> ShrinkRecord:
    rungs = [rung("big", 20.0, 0.82), rung("mid<b>", 4.0, 0.80), rung("tiny", 1.0, 0.70)]
    rungs[2] = replace(rungs[2], exploratory=True)
    return ShrinkRecord(
        settings="s",
        effort="quick",
        margin=0.02,
        stated_margin=0.02,
        machine="a processor",
        size="3 x 128 x 128",
        reference="big",
        rungs=rungs,
        teacher="an ensemble",
        cases=90,
        groups=80,
        folds=5,
        decidable=0.06,
        chosen="mid<b>",
        decided=True,
        teacher_score=Interval(0.84, 0.8, 0.88, 90),
        test=Interval(0.79, 0.7, 0.85, 20),
        test_cases=20,
    )


def test_the_record_is_read_back_as_it_was_written(record: ShrinkRecord, tmp_path: Path) -> None:
    record.write(tmp_path)
    assert ShrinkRecord.read(tmp_path) == record
    assert [one.outcome for one in record.rungs] == ["not worse", "not worse", "worse"]


def test_the_chart_draws_both_lines_the_teacher_and_the_choice(record: ShrinkRecord) -> None:
    for axis, words in (("ms", "milliseconds"), ("mb", "megabytes")):
        svg = ladder_chart(
            record.rungs, axis, reference="big", margin=0.02, teacher=record.teacher_score, chosen="mid<b>"
        )
        ET.fromstring(svg)
        assert words in svg
        assert all(
            text in svg for text in ("with a teacher", "without", "the teacher", "tiny", "mid&lt;b&gt;")
        )
        assert svg == ladder_chart(
            record.rungs, axis, reference="big", margin=0.02, teacher=record.teacher_score, chosen="mid<b>"
        )
    ring = "#1c9c55"
    assert ring in ladder_chart(record.rungs, "ms", chosen="tiny")
    assert ring not in ladder_chart(record.rungs, "ms")


def test_the_page_tells_the_choice_first_and_escapes_names(record: ShrinkRecord) -> None:
    page = ladder_page(record)
    assert "<b>mid" not in page.replace("<b>mid&lt;b&gt;</b>", "")
    assert "is mid&lt;b&gt;: 4.00 ms and 2.00 MB instead of 20.00 ms and 10.00 MB." in page
    assert page.index("4.00 ms and") < page.index("<svg")
    assert page.count("<svg") == 3
    assert "exploratory" in page
    assert "passes with 0.115" in page


def test_no_choice_and_a_margin_that_was_changed_are_told(record: ShrinkRecord) -> None:
    first = rung("big", 20.0, 0.79)
    none = replace(record, chosen="", rungs=[first, *record.rungs[1:]], test=None, stated_margin=0.01)
    assert none.sentence == (
        "No network is shown to be not worse than big by 0.02 Dice: the first one, big, is undecided; it would pass "
        "with a margin of 0.025. The margin was 0.01 before training and was changed afterwards, so this is "
        "exploratory."
    )
    assert "not tested" in ladder_page(none)
    few = replace(none, decidable=None, rungs=[replace(first, passing_margin=None)])
    assert "big, is undecided; no margin can be decided with so few trainings or groups." in few.sentence
    alone = replace(none.rungs[1], plain_verdict=none.rungs[1].verdict)
    some = replace(none, rungs=[first, alone, none.rungs[2]])
    assert "Without a teacher, mid<b> would pass (exploratory)." in some.sentence
    lines = ladder_text(record).splitlines()
    assert lines[2].split() == [
        "mid<b>",
        "400",
        "k",
        "4.00",
        "2.00",
        "0.800",
        "0.790",
        "not",
        "worse,",
        "chosen",
    ]
    assert lines[-1] == record.sentence
