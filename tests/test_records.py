"""Records are the same after writing and reading; whatever else lies in their place is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segdistill.errors import InputError
from segdistill.records import (
    Classification,
    Cost,
    Disturbance,
    EvaluationRecord,
    Interval,
    Record,
    RunRecord,
    StageRecord,
    Summary,
    Weights,
)

ONE = Interval(0.5, 0.25, 0.75, 9)
STAGE = StageRecord(
    name="kd@1",
    variant="kd",
    seed=1,
    role="student",
    task="distillation",
    network={"name": "unet", "widths": [4, 8]},
    classes=["background", "lesion"],
    preprocess={"size": [32, 32]},
    postprocess={"threshold": 0.5},
    fingerprint="f",
    teachers=["teacher"],
    weights_sha256="w",
    weights=Weights("best", 3, 5, ["val_dice", "val_accuracy"], 0.75),
    parameters=9,
    epochs=5,
    steps=50,
    seconds=1.5,
)
EVALUATION = EvaluationRecord(
    model="kd@1",
    variant="kd",
    seed=1,
    weights=STAGE.weights,
    cases=9,
    skipped=["ü"],
    failed={"x": "x.png: no such file"},
    summary=Summary(
        {"dice": ONE}, {"benign": {"dice": ONE}}, {"UCL": {}}, {"area": Interval(0.0, None, None, 2)}
    ),
    pooled={"auc": None, "f1": 0.5},
    calibration={"distance_px": 5.0},
    robustness=[Disturbance("gamma", 0.5, ONE, ONE)],
    classification=Classification({"auc": ONE}, ["a", "b"], [[1, 0], [0, 1]], 0.25),
    cost=Cost(9, 10, 0.5, input="1x32x32", ms=2.0),
)
RUN = RunRecord(
    recipe="r", settings={"name": "r", "stages": {"a": {}}}, failed={"b": "NaN"}, verdicts=[{"low": None}]
)


@pytest.mark.parametrize("record", [RUN, STAGE, EVALUATION], ids=lambda record: record.FILE)
def test_what_is_written_is_read_back(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path)
    assert json.loads((tmp_path / record.FILE).read_text())["schema_version"] == 1
    again = type(record).read(tmp_path)
    assert again == record
    assert again.to_json() == record.to_json()


DAMAGED = {
    "half of it": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[]",
    "no version": lambda text: text.replace("schema_version", "other"),
    "version as text": lambda text: text.replace('"schema_version": 1', '"schema_version": "1"'),
    "a field of another type": lambda text: text.replace('"seed": 1', '"seed": "1"'),
    "an unknown field": lambda text: text.replace('"seed"', '"sead"'),
    "an unknown role": lambda text: text.replace('"student"', '"pupil"'),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_one_line_with_the_file_and_the_remedy(what: str, tmp_path: Path) -> None:
    (tmp_path / "stage.json").write_text(DAMAGED[what](STAGE.to_json()))
    with pytest.raises(InputError) as error:
        StageRecord.read(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "stage.json"))
    assert "\n" not in str(error.value)
    assert StageRecord.find(tmp_path) is None  # it will be written again


def test_a_newer_version_is_refused_even_where_damage_is_not(tmp_path: Path) -> None:
    text = EVALUATION.to_json().replace('"schema_version": 1', '"schema_version": 2, "new": 0')
    (tmp_path / "evaluation.json").write_text(text)
    for reads in (EvaluationRecord.read, EvaluationRecord.find):
        with pytest.raises(InputError, match=r"evaluation\.json has schema version 2.*: update segdistill"):
            reads(tmp_path)


def test_what_is_not_there_or_not_text(tmp_path: Path) -> None:
    assert RunRecord.read(tmp_path) is None
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        RunRecord.read(tmp_path)
    (tmp_path / "stage.json").mkdir()
    with pytest.raises(InputError, match=r"cannot read .*stage\.json"):
        StageRecord.find(tmp_path)


def test_which_weights_were_kept_in_words() -> None:
    assert str(STAGE.weights) == "best epoch 3 by validation Dice and accuracy"
    assert str(Weights("last", 5, 5)) == "last epoch"


def test_scores_by_the_names_that_tables_of_papers_use() -> None:
    assert EVALUATION.score("dice") == EVALUATION.score("dice", "benign") == ONE
    assert EVALUATION.score("dice", "site UCL") is None
    assert EVALUATION.score("classification.auc") == ONE
    assert EVALUATION.score("pooled.f1") == Interval(0.5, None, None, 9)
    assert EVALUATION.score("pooled.auc") is None
    assert EvaluationRecord(model="m").score("classification.auc") is None
