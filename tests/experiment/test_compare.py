"""What is read from folders, and what is compared with what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from segdistill.config.matrix import expand_matrix, expand_seeds, teacher_names
from segdistill.config.schema import Recipe
from segdistill.errors import InputError
from segdistill.experiment.compare import choose_pairs, compare, read_trainings, stated_margin
from segdistill.experiment.folds import conclude_folds
from segdistill.records import EvaluationRecord
from segdistill.stats.comparison import group_variants, kind_of
from segdistill.stats.verdict import Verdict
from tests.experiment.made_runs import WIDE, seeded, write_folds, write_run

ALONE = {"role": "baseline"}
TEACHER = {"role": "teacher", "model": WIDE}


def names(*words: object, **choice: object) -> list[tuple[str, str]]:
    methods, _ = group_variants(read_trainings([str(word) for word in words]))
    return [(m.name, b.name) for m, b in choose_pairs(methods, **choice)]  # type: ignore[arg-type]


def test_a_run_knows_what_it_is(tmp_path: Path) -> None:
    baseline = {**ALONE, "steps": 25, "fit": {"batch_size": 16}}
    run = write_run(tmp_path / "r", {"baseline": baseline, "kd": {}}, seed=7)
    alone, kd = read_trainings([str(run)])
    assert (alone.role, alone.seed, alone.steps, alone.seconds) == ("baseline", 7, 25, 10.0)
    assert (kd.role, kd.steps, kd.source) == ("student", 40, f"{run}:kd")
    assert alone.network == kd.network
    assert alone.settings != kd.settings


def test_seeds_within_a_run(tmp_path: Path) -> None:
    teachers = {
        f"kd@{s}": {"seed": s, "variant": "kd", "teachers": {"teacher": {"stage": f"teacher@{s}"}}}
        for s in range(3)
    }
    run = write_run(
        tmp_path / "r", {**seeded("teacher", **TEACHER), **seeded("baseline", **ALONE), **teachers}
    )
    methods, _ = group_variants(read_trainings([str(run)]))
    assert [(m.name, [t.seed for t in m.trainings]) for m in methods] == [
        (name, [0, 1, 2]) for name in ("teacher", "baseline", "kd")
    ]
    assert names(run) == [("kd", "baseline")]


def test_runs_of_one_recipe_with_other_seeds(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"s{s}", {"baseline": ALONE, "kd": {}}, seed=s) for s in range(3)]
    methods, _ = group_variants(read_trainings([str(run) for run in runs]))
    assert [(m.name, len(m.trainings)) for m in methods] == [("baseline", 3), ("kd", 3)]


def test_a_setting_of_the_teacher_makes_another_method(tmp_path: Path) -> None:
    def made(name: str, **teacher: object) -> Path:
        stages = {
            "teacher": {**TEACHER, **teacher},
            "baseline": ALONE,
            "kd": {"teachers": {"teacher": {}}},
        }
        return write_run(tmp_path / name, stages)

    words = [made("a"), made("b", fit={"epochs": 9})]
    assert names(*words) == [("a:kd", "baseline"), ("b:kd", "baseline")]
    same = [made("c"), made("d", about="in other words", fit={"workers": 3})]
    assert names(*same) == [("kd", "baseline")]  # threads change nothing: the second is the first again


def test_runs_that_differ_keep_their_own_baseline(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / n, {"baseline": ALONE, "kd": {}}, data={"size": s})
        for n, s in (("a", 32), ("b", 64))
    ]
    assert names(*runs) == [("a:kd", "a:baseline"), ("b:kd", "b:baseline")]
    assert names(*runs, baseline="baseline") == [("a:kd", "a:baseline"), ("b:kd", "b:baseline")]


def test_other_networks_are_no_twins(tmp_path: Path) -> None:
    stages = {"unet": {"role": "baseline", "model": WIDE}, "baseline": ALONE, "kd": {}}
    run = write_run(tmp_path / "r", stages)
    assert names(run) == [("kd", "baseline")]
    assert names(run, baseline="unet") == [("kd", "unet")]
    assert names(run, stages=["unet"], baseline="baseline") == [("unet", "baseline")]
    assert names(f"{run}:kd", f"{run}:unet") == [("kd", "unet")]  # the only baseline there is


def test_equal_steps_and_equal_time_come_together(tmp_path: Path) -> None:
    longer = seeded("longer", **ALONE, seconds=99.0, equal_time_to="kd")
    run = write_run(tmp_path / "r", {**seeded("baseline", **ALONE), **longer, **seeded("kd")})
    assert names(run) == [("kd", "baseline"), ("kd", "longer")]
    variants = {v.name: v for v in group_variants(read_trainings([str(run)]))[0]}
    assert kind_of(variants["kd"], variants["longer"]) == "equal time"
    assert kind_of(variants["kd"], variants["baseline"]) == "equal steps"


def test_stages_and_evaluation_folders(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", {"baseline": ALONE, "kd": {}})
    for name in ("kd", "baseline"):
        (tmp_path / "ev" / name).mkdir(parents=True)
        shutil.copy(run / "stages" / name / "metrics.csv", tmp_path / "ev" / name)
    assert names(run / "stages" / "kd", f"{run}:baseline") == [("kd", "baseline")]
    folders = (tmp_path / "ev" / "kd", tmp_path / "ev" / "baseline")
    assert names(*folders, baseline="baseline") == [("kd", "baseline")]
    with pytest.raises(InputError, match=r"--baseline \(there are: kd, baseline\)"):
        names(*folders)


def test_a_run_without_a_baseline(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", {"teacher": TEACHER, "kd": {}})
    with pytest.raises(InputError, match="role: baseline"):
        names(run)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", {"baseline": ALONE, "kd_soft": {}})
    with pytest.raises(InputError, match="no stage 'kd_sotf': did you mean 'kd_soft'"):
        names(run, stages=["kd_sotf"])
    with pytest.raises(InputError, match="no baseline 'basline': did you mean 'baseline'"):
        names(run, baseline="basline")
    with pytest.raises(InputError, match="no evaluated stage 'kd_sof': did you mean 'kd_soft'"):
        read_trainings([f"{run}:kd_sof"])


@pytest.mark.parametrize("made", ["absent", "empty", "unfinished", "file"])
def test_folders_that_are_something_else(made: str, tmp_path: Path) -> None:
    place = tmp_path / "x"
    if made == "file":
        place.write_text("text")
    elif made != "absent":
        (place / "stages" / "kd" if made == "unfinished" else place).mkdir(parents=True)
    with pytest.raises(InputError, match=str(place.name)):
        read_trainings([str(place)])


def test_evaluations_with_seeds_are_told_from_folders_that_a_user_has_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", {**seeded("kd", seeds=2), **seeded("baseline", seeds=2, **ALONE)})
    for stage in ("kd@0", "kd@1", "baseline@0"):
        record = EvaluationRecord(model=stage, variant=stage[:-2], seed=int(stage[-1]))
        for name in (stage, f"mine-{stage}"):
            (tmp_path / "ev" / name).mkdir(parents=True)
            shutil.copy(run / "stages" / stage / "metrics.csv", tmp_path / "ev" / name)
            record.write(tmp_path / "ev" / name)
    found = read_trainings([str(tmp_path / "ev" / name) for name in ("kd@0", "kd@1", "mine-kd@1")])
    assert [(t.variant, t.seed) for t in found] == [("kd", 0), ("kd", 1), ("mine-kd@1", None)]


def test_damaged_files_are_one_line_or_not_needed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", {"baseline": ALONE, "kd": {}})
    for name in ("recipe.yaml", "run.json"):
        kept = (run / name).read_text()
        (run / name).write_text("{[")
        with pytest.raises(InputError, match=name):
            read_trainings([str(run)])
        (run / name).write_text(kept)
    for name, message in (
        ("stage.json", r"kd/stage\.json is damaged"),
        ("metrics.csv", r"not a metrics\.csv"),
    ):
        kept = (run / "stages" / "kd" / name).read_text()
        (run / "stages" / "kd" / name).write_text("{[")
        with pytest.raises(InputError, match=message):
            read_trainings([str(run)])
        (run / "stages" / "kd" / name).write_text(kept)
    newer = run / "stages" / "kd" / "stage.json"
    newer.write_text(newer.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(
        InputError, match=r"kd/stage\.json has schema version 9, and this segdistill reads up to 1"
    ):
        read_trainings([str(run)])


@pytest.mark.parametrize(
    "text",
    [
        "{[",
        "[]",
        "3",
        '{"finished": 3}',
        '{"finished": ["x"], "folds": 2}',
        '{"finished": [1], "folds": null}',
    ],
)
def test_a_damaged_record_of_folds_is_one_line(tmp_path: Path, text: str) -> None:
    run = write_folds(tmp_path / "cv", {"baseline": ALONE, "kd": {}})
    assert read_trainings([str(run)])
    (run / "folds.json").write_text(text)
    with pytest.raises(InputError, match=r"folds\.json is damaged \(.*\): restore") as refused:
        read_trainings([str(run)])
    assert "\n" not in str(refused.value)


def test_the_margin_stands_in_the_recipe(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", {"kd": {}}, evaluation={"margin": 0.02})
    other = write_run(tmp_path / "b", {"kd": {}}, evaluation={"margin": 0.05})
    none = write_run(tmp_path / "c", {"kd": {}})
    assert stated_margin([str(one), f"{one}:kd", str(none)]) == 0.02
    assert stated_margin([str(one), str(other)]) is None
    assert stated_margin([str(none)]) is None


CROSSED = {**seeded("baseline", seeds=2, **ALONE), **seeded("kd", lift=0.03, seeds=2)}


def test_a_cross_validation_is_one_comparison(tmp_path: Path) -> None:
    """Folder, RUN:STAGE and the Python call: all folds and seeds, every case once per seed."""
    run = write_folds(tmp_path / "cv", CROSSED, evaluation={"margin": 0.05})
    variants, notes = group_variants(read_trainings([str(run)]))
    assert [(v.name, len(v.trainings)) for v in variants] == [("baseline", 6), ("kd", 6)]
    assert notes == []
    assert names(run) == [("kd", "baseline")]
    assert names(f"{run}:kd@0", f"{run}:baseline@0") == [("kd", "baseline")]
    found = compare(run, out=tmp_path / "out")
    (verdict,) = found.verdicts
    assert (verdict.outcome, verdict.folds, verdict.planned_folds) == ("helps", 3, 3)
    assert (verdict.seeds, verdict.difference.n, len(verdict.per_seed)) == (6, 72, 6)
    assert verdict.difference.mean == pytest.approx(0.03, abs=0.005)
    assert verdict.resampled is not None
    assert found.margin == verdict.accepted == 0.05  # stands in the recipe of every fold
    page = (tmp_path / "out" / "report.html").read_text()
    assert "t-test over folds" in page
    assert "seed 1, fold 3" in page
    assert "undecided" in page  # the rule names it
    with pytest.raises(InputError, match=r"no evaluated stage 'kdd': .*kd@0"):
        names(f"{run}:kdd")


def test_two_cross_validations_are_compared(tmp_path: Path) -> None:
    one = write_folds(tmp_path / "one", {"net": {"role": "comparator", "lift": 0.05}})
    other = write_folds(tmp_path / "other", {"wide": {"role": "comparator", "model": WIDE}})
    (verdict,) = compare([one, other], ["net"], baseline="wide").verdicts
    assert (verdict.folds, verdict.seeds, verdict.difference.n) == (3, 3, 72)
    assert verdict.difference.mean == pytest.approx(0.05, abs=0.01)
    wide = {"role": "comparator", "model": WIDE, "fit": {"epochs": 9}}
    hold_out = write_run(tmp_path / "single", {"wide": wide})
    with pytest.raises(InputError, match="only one of them is of a cross-validation"):
        compare([f"{one}:net", f"{hold_out}:wide"], ["net"], baseline="wide")


def test_a_fold_that_lacks_a_training_is_not_used(tmp_path: Path) -> None:
    run = write_folds(tmp_path / "cv", CROSSED)
    shutil.rmtree(run / "fold-2" / "stages" / "kd@1")
    (verdict,) = compare(run).verdicts
    assert (verdict.folds, verdict.planned_folds, verdict.difference.n) == (2, 3, 48)
    assert "2 of 3 folds" in verdict.details


def taught(*teachers: object) -> dict[str, dict[str, object]]:
    return {
        f"kd@{s}": {"seed": s, "variant": "kd", "teachers": {"t": teacher}}
        for s, teacher in enumerate(teachers)
    }


@pytest.mark.parametrize(
    ("teachers", "one"),
    [
        ([{"stage": "teacher"}] * 3, True),
        ([{"predictions": "elsewhere"}] * 3, True),
        ([{"stage": f"teacher@{s}"} for s in range(3)], False),
        ([{"ensemble": [{"stage": f"teacher@{s}"}, {"onnx": "net.onnx"}]} for s in range(3)], True),
    ],
)
def test_one_teacher_for_all_seeds_is_told(tmp_path: Path, teachers: list[object], one: bool) -> None:
    stages = {**seeded("teacher", **TEACHER), "teacher": TEACHER, **seeded("baseline", **ALONE)}
    run = write_run(tmp_path / "r", {**stages, **taught(*teachers)})
    (verdict,) = compare(run).verdicts
    assert verdict.this_teacher is one
    assert ("with this teacher" in verdict.short) is one


def test_each_fold_has_teachers_of_its_own(tmp_path: Path) -> None:
    stages = {"teacher": TEACHER, **seeded("baseline", **ALONE), **taught(*[{"stage": "teacher"}] * 3)}
    (verdict,) = compare(write_folds(tmp_path / "cv", stages)).verdicts
    assert not verdict.this_teacher


def test_seeds_of_a_recipe_train_teacher_k_for_student_k(tmp_path: Path) -> None:
    """Without a matrix `seeds` repeats the teachers, too; in a matrix all seeds share them."""
    stages = {"teacher": {"model": {}}, "kd": {"teachers": {"teacher": None}}}
    repeated = expand_seeds({"stages": stages, "seeds": [0, 1]})["stages"]
    assert [teacher_names(repeated[f"kd@{s}"]) for s in (0, 1)] == [["teacher@0"], ["teacher@1"]]
    matrix = {
        "students": {"small": {"model": {"name": "unet"}}},
        "teachers": {"teacher": {"model": {"name": "unet"}}},
        "variants": {"kd": {"methods": {"soft_prediction": {}}}},
    }
    shared = expand_seeds(expand_matrix({"matrix": matrix, "seeds": [0, 1]}))["stages"]
    assert [teacher_names(shared[f"kd@{s}"]) for s in (0, 1)] == [["teacher"], ["teacher"]]


def test_the_end_of_a_cross_validation_has_its_verdict(tmp_path: Path) -> None:
    """folds.json and the page, as a run leaves them, from folders that hold only scores."""
    run = write_folds(tmp_path / "cv", CROSSED)
    stages = {
        name: {"model": {"name": "simplified_unet"}, "variant": facts["variant"]}
        for name, facts in CROSSED.items()
    }
    conclude_folds(Recipe(name="made", folds=3, stages=stages), run)
    kept = json.loads((run / "folds.json").read_text())
    (facts,) = kept["verdicts"]
    assert (facts["outcome"], facts["folds"], facts["default_margin"]) == ("helps", 3, 0.02)
    assert Verdict.from_dict(facts).difference.n == 72
    page = (run / "report.html").read_text()
    assert "Verdicts over all folds" in page
    assert "kd against baseline: helps." in page
    assert "Missed lesions and outlines" in page
    assert "the default is 0.02" in page
    assert "cases only" in page


def test_metrics_that_cannot_be_paired_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", {"baseline": ALONE, "kd": {}})
    file = run / "stages" / "kd" / "metrics.csv"
    whole = file.read_text()
    header, row, *_ = whole.splitlines()
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    file.write_text(whole + row + "\n")
    with pytest.raises(
        InputError, match=f"{file} has case '{cells['case']}' twice: remove the repeated rows"
    ):
        compare([str(run)])
    file.write_text("\n".join([header, ",".join({**cells, "dice": "1.5"}.values())]) + "\n")
    with pytest.raises(InputError, match=f"case '{cells['case']}': dice 1.5 is not in"):
        compare([str(run)])
