"""The report's answer: distillation against no distillation, at equal steps and at equal time, over seeds."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import yaml

from segdistill.records import Cost, Disturbance, Interval
from segdistill.report.charts import forest_plot
from segdistill.report.context import make_context
from segdistill.report.data import PlannedStage, Report, StageReport, TrainingReport
from segdistill.report.render import NO_BASELINE
from tests.report.synthetic import card_of, page_of, result
from tests.report.test_report import Page

SMALL, LARGE = Cost(2_000_000), Cost(30_000_000)
TOOK = TrainingReport(cases=80, epochs=4, seconds=60.0)


def stages(cell: str, role: str, lift: float, seeds: int = 3, **facts: object) -> list[StageReport]:
    made = []
    for seed in range(seeds):
        rng, own = np.random.default_rng(0), np.random.default_rng([seed, len(cell)])
        scores = np.clip(rng.uniform(0.3, 0.8, 40) + lift + own.normal(0, 0.02, 40), 0, 1)
        rows = [result(f"c{k}", float(s), group=f"g{k // 2}") for k, s in enumerate(scores)]
        name = f"{cell}@{seed}" if seeds > 1 else cell
        given = {"cost": SMALL, "training": TOOK, **facts}
        made.append(StageReport(name, role, variant=cell, seed=seed, results=rows, **given))  # type: ignore[arg-type]
    return made


TEACHER = stages("teacher", "teacher", 0.2, 1, cost=LARGE)
ALONE = stages("baseline", "baseline", 0.0)
LONGER = stages(
    "baseline_equal_time", "baseline", 0.003, training=TrainingReport(cases=80, epochs=6, seconds=61.0)
)
KD, AT, CWD = (
    stages("kd", "student", 0.08),
    stages("attention", "student", -0.08),
    stages("cwd", "student", 0.002),
)
UNET = stages("unet", "baseline", 0.1, 1, cost=LARGE)


def test_every_method_against_both_baselines() -> None:
    report = Report("r", [*TEACHER, *ALONE, *LONGER, *KD, *AT, *CWD, *UNET], margin=0.05)
    found = {(c.variant, c.kind): c.outcome for c in make_context(report).verdicts}
    assert found == {
        ("kd", "equal steps"): "helps",
        ("kd", "equal time"): "helps",
        ("attention", "equal steps"): "hurts",
        ("attention", "equal time"): "hurts",
        ("cwd", "equal steps"): "no evidence",
        ("cwd", "equal time"): "no evidence",
    }
    assert [c.family for c in make_context(report).verdicts] == [3] * 6
    assert [c.variant for c in make_context(report).headline_verdicts] == ["kd", "kd"]
    page = Page(page_of(report))
    for words in (
        "Distillation helps. kd minus baseline at equal steps: +0.0",
        "Distillation helps. kd minus baseline_equal_time at equal wall-clock: +0.0",
        "Against baseline at equal steps",
        "Against baseline_equal_time at equal wall-clock",
        "after Holm over 3",
        "a loss of 0.05",
    ):
        assert words in page.text, words
    assert not any("trained once" in line for line in make_context(report).limits)


def test_what_was_not_trained_is_said() -> None:
    page = Page(page_of(Report("r", [*TEACHER, *ALONE, *KD])))
    assert (
        "What is missing for a verdict on kd: The baseline at equal wall-clock was not trained." in page.text
    )
    complete = Page(page_of(Report("r", [*TEACHER, *ALONE, *LONGER, *KD])))
    assert "What is missing" not in complete.text
    once = Report("r", [*TEACHER, *stages("baseline", "baseline", 0.0, 1), *stages("kd", "student", 0.3, 1)])
    (verdict,) = make_context(once).verdicts
    assert verdict.short == "No evidence that distillation helps or hurts."
    assert "a verdict needs 3 seeds" in verdict.details
    assert any("trained once" in line for line in make_context(once).limits)


def test_without_a_baseline_no_gain_is_claimed() -> None:
    report = Report("r", [*TEACHER, *KD])
    assert make_context(report).verdicts == []
    assert Page(page_of(report)).text.count(NO_BASELINE) == 2
    assert NO_BASELINE in card_of(report)
    others = Report("r", [*TEACHER, *KD, *stages("unet", "baseline", 0.0, cost=LARGE)])
    (verdict,) = make_context(others).verdicts
    assert verdict.short == "kd is better than unet."
    assert NO_BASELINE in Page(page_of(others)).text


NET = {"model": {"name": "simplified_unet"}}
PLANNED = {
    "teacher": PlannedStage("teacher", "teacher", {"model": {"name": "unet"}}),
    "kd": PlannedStage("student", "kd", NET | {"loss": {"name": "dice"}, "cache": True}),
}
ITSELF = PlannedStage("baseline", "itself", NET)


def missing(made: list[StageReport], planned: dict[str, PlannedStage]) -> list[str]:
    """The list below "What is missing", one text per line."""
    html = page_of(Report("mine", made, planned=planned))
    found = html.partition("What is missing for a verdict on kd:")[2].partition("</ul>")[0]
    return [Page(f"<p>{line}</p>").text for line in re.findall("<li>(.*?)</li>", found)]


def test_what_is_missing_comes_with_the_command_that_trains_it() -> None:
    once = [*TEACHER, *stages("kd", "student", 0.1, 1)]
    more = {"itself": ITSELF, "longer": replace(ITSELF, equal_time_to="kd"), "unet": PLANNED["teacher"]}
    again = "run the same command again with"
    steps, clock, seeds = missing(once, PLANNED | more)
    assert steps == f"The baseline at equal steps was not trained: {again} --stages itself ."
    assert clock == f"The baseline at equal wall-clock was not trained: {again} --stages longer ."
    assert seeds == f"A verdict needs 3 seeds, and there is one: {again} --set 'seeds=[0, 1, 2]' ."
    with_baseline = [*once, *stages("itself", "baseline", 0.0, 1)]
    clock, seeds = missing(with_baseline, PLANNED | more)
    assert clock.endswith("--stages longer .")


def test_a_stage_that_the_recipe_lacks_is_set_on_the_command_line() -> None:
    steps, clock, _ = missing([*TEACHER, *stages("kd", "student", 0.1, 1)], PLANNED)
    for line, name, more in (
        (steps, "baseline", {}),
        (clock, "baseline_equal_time", {"equal_time_to": "kd"}),
    ):
        key, _, value = line.partition("--set '")[2].partition("'")[0].partition("=")
        assert key == f"stages.{name}"
        assert yaml.safe_load(value) == {"role": "baseline", **NET, "loss": {"name": "dice"}, **more}
        assert line.endswith(f"--stages {name} .")
    (_, line, _) = missing(
        [*TEACHER, *stages("kd", "student", 0.1, 1)],
        PLANNED | {"other": replace(PLANNED["teacher"], variant="baseline_equal_time")},
    )
    assert "stages.kd_baseline_equal_time=" in line


def test_a_matrix_gets_commands_of_its_own() -> None:
    cell = PlannedStage("student", "kd", NET, in_matrix=True)
    alone = PlannedStage("baseline", "baseline", NET, in_matrix=True)
    steps, clock, seeds = missing([*TEACHER, stages("kd", "student", 0.1)[0]], {"kd@0": cell})
    assert "with --set 'matrix.variants.baseline={}' ." in steps
    assert "with --set 'matrix.variants.baseline_equal_time={equal_time_to: kd}' ." in clock
    assert "with --set 'seeds=[0, 1, 2]' ." in seeds
    whole = {
        f"{name}@{seed}": part for seed in range(3) for name, part in (("baseline", alone), ("kd", cell))
    }
    (*_, seeds) = missing([*TEACHER, KD[0], KD[1], ALONE[0]], whole)
    assert seeds.endswith(
        "there is one: run the same command again with --stages baseline@1,baseline@2,kd@2 ."
    )


def test_without_a_recipe_there_is_no_command() -> None:
    steps, *_ = missing([*TEACHER, *stages("kd", "student", 0.1, 1)], {})
    assert steps == "The baseline at equal steps was not trained."


def test_no_distillation_no_question() -> None:
    for report in (Report("r", [*UNET]), Report("r", [StageReport("m", "student", results=UNET[0].results)])):
        text = Page(page_of(report)).text
        assert "Did distillation help" not in text
        assert NO_BASELINE not in text


def test_baselines_on_other_cases_are_no_baselines() -> None:
    other = [replace(s, results=s.results[:-1]) for s in ALONE]
    assert make_context(Report("r", [*TEACHER, *other, *KD])).verdicts == []


def test_a_forest_plot_is_a_picture_of_its_numbers() -> None:
    found = make_context(Report("r", [*TEACHER, *ALONE, *KD, *AT, *CWD], margin=0.02)).verdicts
    svg = forest_plot(found, "against <alone> & $others$")
    ET.fromstring(svg)
    for words in ("kd (3 seeds)", "helps", "hurts", "no evidence", "against &lt;alone&gt; &amp; $others$"):
        assert words in svg, words
    assert svg == forest_plot(found, "against <alone> & $others$")
    ET.fromstring(forest_plot([], "nothing"))
    assert "no evidence" in forest_plot(
        make_context(Report("r", [*TEACHER, ALONE[0], KD[0]])).verdicts, "one each"
    )


CALIBRATION = {
    "distance_px": 5.0,
    "all": {"ece": 0.01, "brier": 0.02, "pixels": 9, "bins": [[0.1, 0.1, 5], [0.9, 0.8, 4]]},
    "boundary": {"ece": None, "brier": None, "pixels": 0, "bins": []},
}
ROBUSTNESS = [
    Disturbance("gamma", s, Interval(0.5, 0.4, 0.6, 40), Interval(-0.1, None, None, 40)) for s in (0.5, 2.0)
]


def test_calibration_and_robustness_where_they_were_measured() -> None:
    stage = replace(KD[0], name="kd", calibration=CALIBRATION, robustness=ROBUSTNESS)
    html = page_of(Report("r", [stage]))
    page = Page(html)
    for words in (
        "Calibration",
        "Robustness",
        "0.0100",
        "gamma 0.5",
        "small, up to",
        "−0.100",
        "within 5 pixels",
    ):
        assert words in page.text or words == "small, up to", words
    assert "nan" not in page.text.lower().split()
    bare = Page(page_of(Report("r", [replace(stage, calibration={}, robustness=())])))
    assert "Reliability diagram" not in bare.text
    assert "Robustness" not in bare.text


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_cases(count: int) -> None:
    few = [replace(s, results=s.results[:count]) for s in (*TEACHER, *ALONE, *KD)]
    page = Page(page_of(Report("r", few)))
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text.split()
