from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from segdistill.errors import InputError
from segdistill.records import Cost
from segdistill.report.context import make_context
from segdistill.report.data import DataReport, Report, StageReport, count_cases
from segdistill.report.examples import choose_examples, predict_shown, read_shown
from segdistill.report.model_card import write_model_card
from segdistill.report.opening import sentence
from segdistill.report.page import write_report
from tests.report.synthetic import card_of, curves, example, full_report, page_of, result, results

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers ids, references and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"inline handler {name}"
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "data-show"):
                self.links.append(f"#{value}" if name == "data-show" else value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_whole_page() -> None:
    html = page_of(full_report())
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("data:image/png;base64,") or link[1:] in page.ids for link in page.links)
    assert page.tags.count("img") == 9
    assert page.tags.count("svg") == 3 * 3 + 3 + 3 + 1  # curves, Dice, areas, forest plot
    assert page.tags.count("script") == 1
    for words in (
        "No evidence that distillation helps or hurts.",
        "one training on a side, and a verdict needs 3 seeds",
        "student minus plain: +0.05",
        "12 paired cases in 6 groups",
        "Research use only",
        "c0 (train) and c1 (test): same pixels",
        "1 min 15 s",
        "a 2-core machine",
        "2,162,146",
        "7.0 % of the parameters",
        "hold-out, seed 0",
        "Near-duplicates",
    ):
        assert words in page.text, words


def test_nothing_outside_the_file() -> None:
    html = page_of(full_report())
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", html), flags=re.I)
    assert "@import" not in html
    assert "url(http" not in html
    assert "lightbtseg/&lt;cpu&gt;" in html
    assert "<script>alert" not in html


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    write_report(make_context(full_report()), tmp_path / "a.html")
    write_report(make_context(full_report()), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert len((tmp_path / "a.html").read_bytes()) < 600_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


PARTIAL = {
    "nothing": Report("x"),
    "no results": Report("x", [StageReport("s", "student")]),
    "one case": Report("x", [StageReport("s", "student", results=[result("a", 0.5, "")], curves=curves(1))]),
    "only normal": Report("x", [StageReport("s", "student", results=[result("n", 0.0, "normal")])]),
    "one example, no results": Report("x", [StageReport("s", "student", examples=[example("a")])]),
    "other cases": Report(
        "x",
        [
            StageReport("s", "student", results=[result("a", 0.5), result("b", 0.4)]),
            StageReport("p", "baseline", results=[result("c", 0.5)]),
        ],
    ),
    "two stages of one name": Report(
        "x", [StageReport("s", "teacher"), StageReport("s", "student", results=results(0))]
    ),
    "unmeasured cost": Report("x", [StageReport("s", "student", results=results(0), cost=Cost())]),
    "bad curves": Report("x", [StageReport("s", "student", curves=[{"loss": float("inf")}, {}])]),
    "no split name": Report("x", data=DataReport(counts={"": {"": 3}}, groups={"": 2})),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_partial_reports_say_so(name: str) -> None:
    page = Page(page_of(PARTIAL[name]))
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text.split()
    assert re.search(r"\b(not measured|none|not recorded)\b", page.text)
    card = card_of(PARTIAL[name])
    assert "None" not in card.split()
    assert "Research use only" in card


def test_verdicts_need_the_same_cases() -> None:
    assert make_context(PARTIAL["other cases"]).verdicts == []
    report = full_report()
    (verdict,) = make_context(report).verdicts
    assert verdict.difference.mean == pytest.approx(0.05, abs=1e-6)
    same = Report("x", [report.stages[2], replace(report.stages[2], name="s", role="student", cost=Cost())])
    (verdict,) = make_context(same).verdicts
    assert verdict.short == "No evidence of a difference between s and plain."
    assert "+0" not in verdict.details


def test_headline_stage() -> None:
    report = full_report()
    assert report.headline() is report.stages[1]
    report = replace(report, student="plain")
    assert report.headline() is report.stages[2]
    context = make_context(report)
    assert sentence(context, context.headline).startswith(
        "On 12 test cases, “plain” (small, alone) reaches a mean Dice of 0."
    )


def test_choose_read_and_predict_examples(tmp_path: Path) -> None:
    for count in range(9):
        chosen = choose_examples([result(str(k), k / 10) for k in range(count)], 3)
        ids = [case for cases in chosen.values() for case in cases]
        assert len(ids) == len(set(ids)) == count
    assert choose_examples([result("n", 1.0, "normal")]) == {"best": [], "median": [], "worst": []}
    import numpy as np
    from PIL import Image

    from segdistill.data.case import Case

    Image.fromarray(np.full((8, 9), 200, np.uint8)).save(tmp_path / "a.png")
    cases = [Case(name, tmp_path / "a.png", group="g", label="normal", split="test") for name in ("a", "b")]
    shown = predict_shown(read_shown(cases, ["b", "gone"]), lambda picture: np.ones((8, 9), np.uint8))
    assert [e.case for e in shown] == ["b"]
    assert shown[0].prediction.all()
    assert not shown[0].reference.any()
    assert count_cases(cases) == ({"test": {"normal": 2}}, {"test": 1})


def test_model_card(tmp_path: Path) -> None:
    write_model_card(make_context(full_report()), tmp_path / "card.md")
    card = (tmp_path / "card.md").read_text()
    assert card == card_of(full_report())
    assert "\n---\n# Model card: lightbtseg/&lt;cpu&gt;\n" in card
    assert "| Dice | 0." in card
    assert "No evidence that distillation helps or hurts." in card
    assert "1 leaks" in card


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_report(make_context(Report("x")), tmp_path / "file" / "report.html")
