"""A mask of 0 background, 1 lesion, 255 "do not count" (the habit of VOC: a rim around the lesion).

Right: 224 px of lesion and the rim left out, or the file refused. Never: the lesion as background and the
rim as lesion.
"""

from __future__ import annotations

import numpy as np

from common import Verdict, box_mask, control, control_call, noise, packed, save, script, segdistill

LESION = box_mask(20, 34, 20, 36) > 0  # 224 px
RIM = (box_mask(19, 35, 19, 37) > 0) & ~LESION  # 64 px


def main() -> Verdict:
    for name in ("plain", "rim"):
        save(noise(1), f"{name}/images/1.png")
    save(LESION.astype(np.uint8) * 255, "plain/masks/1.png")
    save((LESION * 1 + RIM * 255).astype(np.uint8), "rim/masks/1.png")
    control_call("data", "index", "folder", "plain", "-o", "plain.csv")
    control(
        np.array_equal(packed("plain.csv", "p", 64)["1"][1], LESION), "a mask of 0 and 255 is read otherwise"
    )

    answer = segdistill("data", "index", "folder", "rim", "-o", "rim.csv")
    if answer.code == 2 and "1.png" in answer.err:
        return Verdict(False, f"refused: {answer.err.splitlines()[0]}")
    found = packed("rim.csv", "r", 64)["1"][1]
    inside, rim = int((found & LESION).sum()), int((found & RIM).sum())
    words = f"{inside} of 224 lesion px are foreground, and {rim} of 64 px of the rim; right: 224 and 0"
    return Verdict(not np.array_equal(found, LESION), words)


if __name__ == "__main__":
    script(main)
