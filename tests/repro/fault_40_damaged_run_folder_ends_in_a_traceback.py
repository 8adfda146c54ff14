"""Run folders and recipes with one wrong value each: found by changing files at random (compare and run on
20 folders per file: 5 tracebacks; recipes: 1 of 60).

Right: one line that names the file and what to do, exit code 2. Never: a traceback.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import TINY, Verdict, control, control_call, dataset, script, segdistill, show

RUN = ("run", "tiny.yaml", "--data", "d", "--device", "cpu", "--out", "x")
COMPARE = ("compare", "x", "--baseline", "teacher")


def copied() -> None:
    shutil.rmtree("x", ignore_errors=True)
    shutil.copytree("r", "x")


def changed(file: str, change: Callable[[Any], None]) -> None:
    """A copy of the run with one JSON file changed."""
    copied()
    path = Path("x", file)
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def wrong_number(facts: Any) -> None:
    facts["summary"]["all"]["iou"]["high"] = ""


def no_postprocess(facts: Any) -> None:
    del facts["postprocess"]


def other_key(_: Any) -> None:
    path = Path("x/recipe.yaml")
    path.write_text(path.read_text().replace("weight_decay:", "99:"))


DAMAGES: dict[str, tuple[str, Callable[[Any], None], tuple[str, ...]]] = {
    "evaluation.json: a number is a text": ("stages/student/evaluation.json", wrong_number, RUN),
    "stage.json without postprocess": ("stages/student/stage.json", no_postprocess, RUN),
    "recipe.yaml of the run: a number as key": ("run.json", other_key, COMPARE),
}


def main() -> Verdict:
    Path("tiny.yaml").write_text(TINY)
    dataset("d")
    control_call("run", "tiny.yaml", "--data", "d", "--device", "cpu", "--out", "r")
    copied()
    for words in (RUN, COMPARE):
        answer = segdistill(*words)
        control(answer.code == 0 and not answer.crashed, f"{words[0]} of the folder as it is: {answer.last}")

    found = []
    for name, (file, change, words) in DAMAGES.items():
        changed(file, change)
        answer = segdistill(*words)
        show(name, answer)
        found += [name] * (answer.crashed or answer.code not in (0, 2))
    Path("wide.yaml").write_text(TINY.replace("[2, 4, 4]", "[2147483647, 4, 4]"))
    answer = segdistill("run", "wide.yaml", "--data", "d", "--device", "cpu", "--out", "w")
    show("recipe: widths of 2147483647", answer)
    found += ["recipe with huge widths"] * (answer.crashed or answer.code != 2)
    return Verdict(bool(found), f"{len(found)} of 4 end in a traceback: {'; '.join(found) or 'none'}")


if __name__ == "__main__":
    script(main)
