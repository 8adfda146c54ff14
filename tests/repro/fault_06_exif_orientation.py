"""Photographs with an EXIF orientation; their masks were drawn upright in an annotation tool.

Orientation 6: the sizes differ. Right: applied, or the message names the EXIF orientation. Orientation 3
(upside down): the sizes are equal. Right: applied, or refused, or a warning. Never: masks upside down with
0 warnings.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from common import Answer, Verdict, control, mentions, packed, save, script, segdistill, warns_of

WORDS = ("exif", "orientation")


def photographs(name: str, orientation: int) -> None:
    for n in range(3):
        stored = np.random.default_rng(n).integers(0, 60, (60, 90), dtype=np.uint8)
        stored[5 + 5 * n : 17 + 5 * n, 6:20] += 150
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = save(stored, f"{name}/images/{n}.jpg", exif=exif, quality=95)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
        save(((upright > 105) * 255).astype(np.uint8), f"{name}/masks/{n}.png")


def look(orientation: int) -> tuple[Answer, float]:
    """The answer of indexing, and which share of the mask lies on the bright lesion (0 where it is refused)."""
    name = f"turned-{orientation}"
    photographs(name, orientation)
    answer = segdistill("data", "index", "folder", name, "-o", f"{name}.csv")
    if answer.code:
        return answer, 0.0
    pixels, mask = packed(f"{name}.csv", f"{name}-packed", 90)["0"]
    share = float(((pixels > 105) & mask).sum() / mask.sum())
    print(f"orientation {orientation}: {share:.0%} of the mask lies on the bright lesion")
    return answer, share


def main() -> Verdict:
    plain, share = look(1)
    control(
        plain.code == 0 and share > 0.9,
        f"photographs that are not rotated: {share:.0%} on the lesion, {plain.last}",
    )
    faults = []
    for orientation in (6, 3):
        answer, share = look(orientation)
        if answer.code and not mentions(answer.text, WORDS):
            faults.append(f"orientation {orientation}: refused without the reason")
        if not answer.code and share < 0.5 and not warns_of(answer.text, WORDS):
            faults.append(f"orientation {orientation}: mask beside its lesion, no warning")
    return Verdict(bool(faults), "; ".join(faults) or "applied, or the reason is named")


if __name__ == "__main__":
    script(main)
