"""A palette PNG: index 0 (background) is red, index 1 (lesion) is green.

Right: 400 px (the indices say it), or refused. Never: the whole picture as lesion.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from common import Verdict, box_mask, control, control_call, noise, packed, save, script, segdistill


def palette_mask(path: str, background: tuple[int, int, int]) -> None:
    indices = box_mask(20, 40, 30, 50, 1)
    picture = Image.new("P", (64, 64))
    picture.putdata(indices.ravel().tolist())
    picture.putpalette([*background, 0, 255, 0])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def main() -> Verdict:
    for name, background in (("black", (0, 0, 0)), ("red", (255, 0, 0))):
        save(noise(1), f"{name}/images/1.png")
        palette_mask(f"{name}/masks/1.png", background)
    control_call("data", "index", "folder", "black", "-o", "black.csv")
    plain = int(packed("black.csv", "b", 64)["1"][1].sum())
    control(plain == 400, f"with a black background there are {plain} px of foreground, not 400")

    answer = segdistill("data", "index", "folder", "red", "-o", "red.csv")
    if answer.code == 2 and "1.png" in answer.err:
        return Verdict(False, f"refused: {answer.err.splitlines()[0]}")
    found = int(packed("red.csv", "r", 64)["1"][1].sum())
    return Verdict(found != 400, f"{found} of 4096 px are foreground; right: 400, or refused")


if __name__ == "__main__":
    script(main)
