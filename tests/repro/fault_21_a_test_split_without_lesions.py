"""40 pictures, 4 with a lesion, no labels; --split hold-out with the default seed.

Right: lesions on both sides (pictures with and without foreground are balanced like labels), or a warning.
Never: a test split that cannot measure Dice, found out only after the training ("no test case with a
lesion").
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from common import (
    TEACHER_ONLY,
    Answer,
    Verdict,
    control,
    control_call,
    dataset,
    mentions,
    rows_of,
    script,
    warns_of,
)

WORDS = ("lesion", "foreground", "empty")


def lesions_of(folder: str) -> tuple[Answer, Counter[str]]:
    """The answer of indexing, and how many pictures with a lesion each split has."""
    answer = control_call("data", "index", "folder", folder, "-o", f"{folder}.csv", "--split", "hold-out")
    found: Counter[str] = Counter()
    for row in rows_of(f"{folder}.csv"):
        found[row["split"]] += bool(np.asarray(Image.open(row["masks"])).any())
    return answer, found


def main() -> Verdict:
    Path("tiny.yaml").write_text(TEACHER_ONLY)
    dataset("all", 40)
    answer, found = lesions_of("all")
    control(
        found["test"] > 0 and not warns_of(answer.text, WORDS),
        f"with a lesion in every picture: {dict(found)}",
    )

    dataset("few", 40, lesions=4)
    answer, found = lesions_of("few")
    warned = warns_of(answer.text, WORDS)
    if not found["test"] and not warned:
        run = control_call("run", "tiny.yaml", "--data", "few.csv", "--device", "cpu", "--out", "r")
        print("after the training:", run.out.splitlines()[0])
        warned = mentions(run.err.split("stage teacher")[0], WORDS)
    words = (
        f"pictures with a lesion per split: {dict(found)}, told before: {warned}; right: at least 1 in test"
    )
    return Verdict(not found["test"] and not warned, words)


if __name__ == "__main__":
    script(main)
