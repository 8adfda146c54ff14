from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.experiment.made_runs import seeded, write_run
from tests.experiment.tiny import segdistill

ALONE = {"role": "baseline"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    stages = {**seeded("baseline", **ALONE), **seeded("kd", 0.08), **seeded("ifvd")}
    return write_run(tmp_path / "run", stages, evaluation={"margin": 0.05})


def test_a_table_with_a_verdict_for_each(run: Path) -> None:
    answer = segdistill("compare", run)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[1].startswith("kd       baseline (equal steps)     +0.0")
    assert lines[1].endswith("  helps")
    assert re.search(r"  no evidence, would show 0\.0\d\d or more, not worse than by 0\.05$", lines[2])
    assert re.search(
        r"24 cases and 3 seeds would show with 80 % power is about 0\.0\d\d\.$", answer.out, re.M
    )
    assert "24 cases in 24 groups, margin 0.05" in answer.out


def test_files(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert segdistill("compare", run, "-o", out, "--stages", "kd,ifvd").code == 0
    assert sorted(path.name for path in out.iterdir()) == ["comparison.csv", "forest.svg", "report.html"]
    with open(out / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["baseline"], row["verdict"]) for row in rows] == [
        ("kd", "baseline", "helps"),
        ("ifvd", "baseline", "no evidence"),
    ]
    assert float(rows[0]["low"]) < float(rows[0]["difference"]) < float(rows[0]["high"])
    assert len(rows[0]["per_seed"].split(";")) == 3
    assert ET.parse(out / "forest.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    page = (out / "report.html").read_text()
    assert "kd against baseline: helps" in page
    assert "small, up to" in page
    assert not re.search(r"(https?:)?//[a-z]", page, flags=re.I)
    assert segdistill("compare", run, "-o", tmp_path / "again", "--stages", "kd,ifvd").code == 0
    for name in ("comparison.csv", "forest.svg", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_json(run: Path) -> None:
    found = json.loads(segdistill("compare", run, "--json", "--margin", "0.001", "--metric", "iou").out)
    assert (found["metric"], found["margin"]) == ("iou", 0.001)
    verdicts = {c["variant"]: (c["outcome"], c["not_worse"]) for c in found["comparisons"]}
    assert verdicts == {"kd": ("helps", True), "ifvd": ("no evidence", False)}
    kd, ifvd = found["comparisons"]
    assert (kd["family"], kd["reasons"], kd["sentence"][:19]) == (2, [], "Distillation helps.")
    assert "interval" in [reason["rule"] for reason in ifvd["reasons"]]


def test_one_training_each_never_helps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", {"baseline": ALONE, "kd": {"lift": 0.3}})
    answer = segdistill("compare", run, "--margin", "0.02")
    assert answer.code == 0
    assert answer.out.splitlines()[1].endswith("  no evidence, shows nothing below 3 seeds")
    assert "one training on a side, and a verdict needs 3 seeds" in answer.out


def test_two_seeds_are_compared_but_not_judged(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", {**seeded("baseline", seeds=2, **ALONE), **seeded("kd", 0.3, seeds=2)})
    answer = segdistill("compare", run)
    assert "2 trainings on a side" in answer.out
    assert " helps" not in answer.out


def test_refusals_are_one_line(run: Path, tmp_path: Path) -> None:
    fewer = write_run(tmp_path / "fewer", {"kd": {"cases": 20}})
    other = write_run(tmp_path / "other", {"kd": {"area": 0.2}})
    alone = write_run(tmp_path / "baseline", {"kd": {}})
    plain = write_run(tmp_path / "plain", {"baseline": ALONE})
    uneven = write_run(tmp_path / "uneven", {"baseline": ALONE, **seeded("kd")})
    once = write_run(tmp_path / "once", {"baseline": ALONE, "kd": {}})
    elsewhere = write_run(tmp_path / "elsewhere", {"baseline": ALONE, "kd": {"cases": 20}})
    refused = {
        "were tested on different cases: 4 only in the first": (once, elsewhere),
        "0 only in the first, 4 only in the second": (plain, fewer),
        "has another reference": (plain, other),
        "role: baseline": (alone,),
        "no baseline 'baselin': did you mean 'baseline'": (run, "--baseline", "baselin"),
        "no stage 'x': known: baseline, ifvd, kd": (run, "--stages", "x"),
        "no metric 'dise'": (run, "--metric", "dise"),
        "has one seed": (uneven,),
        "no such folder": (tmp_path / "absent",),
        "margin is 0: it is the accepted loss, so give a number above 0": (run, "--margin", "0"),
    }
    for message, words in refused.items():
        out = tmp_path / "never"
        answer = segdistill("compare", *words, "-o", out)
        assert answer.code == 2, message
        assert message in answer.line
        assert answer.out == ""
        assert not out.exists()


def test_the_real_thing(run_folder: Path) -> None:
    answer = segdistill("compare", f"{run_folder}:student", f"{run_folder}:teacher", "--baseline", "teacher")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[1].startswith("student  teacher")
    assert segdistill("compare", run_folder).code == 2
