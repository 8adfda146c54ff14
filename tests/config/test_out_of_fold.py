"""Teachers of k folds: groups whole, each case taught by the one that never saw it, alone or among others."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from segdistill.config.folds import folds_of
from segdistill.config.load import load_recipe
from segdistill.data.case import Case
from segdistill.data.splits import in_folds
from segdistill.errors import InputError
from segdistill.experiment.inputs import count_taught
from tests.experiment.tiny import RECIPE, record_of, segdistill

STUDENT = RECIPE["stages"]["student"]
TEACHER = RECIPE["stages"]["teacher"]


def write(folder: Path, student: dict[str, Any] | None = None, **stages: Any) -> Path:
    made = {"teacher": TEACHER | {"out_of_fold": 3}, **stages, "student": STUDENT | (student or {})}
    path = folder / "folds.yaml"
    content = RECIPE | {"stages": made, "fit": RECIPE["fit"] | {"views": 1, "epochs": 1}}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def test_folds_keep_groups_whole_and_labels_even() -> None:
    cases = [
        Case(
            f"{group}-{k}",
            Path(f"{group}-{k}.png"),
            group=str(group),
            label="benign" if group % 3 else "malignant",
        )
        for group, k in itertools.product(range(24), range(2))
    ]
    folds = in_folds(cases, 4)
    assert all(
        len({folds[case.id] for case in cases if case.group == group}) == 1
        for group in {c.group for c in cases}
    )
    for label, count in (("benign", 16), ("malignant", 8)):
        assert Counter(folds[case.id] for case in cases if case.label == label) == dict.fromkeys(
            range(1, 5), count * 2 // 4
        )
    assert in_folds(list(reversed(cases)), 4) == folds
    assert in_folds(cases, 4, seed=1) != folds
    with pytest.raises(InputError, match="24 groups of cases make no 25 folds"):
        in_folds(cases, 25)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with teachers out of three folds and one more that has seen everything; do not change its files."""
    folder = tmp_path_factory.mktemp("folds")
    student = {
        "cache": True,
        "weighting": "score",
        "combine": "predictions",
        "teachers": {"teacher": {"weight": 0.5}, "all": {}},
    }
    path = write(folder, student, all=TEACHER)
    answer = segdistill("run", path, "--device", "cpu", "--out", folder / "runs" / "r")
    assert answer.code == 0, answer.err
    return folder / "runs" / "r"


def test_the_table_says_who_taught_and_who_knew(finished: Path) -> None:
    with open(finished / "cases.csv", newline="") as file:
        split = {row["id"]: row["split"] for row in csv.DictReader(file) if row["label"] != "normal"}
    with open(finished / "teachers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {case for case, name in split.items() if name == "train"}
    taught: Counter[str] = Counter()
    for row in rows:
        by, seen = row["taught_by"].split(), row["seen_by"].split()
        assert row["stage"] == "student"
        (own,) = (name for name in by if name != "all")
        assert by == [own, "all"]
        assert sorted([own, *seen]) == ["all", "teacher-fold-1", "teacher-fold-2", "teacher-fold-3"]
        taught[own] += 1
    told = (finished / "report.html").read_text()
    assert "each case is taught by the teachers that did not train on it: teachers.csv" in told
    for name, count in taught.items():
        assert record_of(finished / "stages" / name).train_cases == len(rows) - count
    assert record_of(finished / "stages" / "student").train_cases == len(rows)


def test_the_report_counts_who_taught_what(finished: Path) -> None:
    """Against the splits of cases.csv: whoever left out a fold taught it, and the one that saw all taught all."""
    with open(finished / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    count = sum(row["split"] == "train" and row["label"] != "normal" for row in rows)
    page = (finished / "report.html").read_text().partition("<h3>Who taught whom</h3>")[2]
    table = page.partition("</table>")[0]
    cells = {
        row[0]: row[1:]
        for row in (re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in table.split("<tr>"))
        if row and row[0] != "Teacher"
    }
    assert cells.pop("all") == [str(count), str(count), str(count), "student"]
    assert sorted(cells) == ["teacher-fold-1", "teacher-fold-2", "teacher-fold-3"]
    for learned, taught, overlap, students in cells.values():
        assert int(learned) + int(taught) == count
        assert int(taught) > 0
        assert (overlap, students) == ("0", "student")
    assert sum(int(taught) for _, taught, _, _ in cells.values()) == count


def test_teachers_of_a_class_are_counted_on_it_alone(tmp_path: Path) -> None:
    student = {
        "routing": "by_class",
        "teachers": {"teacher": {"labels": ["benign"]}, "all": {}},
    }
    recipe = load_recipe(str(write(tmp_path, student, all=TEACHER)))
    labels = ["benign", "benign", "malignant"]
    cases = [
        Case(f"{k}", Path(f"{k}.png"), (Path("m.png"),), label=labels[k % 3], split="train")
        for k in range(18)
    ]
    counted = count_taught(recipe, list(recipe.stages), cases)
    assert sum(row.taught for row in counted if row.teacher != "all") == 12
    assert [(row.taught, row.overlap) for row in counted if row.teacher == "all"] == [(18, 18)]
    assert count_taught(recipe, ["all"], cases) == []


def test_each_teacher_is_asked_for_its_own_cases_only(finished: Path) -> None:
    """Bytes on disk: the teacher of everything answers on all rows, the three others on each row once together."""
    sizes = sorted(path.stat().st_size for path in (finished.parent / ".cache").glob("*/records.bin"))
    assert len(sizes) == 4
    assert sum(sizes[:3]) == sizes[3]


def test_adaptive_weights_are_shared_by_those_who_may_speak(finished: Path) -> None:
    with open(finished / "stages" / "student" / "curves.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    weights = {name: float(value) for name, value in row.items() if name.endswith("/weight")}
    assert len(weights) == 4
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-5)


def test_what_a_recipe_becomes(tmp_path: Path) -> None:
    recipe = load_recipe(str(write(tmp_path, {"teachers": {"teacher": {"weight": 0.5}}})))
    assert list(recipe.stages) == ["teacher-fold-1", "teacher-fold-2", "teacher-fold-3", "student"]
    teachers = recipe.stages["student"].teachers.values()
    assert [(t.stage, t.weight, t.out_of_fold) for t in teachers] == [
        (f"teacher-fold-{fold}", 0.5, True) for fold in (1, 2, 3)
    ]
    assert recipe.stages["teacher-fold-2"].out_of_fold is not None
    # what a run writes down is read as the same recipe
    written = tmp_path / "resolved.yaml"
    written.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    assert load_recipe(str(written)) == recipe


@pytest.mark.parametrize(
    ("stages", "student", "message"),
    [
        (
            {"teacher": TEACHER | {"out_of_fold": 1}},
            {},
            "stages.teacher.out_of_fold: 1 is no number of folds",
        ),
        ({}, {"starts_from": "teacher"}, "stages.student.starts_from: 'teacher' is several stages"),
        (
            {"all": TEACHER},
            {"teachers": {"all": {"out_of_fold": True}}},
            "'all' has trained on all cases: set out_of_fold",
        ),
    ],
)
def test_bad_folds_are_one_line(
    tmp_path: Path, stages: dict[str, Any], student: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(str(write(tmp_path, student, **stages)))


def test_more_folds_than_cases_are_refused_before_training(tmp_path: Path) -> None:
    path = write(tmp_path, teacher=TEACHER | {"out_of_fold": 30})
    answer = segdistill("run", path, "--device", "cpu", "--out", tmp_path / "runs" / "r")
    assert answer.code == 2
    assert "30 folds need as many training groups, not 2" in answer.line  # of 20 and more groups


def test_one_training_case_makes_no_folds(tmp_path: Path) -> None:
    case = Case("a", tmp_path / "a.png", split="train")
    with pytest.raises(
        InputError, match=r"out_of_fold: 2 folds need as many training groups, not 1: add cases, or"
    ):
        folds_of([case], 2, 0)
