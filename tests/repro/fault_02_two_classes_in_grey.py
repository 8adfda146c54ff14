"""A mask of two structures, 0 / 127 / 255, each small (less than a tenth of the picture).

Right: both are foreground (425 px; a volume's labels are joined like this), or the file is refused as 0 / 1
/ 2 is. Never: one of them dropped silently.
"""

from __future__ import annotations

import numpy as np

from common import Verdict, box_mask, control, control_call, noise, packed, save, script, segdistill

LARGE, SMALL = box_mask(20, 40, 30, 50, 1), box_mask(5, 10, 5, 10, 1)  # 400 and 25 px


def main() -> Verdict:
    for name, value in (("plain", 255), ("two", 127)):
        save(noise(1), f"{name}/images/1.png")
        save(np.uint8(value) * LARGE + np.uint8(255) * SMALL, f"{name}/masks/1.png")
    control_call("data", "index", "folder", "plain", "-o", "plain.csv")
    plain = int(packed("plain.csv", "p", 64)["1"][1].sum())
    control(plain == 425, f"of both structures drawn with 255 there are {plain} px, not 425")

    answer = segdistill("data", "index", "folder", "two", "-o", "two.csv")
    if answer.code == 2 and "1.png" in answer.err:
        return Verdict(False, f"refused: {answer.err.splitlines()[0]}")
    found = int(packed("two.csv", "t", 64)["1"][1].sum())
    return Verdict(found != 425, f"{found} px of foreground; right: 425, or refused")


if __name__ == "__main__":
    script(main)
