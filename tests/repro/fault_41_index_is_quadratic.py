"""data index, data check and the report's leak check on tables of 1,000 and 4,000 unlike pictures: the
pairs that get a close look (3 to 6 ms each) are a fixed share of ALL pairs (0.79 % on BUSI). Measured:
index 3.5 s for 500, 9 s for 1,000, 25 s for 2,000, 91 s for 4,000 pictures; 20,000 would take 40 minutes
and more, without a word.

Right: four times the pictures take about four times as long (close looks bounded per picture). Never: more
than 8 times.
"""

from __future__ import annotations

import resource

import numpy as np
from PIL import Image

from common import Verdict, box_mask, control, rows_of, save, script, segdistill


def pictures(folder: str, count: int) -> None:
    """Pictures of 128 x 128 that are unlike each other: a coarse pattern under noise."""
    for n in range(count):
        rng = np.random.default_rng(n)
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8))
        pattern = np.asarray(coarse.resize((128, 128), Image.Resampling.BICUBIC))
        save((pattern * rng.uniform(0.5, 1, (128, 128))).astype(np.uint8), f"{folder}/images/{n}.png")
        save(box_mask(40, 60, 40, 60, side=128), f"{folder}/masks/{n}.png")


def seconds(count: int) -> float:
    """Processor time of indexing so many pictures."""
    folder = f"d{count}"
    pictures(folder, count)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = segdistill("data", "index", "folder", folder, "-o", f"{folder}.csv")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    control(answer.code == 0 and len(rows_of(f"{folder}.csv")) == count, f"{count} pictures: {answer.last}")
    groups = len({row["group"] or row["id"] for row in rows_of(f"{folder}.csv")})
    control(groups == count, f"{count} pictures that are unlike each other are {groups} groups")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> Verdict:
    start = seconds(4)  # what does not depend on their number
    few, many = seconds(200) - start, seconds(800) - start
    ratio = many / max(few, 0.05)
    print(f"{few:.1f} s for 200 pictures, {many:.1f} s for 800, start {start:.1f} s")
    return Verdict(ratio > 8, f"four times the pictures take {ratio:.1f} times as long")


if __name__ == "__main__":
    script(main)
