"""Names with a byte that is no UTF-8 (old archives unpacked on Linux): index, run and predict.

Right: works, or one line that names the file, exit code 2. Never: a traceback (of predict after the first
mask was written).
"""

from __future__ import annotations

import os
from pathlib import Path

from common import (
    TEACHER_ONLY,
    Answer,
    Verdict,
    box_mask,
    control,
    model_file,
    noise,
    save,
    script,
    segdistill,
    show,
)


def pictures(folder: str, name: bytes) -> None:
    for n in range(3):
        for kind, pixels in (("images", noise(n)), ("masks", box_mask(20, 30 + n, 20, 34))):
            place = Path(folder) / kind
            place.mkdir(parents=True, exist_ok=True)
            os.rename(save(pixels, "x.png"), os.fsencode(place) + b"/" + name % n)


def answers(folder: str) -> dict[str, Answer]:
    calls = {
        "index": ("data", "index", "folder", folder, "-o", f"{folder}.csv"),
        "run": ("run", "tiny.yaml", "--data", folder, "--device", "cpu", "--out", f"{folder}-run"),
        "predict": ("predict", "model.onnx", f"{folder}/images", "-o", f"{folder}-masks"),
    }
    return {what: segdistill(*words) for what, words in calls.items()}


def main() -> Verdict:
    Path("tiny.yaml").write_text(TEACHER_ONLY)
    model_file()
    pictures("plain", b"cafe%d.png")
    for what, answer in answers("plain").items():
        control(answer.code == 0, f"{what} of names in ASCII: {answer.last}")

    pictures("latin", b"caf\xe9%d.png")
    found = answers("latin")
    for what, answer in found.items():
        show(what, answer)
    faults = [what for what, answer in found.items() if answer.crashed or answer.code not in (0, 2, 4)]
    return Verdict(bool(faults), f"traceback of {', '.join(faults) or 'none'}")


if __name__ == "__main__":
    script(main)
