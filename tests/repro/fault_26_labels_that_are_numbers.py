"""Labels 3 and 4 (BI-RADS), as folders; a run on label 4 alone.

Right: --set 'labels=[4]' works, or the message says to quote it. Never: "Input should be a valid string,
not 4", blamed on the recipe file.
"""

from __future__ import annotations

import json
from pathlib import Path

from common import (
    TEACHER_ONLY,
    Answer,
    Verdict,
    box_mask,
    control,
    mentions,
    noise,
    save,
    script,
    segdistill,
    show,
)


def train(out: str, *changes: str) -> tuple[Answer, int]:
    """The answer of a run, and how many cases it trained on."""
    words = ("run", "tiny.yaml", "--data", "d", "--device", "cpu", "--out", out)
    answer = segdistill(*words, *(["--set", *changes] if changes else []))
    stage = Path(out, "stages/teacher/stage.json")
    return answer, json.loads(stage.read_text())["train_cases"] if stage.exists() else 0


def main() -> Verdict:
    Path("tiny.yaml").write_text(TEACHER_ONLY)
    for k, label in enumerate("34"):
        for n in range(8):
            save(noise(10 * k + n), f"d/images/{label}/{n}.png")
            save(box_mask(10 + n, 30, 20, 40), f"d/masks/{label}/{n}.png")
    plain, every = train("all")
    control(plain.code == 0 and every > 0, f"a run on all labels: {plain.last}")

    answer, some = train("four", "labels=[4]")
    show("labels=[4]", answer)
    told = answer.code == 2 and mentions(answer.last, ("quote", "'4'", '"4"'))
    right = told or (answer.code == 0 and 0 < some < every)
    words = f"exit code {answer.code}: {answer.last}; cases: {some} of {every}"
    return Verdict(
        not right, words if right else f"{words}; right: trained on label 4, or how to write it is named"
    )


if __name__ == "__main__":
    script(main)
