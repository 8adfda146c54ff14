"""The baseline for as long as a distillation takes: measured once, a whole number, and kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from segdistill.config.load import load_recipe
from segdistill.errors import InputError
from segdistill.experiment.equal_time import EQUAL_TIME_FILE, StepTimes, equal_steps, keep_times
from tests.experiment.tiny import RECIPE, record_of, segdistill

BASELINE = {
    "model": RECIPE["stages"]["student"]["model"],
    "equal_time_to": "student",
    "variant": "baseline_equal_time",
}
STAGES = RECIPE["stages"] | {f"baseline_equal_time@{seed}": BASELINE | {"seed": seed} for seed in (0, 1)}


def write(folder: Path, stages: dict[str, Any] = STAGES) -> Path:
    path = folder / "timed.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"stages": stages}, sort_keys=False), encoding="utf-8")
    return path


def test_steps_by_hand() -> None:
    online = StepTimes(0.05, 0.2, 0.14, steps=1000, teacher_steps=1000)
    assert online.equal_steps == 4000  # 1000 x 0.2 s
    cached = StepTimes(0.05, 0.2, 0.14, steps=1000, teacher_steps=250)
    assert cached.equal_steps == round((1000 * 0.06 + 250 * 0.14) / 0.05)
    # a method cannot be cheaper than the student that it trains, whatever a busy machine says
    assert StepTimes(0.05, 0.2, 0.19, steps=100, teacher_steps=0).equal_steps == 100


def test_what_was_measured_is_one_for_all_seeds(tmp_path: Path) -> None:
    assert equal_steps(tmp_path, "baseline_equal_time") is None
    keep_times(tmp_path, "baseline_equal_time", "kd", StepTimes(0.1, 0.2, 0.05, 10, 10))
    keep_times(tmp_path, "other", "kd", StepTimes(0.1, 0.3, 0.05, 10, 10))
    assert equal_steps(tmp_path, "baseline_equal_time") == 20
    assert equal_steps(tmp_path, "other") == 30


@pytest.mark.slow
def test_a_run_takes_the_steps_and_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([[0.1, 0.25, 0.12]])  # of one measurement
    monkeypatch.setattr("segdistill.experiment.train.median_seconds", lambda *_: next(seconds))
    path, run = write(tmp_path), tmp_path / "runs" / "r"
    answer = segdistill("run", path, "--device", "cpu", "--out", run)
    assert answer.code == 0, answer.err
    kept = json.loads((run / EQUAL_TIME_FILE).read_text())
    per_epoch = math.ceil(record_of(run / "stages" / "student").train_cases / 4)
    steps = round(2 * per_epoch * 0.25 / 0.1)
    assert kept["baseline_equal_time"]["steps"] == steps
    assert kept["baseline_equal_time"]["equal_time_to"] == "student"
    told = f"stage baseline_equal_time@0: {steps} steps take the time of the {2 * per_epoch} of student (100 and 250 ms"
    assert told in answer.err
    for seed in (0, 1):
        curves = (run / "stages" / f"baseline_equal_time@{seed}" / "curves.csv").read_text().splitlines()
        assert len(curves) - 1 == math.ceil(steps / per_epoch)
    again = segdistill("run", path, "--device", "cpu", "--out", run)
    assert again.code == 0, again.err
    assert again.err.count("finished before, nothing changed") == 4
    assert json.loads((run / EQUAL_TIME_FILE).read_text()) == kept


@pytest.mark.slow
def test_step_times_are_really_measured(tmp_path: Path) -> None:
    path, run = (
        write(tmp_path, {name: STAGES[name] for name in ("teacher", "student", "baseline_equal_time@0")}),
        tmp_path / "r",
    )
    answer = segdistill("run", path, "--device", "cpu", "--out", run, "--stages", "baseline_equal_time@0")
    assert answer.code == 0, answer.err
    # the other stage's teacher is trained, the other stage itself is not
    assert sorted(p.name for p in (run / "stages").iterdir()) == ["baseline_equal_time@0", "teacher"]
    found = json.loads((run / EQUAL_TIME_FILE).read_text())["baseline_equal_time"]
    times = found["seconds_per_step"]
    assert min(times.values()) > 0  # which of them is larger nobody can promise on a busy machine
    assert len(set(times.values())) == 3
    assert type(found["steps"]) is int
    assert found["steps"] >= found["distillation_steps"]


@pytest.mark.parametrize("other", ["teacher", "nobody"])
def test_only_the_time_of_a_distillation_can_be_taken(tmp_path: Path, other: str) -> None:
    wrong = STAGES | {"baseline_equal_time@0": STAGES["baseline_equal_time@0"] | {"equal_time_to": other}}
    with pytest.raises(InputError, match=f"takes the time of a distillation stage, not of '{other}'"):
        load_recipe(str(write(tmp_path, wrong)))
