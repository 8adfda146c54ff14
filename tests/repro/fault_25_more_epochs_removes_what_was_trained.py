"""A finished run, then the same command with more epochs into the same folder ("train a little longer"),
stopped after a moment.

Right: said before anything is removed (or the old weights kept beside, as the table is kept as .bak).
Never: the finished weights gone without a word.
"""

from __future__ import annotations

import time
from pathlib import Path

from common import TEACHER_ONLY, Verdict, control, control_call, dataset, mentions, script, start

WEIGHTS = Path("r/stages/teacher/weights.safetensors")
TOLD = ("removed", "kept", "moved", "continue", "more epochs", "trained again", "anew", "were finished")


def main() -> Verdict:
    Path("tiny.yaml").write_text(TEACHER_ONLY)
    dataset("d", 12)
    words = ("run", "tiny.yaml", "--data", "d", "--device", "cpu", "--out", "r")
    control_call(*words)
    trained = WEIGHTS.read_bytes()
    again = control_call(*words)
    control(WEIGHTS.read_bytes() == trained, f"the same command again changes the weights: {again.last}")

    child = start(*words, "--set", "epochs=5000")
    waited = time.monotonic() + 40
    curves = Path("r/stages/teacher/curves.csv")
    began = curves.stat().st_mtime_ns
    while time.monotonic() < waited and child.poll() is None:
        time.sleep(0.1)
        if not WEIGHTS.exists() or (curves.exists() and curves.stat().st_mtime_ns != began):
            break
    time.sleep(1)
    child.terminate()
    child.wait()
    said = Path("log").read_text()
    print(said.strip()[:400])
    kept = any(path.read_bytes() == trained for path in Path().rglob("*.safetensors"))
    said_so = mentions(said, TOLD)
    return Verdict(
        not kept and not said_so, f"weights of the finished teacher gone: {not kept}, told: {said_so}"
    )


if __name__ == "__main__":
    script(main)
