"""The report's answer: distillation against no distillation, at equal steps and at equal time, over seeds."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import yaml

from segdistill.report.charts import forest_plot
from segdistill.report.model_card import render_model_card
from segdistill.report.page import Report, StageReport, render_report
from segdistill.report.sections.context import known_limits
from segdistill.report.sections.verdict import NO_BASELINE, find_verdicts, headline_verdicts, verdict_words
from tests.report.synthetic import result
from tests.report.test_report import Page

SMALL, LARGE = {"parameters": 2_000_000}, {"parameters": 30_000_000}


def stages(cell: str, role: str, lift: float, seeds: int = 3, **facts: object) -> list[StageReport]:
    made = []
    for seed in range(seeds):
        rng, own = np.random.default_rng(0), np.random.default_rng([seed, len(cell)])
        scores = np.clip(rng.uniform(0.3, 0.8, 40) + lift + own.normal(0, 0.02, 40), 0, 1)
        rows = [result(f"c{k}", float(s), group=f"g{k // 2}") for k, s in enumerate(scores)]
        name = f"{cell}@{seed}" if seeds > 1 else cell
        given = {"cost": SMALL, "training": {"epochs": 4, "cases": 80, "seconds": 60.0}, **facts}
        made.append(StageReport(name, role, results=rows, **given))  # type: ignore[arg-type]
    return made


TEACHER = stages("teacher", "teacher", 0.2, 1, cost=LARGE)
ALONE = stages("baseline", "baseline", 0.0)
LONGER = stages(
    "baseline_equal_time", "baseline", 0.003, training={"epochs": 6, "cases": 80, "seconds": 61.0}
)
KD, AT, CWD = (
    stages("kd", "student", 0.08),
    stages("attention", "student", -0.08),
    stages("cwd", "student", 0.002),
)
UNET = stages("unet", "baseline", 0.1, 1, cost=LARGE)


def test_every_method_against_both_baselines() -> None:
    report = Report("r", [*TEACHER, *ALONE, *LONGER, *KD, *AT, *CWD, *UNET], margin=0.05)
    found = {(c.method, c.kind): c.verdict for c in find_verdicts(report)}
    assert found == {
        ("kd", "equal steps"): "helps",
        ("kd", "equal time"): "helps",
        ("attention", "equal steps"): "hurts",
        ("attention", "equal time"): "hurts",
        ("cwd", "equal steps"): "no evidence",
        ("cwd", "equal time"): "no evidence",
    }
    assert [c.family for c in find_verdicts(report)] == [3] * 6
    assert [c.method for c in headline_verdicts(report)] == ["kd", "kd"]
    page = Page(render_report(report))
    for words in (
        "Distillation helps. kd minus alone at equal steps: +0.0",
        "Distillation helps. kd minus baseline_equal_time at equal wall-clock: +0.0",
        "Against alone at equal steps",
        "Against baseline_equal_time at equal wall-clock",
        "after Holm over 3 methods",
        "Margin: 0.05",
    ):
        assert words in page.text, words
    assert not any("trained once" in line for line in known_limits(report))


def test_what_was_not_trained_is_said() -> None:
    page = Page(render_report(Report("r", [*TEACHER, *ALONE, *KD])))
    assert (
        "What is missing for a verdict on kd: The baseline at equal wall-clock was not trained." in page.text
    )
    complete = Page(render_report(Report("r", [*TEACHER, *ALONE, *LONGER, *KD])))
    assert "What is missing" not in complete.text
    once = Report("r", [*TEACHER, *stages("baseline", "baseline", 0.0, 1), *stages("kd", "student", 0.3, 1)])
    (verdict,) = find_verdicts(once)
    assert verdict_words(verdict)[0] == "No evidence that distillation helps or hurts."
    assert "a verdict needs 3 seeds" in verdict_words(verdict)[1]
    assert any("trained once" in line for line in known_limits(once))


def test_without_a_baseline_no_gain_is_claimed() -> None:
    report = Report("r", [*TEACHER, *KD])
    assert find_verdicts(report) == []
    assert Page(render_report(report)).text.count(NO_BASELINE) == 2
    assert NO_BASELINE in render_model_card(report)
    others = Report("r", [*TEACHER, *KD, *stages("unet", "baseline", 0.0, cost=LARGE)])
    (verdict,) = find_verdicts(others)
    assert verdict_words(verdict)[0] == "kd is better than unet."
    assert NO_BASELINE in Page(render_report(others)).text


STAGES = {
    "teacher": {"role": "teacher", "model": {"name": "unet"}},
    "kd": {"role": "student", "model": {"name": "simplified_unet"}, "loss": {"name": "dice"}, "cache": True},
}
ITSELF = {"role": "baseline", "model": {"name": "simplified_unet"}}


def steps(made: list[StageReport], stages: dict[str, object], **facts: object) -> str:
    report = Report("mine", made, settings=yaml.safe_dump({"stages": stages}), **facts)  # type: ignore[arg-type]
    return Page(render_report(report)).text.partition("What is missing for a verdict on kd: ")[2]


def test_what_is_missing_comes_with_the_command_that_gets_it() -> None:
    once = [*TEACHER, *stages("kd", "student", 0.1, 1)]
    text = steps(once, STAGES | {"kd_alone": ITSELF, "longer": ITSELF | {"equal_time_to": "kd"}, "unet": {}})
    assert text.startswith(
        "The baseline at equal steps was not trained: run the same command again with --stages kd_alone . "
        "The baseline at equal wall-clock was not trained: run the same command again with --stages longer . "
        "A verdict needs 3 seeds, here is one: run the same command with --set seed=1 --out runs/mine-1 and with "
        "--set seed=2 --out runs/mine-2 , then segdistill compare RUN runs/mine-1 runs/mine-2 ."
    )
    with_baseline = [*once, *stages("kd_alone", "baseline", 0.0, 1)]
    text = steps(with_baseline, STAGES | {"kd_alone": ITSELF})
    assert "at equal steps was not" not in text
    assert "--set seed=1" in text


def test_lines_that_the_recipe_lacks_are_a_recipe() -> None:
    text = steps([*TEACHER, *stages("kd", "student", 0.1, 1)], STAGES)
    for name, more in (("kd_alone", {}), ("kd_equal_time", {"equal_time_to": "kd"})):
        told = text.partition(f"--stages {name} : ")[2].partition(" .")[0]
        assert yaml.safe_load(told) == {name: ITSELF | {"loss": {"name": "dice"}} | more}


def test_a_matrix_is_told_in_its_own_words() -> None:
    cell = STAGES["kd"] | {"may_fail": True}
    alone = ITSELF | {"may_fail": True}
    text = steps([*TEACHER, stages("kd", "student", 0.1)[0]], {"kd@0": cell})
    assert "with --set 'matrix.methods.alone={}' ." in text
    assert "with --set 'matrix.methods.baseline_equal_time={equal_time_to: kd}' ." in text
    assert "with --set 'matrix.seeds=[0, 1, 2]' ." in text
    whole = {
        f"{name}@{seed}": part for seed in range(3) for name, part in (("baseline", alone), ("kd", cell))
    }
    text = steps([*TEACHER, KD[0], KD[1], ALONE[0]], whole)
    assert (
        "A verdict needs 3 seeds, here is one: run the same command again with --stages alone@1,alone@2,kd@2 ."
        in text
    )


def test_settings_of_a_model_file_or_none_at_all_give_no_command() -> None:
    once = [*TEACHER, *stages("kd", "student", 0.1, 1)]
    for facts in ({"settings_of": "model file"}, {}):
        text = steps(once, STAGES if facts else {}, **facts)
        assert text.startswith("The baseline at equal steps was not trained. The baseline at")


def test_no_distillation_no_question() -> None:
    for report in (Report("r", [*UNET]), Report("r", [StageReport("m", "student", results=UNET[0].results)])):
        text = Page(render_report(report)).text
        assert "Did distillation help" not in text
        assert NO_BASELINE not in text


def test_baselines_on_other_cases_are_no_baselines() -> None:
    other = [replace(s, results=s.results[:-1]) for s in ALONE]
    assert find_verdicts(Report("r", [*TEACHER, *other, *KD])) == []


def test_a_forest_plot_is_a_picture_of_its_numbers() -> None:
    found = find_verdicts(Report("r", [*TEACHER, *ALONE, *KD, *AT, *CWD], margin=0.02))
    svg = forest_plot(found, "against <alone> & $others$")
    ET.fromstring(svg)
    for words in ("kd (3 seeds)", "helps", "hurts", "no evidence", "against &lt;alone&gt; &amp; $others$"):
        assert words in svg, words
    assert svg == forest_plot(found, "against <alone> & $others$")
    ET.fromstring(forest_plot([], "nothing"))
    assert "no evidence" in forest_plot(find_verdicts(Report("r", [*TEACHER, ALONE[0], KD[0]])), "one each")


CALIBRATION = {
    "distance_px": 5.0,
    "all": {"ece": 0.01, "brier": 0.02, "pixels": 9, "bins": [[0.1, 0.1, 5], [0.9, 0.8, 4]]},
    "boundary": {"ece": None, "brier": None, "pixels": 0, "bins": []},
}
INTERVAL = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 40}
ROBUSTNESS = [
    {
        "kind": "gamma",
        "strength": s,
        "score": INTERVAL,
        "difference": {"mean": -0.1, "low": None, "high": None, "n": 40},
    }
    for s in (0.5, 2.0)
]


def test_calibration_and_robustness_where_they_were_measured() -> None:
    stage = replace(KD[0], name="kd", calibration=CALIBRATION, robustness=ROBUSTNESS)
    html = render_report(Report("r", [stage]))
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
    bare = Page(render_report(Report("r", [replace(stage, calibration={}, robustness=())])))
    assert "Reliability diagram" not in bare.text
    assert "Robustness" not in bare.text


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_cases(count: int) -> None:
    few = [replace(s, results=s.results[:count]) for s in (*TEACHER, *ALONE, *KD)]
    page = Page(render_report(Report("r", few)))
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text.split()
