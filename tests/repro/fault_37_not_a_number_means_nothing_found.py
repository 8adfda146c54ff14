"""A model file whose network answers NaN (damaged weights, overflow; here a NaN in one bias), and one
without softmax, whose 'probabilities' are 2.4.

Right: probabilities that are not finite numbers from 0 to 1 are an error of that picture: one line, no
mask, exit code 4 or 2. Never: '1 of 1 images segmented', area 0, an empty mask that reads as 'no lesion'.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import numpy_helper

from common import Verdict, control, control_call, model_file, rows_of, save, script, segdistill, show


def main() -> Verdict:
    pixels = np.random.default_rng(0).integers(100, 255, (40, 40), dtype=np.uint8)
    save(pixels, "a.png")
    control_call("predict", model_file("plain.onnx"), "a.png", "-o", "plain")
    area = int(rows_of("plain/predictions.csv")[0]["area_px"])
    control(area > 0, "the whole network finds nothing in a bright picture")

    model_file("nan.onnx", initializers=[numpy_helper.from_array(np.array([np.nan, -10], np.float32), "b")])
    model_file("logits.onnx", softmax=False)
    taken = []
    for name in ("nan", "logits"):
        answer = segdistill("predict", f"{name}.onnx", "a.png", "-o", name)
        show(name, answer)
        if answer.code not in (2, 4) or answer.crashed or Path(name, "a.png").exists():
            taken.append(name)
    return Verdict(bool(taken), f"taken as results: {', '.join(taken) or 'none'}")


if __name__ == "__main__":
    script(main)
