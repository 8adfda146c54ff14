"""Sections from anywhere, a context that is computed once, and templates that do the HTML."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import segdistill.report
from segdistill.errors import InputError
from segdistill.records import Disturbance, Interval, Summary
from segdistill.report import comparison, context
from segdistill.report.context import Context, make_context
from segdistill.report.data import Report, StageReport
from segdistill.report.folds import over_folds, render_folds
from segdistill.report.model_card import render_model_card
from segdistill.report.page import render_report
from segdistill.report.sections import REPORT_SECTIONS, register_report_section
from segdistill.stats.comparison import Training, Variant, compare_variants
from segdistill.stats.text import number, signed
from tests.report.synthetic import card_of, full_report, page_of, result, results
from tests.report.test_report import Page
from tests.report.test_report_seeds import MATRIX, Rows
from tests.report.test_report_verdict import KD

SOURCE = Path(segdistill.report.__file__).parent


@pytest.fixture
def fastest() -> Iterator[None]:
    """A section as a plugin would add it."""

    @register_report_section(
        "fastest", "Fastest <network>", template="<p>{{ name }}: {{ ms | number(1) }} ms</p>", order=15
    )
    def fastest(context: Context) -> dict[str, Any] | None:
        timed = [n for n in context.trainings if n.stage.cost.ms is not None]
        first = min(timed, key=lambda n: n.stage.cost.ms or 0, default=None)
        return {"name": f"<b>{first.name}", "ms": first.stage.cost.ms} if first else None

    yield
    REPORT_SECTIONS._parts.pop("fastest")


@pytest.mark.usefixtures("fastest")
def test_a_section_with_its_own_template() -> None:
    html = page_of(full_report())
    Page(html)
    assert "<p>&lt;b&gt;teacher: 17.3 ms</p>" in html
    assert '<a href="#fastest">Fastest &lt;network&gt;</a>' in html
    order = re.findall(r'<section id="(\w+)">', html)
    assert order[:3] == ["verdict", "fastest", "lesions"]
    assert 'id="fastest"' not in page_of(Report("x", [StageReport("s", "student")]))
    with pytest.raises(InputError, match="report section 'fastest' is registered by"):
        register_report_section("fastest", "Again", template="", order=1)(lambda context: {})


def test_the_sections_of_the_package_keep_their_order() -> None:
    own = [
        name
        for name in REPORT_SECTIONS
        if REPORT_SECTIONS[name].source.startswith("segdistill.report.sections.")
    ]
    names = sorted(own, key=lambda name: REPORT_SECTIONS[name].facts["order"])
    assert names[:10] == [
        "verdict",
        "external",
        "lesions",
        "results",
        "structures",
        "classes",
        "sites",
        "distribution",
        "cases",
        "slices",
    ]
    assert names[10:] == [
        "trust",
        "table",
        "curves",
        "cost",
        "data",
        "settings",
        "environment",
        "limits",
        "claim",
    ]


def test_all_numbers_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = context.find_verdicts

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(context, "find_verdicts", counted)
    made = make_context(MATRIX)
    for name in ("summarise", "subgroups", "area_agreement", "bootstrap_mean", "find_verdicts", "over_seeds"):
        monkeypatch.setattr(context, name, None)  # whoever computes again fails
    monkeypatch.setattr("segdistill.stats.bootstrap.bootstrap_means", None)
    Page(render_report(made))
    assert "kd minus baseline" in render_model_card(made)
    assert len(calls) == 1


def test_python_writes_no_html() -> None:
    """But for charts, which are drawn by matplotlib."""
    tag = re.compile(
        r"</?(a|b|br|code|details|div|figure|h\d|header|img|li|p|pre|section|small|span|table|td|th|tr|ul)\b[^<]*>"
    )
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        described = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and isinstance(node.body[0], ast.Expr)
        }
        texts = [
            n.value
            for n in ast.walk(tree)
            if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in described
        ]
        assert not [text for text in texts if tag.search(text)], path.name


def test_every_report_names_the_weights_that_were_judged() -> None:
    best = "best epoch 7 by validation Dice"
    stages = [replace(s, weights=best if s.name == "student" else "last epoch") for s in full_report().stages]
    report = replace(full_report(), stages=stages)
    page = Page(page_of(report)).text
    assert f"Weights judged: {best}." in page.partition("Did distillation help?")[0]
    rows = {row[0]: row for section, _, row in Rows(page_of(report)).rows if section == "cost" and row}
    assert [best in rows["student"], "last epoch" in rows["teacher"]] == [True, True]
    assert f"- Weights: {best}\n" in card_of(report)
    assert "Weights judged: not recorded." in Page(page_of(Report("x", [StageReport("s", "student")]))).text
    two = [
        replace(s, weights=w)
        for s, w in zip(KD, ("best epoch 1 by validation Dice", best, best), strict=True)
    ]
    assert f"Weights judged: best epoch 1 by validation Dice, {best}." in Page(page_of(Report("m", two))).text


def test_the_pages_of_comparisons_and_folds_name_them_too() -> None:
    def variant(name: str, lift: float, weights: str) -> Variant:
        facts = {"settings": name, "stage": name, "source": f"run:{name}", "weights": weights}
        return Variant(name, (Training(name, results(1, lift), 0, **facts),))  # type: ignore[arg-type]

    pairs = [(variant("kd", 0.05, "last epoch"), variant("<plain>", 0, ""))]
    html = comparison.comparison_page(compare_variants(pairs), pairs, "a & b")
    rows = {row[0]: row for section, _, row in Rows(html).rows if section == "variants"}
    assert rows["kd"][3:] == ["last epoch", "run:kd"]
    assert rows["<plain>"][3] == "—"
    means = [r.metrics["dice"] for r in results(1, 0.05) if not r.normal]
    assert rows["kd"][1] == number(sum(means) / len(means))
    found = over_folds({1: Summary({"dice": Interval(0.5, None, None, 4)})})
    assert (
        "Weights judged: last epoch."
        in Page(render_folds("r", "", 2, [1], {"net": found}, {}, ["last epoch"])).text
    )


def test_disturbances_have_a_row_each_and_networks_a_column() -> None:
    def stage(name: str, scores: tuple[float, float]) -> StageReport:
        found = [
            Disturbance(
                "blur",
                strength,
                Interval(score, score - 0.1, score + 0.1, 2),
                Interval(score - 0.6, None, None, 2),
            )
            for strength, score in zip((1.0, 2.0), scores, strict=True)
        ]
        return StageReport(name, "comparator", results=[result("a", 0.5), result("b", 0.7)], robustness=found)

    html = page_of(Report("r", [stage("one", (0.5, 0.4)), stage("two", (0.55, 0.3))]))
    rows = [row for section, _, row in Rows(html).rows if section == "trust" and row]
    (head,) = [row for row in rows if row[0] == "Disturbance"]
    assert head[1:] == [f"{name} undisturbed 0.600, n = 2" for name in ("one", "two")]
    (row,) = [row for row in rows if row[0] == "blur 2"]
    assert row[1:] == [
        f"{number(s)} {number(s - 0.1)}–{number(s + 0.1)} {signed(s - 0.6)} (—)" for s in (0.4, 0.3)
    ]
