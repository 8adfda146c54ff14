"""A NIfTI image and mask of one size, spacing and orientation; the mask's origin lies 30 mm (10 slices)
away.

Right: refused, or a warning at index and check. Never: silently laid voxel on voxel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import Verdict, control, control_call, mentions, nifti, script, segdistill, warns_of

PLACE = ("origin", "position", " mm", "shift")


def main() -> Verdict:
    rng = np.random.default_rng(0)
    affine = np.diag([-0.8, -0.9, 3, 1.0])
    affine[:3, 3] = [10, 20, -30]
    moved = affine.copy()
    moved[2, 3] += 30
    mask = np.zeros((24, 20, 20), np.uint8)
    mask[6:12, 4:9, 0:4] = 1
    nifti(rng.normal(100, 20, mask.shape).astype(np.float32), "i.nii.gz", affine)
    for name, place in (("here", affine), ("away", moved)):
        nifti(mask, f"{name}.nii.gz", place)
        Path(f"{name}.csv").write_text(f"id,image,masks\na,i.nii.gz,{name}.nii.gz\n")
    plain = control_call("data", "check", "here.csv")
    control(
        not warns_of(plain.text, PLACE), f"a mask with the origin of its image is warned about: {plain.out}"
    )

    answer = segdistill("data", "check", "away.csv")
    print(answer.text)
    found = mentions(answer.err, PLACE) if answer.code == 2 else warns_of(answer.text, PLACE)
    return Verdict(not found, "a mask 30 mm beside its image; right: an error or a warning")


if __name__ == "__main__":
    script(main)
