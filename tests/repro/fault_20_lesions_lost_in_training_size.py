"""12 pictures of different sizes, each with a lesion of 3 pixels, prepared for size=256 as a run does it.

Right: no lesion is lost (or: the run says before it trains how many are empty at this size). Never: trained
as pictures without anything, without a word.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import TEACHER_ONLY, Verdict, control, control_call, mentions, save, script

TOLD = (
    "too small",
    "vanish",
    "disappear",
    "is lost",
    "are lost",
    "empty at",
    "without foreground",
)


def pictures(folder: str, height: int) -> None:
    """Lesions of `height` rows and three columns in pictures of 400 to 1500 rows."""
    for n in range(12):
        rows, columns = (1500, 2000) if n < 2 else (400 + 20 * n, 300 + 37 * n)
        pixels = np.random.default_rng(n).integers(0, 80, (rows // 20, columns // 20), dtype=np.uint8)
        pixels = np.kron(pixels, np.ones((21, 21), np.uint8))[:rows, :columns]
        mask = np.zeros(pixels.shape, np.uint8)
        top, left = rows // 2 + 7 * n, columns // 2 + 5 * n
        mask[top : top + height, left : left + 3 * height] = 255
        save(pixels, f"{folder}/images/{n}.png")
        save(mask, f"{folder}/masks/{n}.png")


def prepared(folder: str) -> tuple[int, str]:
    """How many of the prepared masks that a run trains on hold a lesion, and what it says before it trains."""
    index = control_call("data", "index", "folder", folder, "-o", f"{folder}.csv")
    run = control_call(
        "run", "tiny.yaml", "--data", f"{folder}.csv", "--device", "cpu", "--out", f"{folder}/run"
    )
    (masks,) = Path(folder, ".store").glob("*/masks.npy")
    left = int(np.load(masks).reshape(12, -1).any(axis=1).sum())
    return left, index.text + run.err.split("stage teacher")[0]


def main() -> Verdict:
    Path("tiny.yaml").write_text(TEACHER_ONLY.replace("size: 32", "size: 256"))
    pictures("large", 40)
    left, said = prepared("large")
    control(left == 12 and not mentions(said, TOLD), f"of 12 large lesions {left} are left; {said}")

    pictures("small", 1)
    left, said = prepared("small")
    found = mentions(said, TOLD)
    words = f"{12 - left} of 12 lesions are empty masks at 256 x 256, told: {found}; right: 0, or told"
    return Verdict(left < 12 and not found, words)


if __name__ == "__main__":
    script(main)
