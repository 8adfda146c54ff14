"""What is read from folders, and what is compared with what."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from segdistill.errors import InputError
from segdistill.experiment.compare import choose_pairs, read_trainings, stated_margin
from segdistill.records import EvaluationRecord
from segdistill.stats.comparison import group_variants, kind_of
from tests.experiment.made_runs import WIDE, seeded, write_run

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


def test_the_margin_stands_in_the_recipe(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", {"kd": {}}, evaluation={"margin": 0.02})
    other = write_run(tmp_path / "b", {"kd": {}}, evaluation={"margin": 0.05})
    none = write_run(tmp_path / "c", {"kd": {}})
    assert stated_margin([str(one), f"{one}:kd", str(none)]) == 0.02
    assert stated_margin([str(one), str(other)]) is None
    assert stated_margin([str(none)]) is None
