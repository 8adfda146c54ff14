"""A float mask with 0.9999 in place of 1 (resampled, or scaled by scl_slope; tools of FSL, FreeSurfer, ANTs
leave such).

Right: 120 voxels (within 1e-3 of a whole number counts as whole; here the very ones that the image shows).
Never: "it holds fractions".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import Verdict, control, dice_of, model_file, nifti, script, segdistill


def main() -> Verdict:
    mask = np.zeros((24, 20, 10), np.float32)
    mask[6:12, 4:9, 2:6] = 1  # 120 voxels
    affine = [-0.8, -0.9, 3, 1]
    nifti((mask * 255).astype(np.int16), "i.nii.gz", affine)
    model = model_file(size=(20, 24))
    for name, value in (("whole", 1.0), ("nearly", 0.9999)):
        nifti(mask * np.float32(value), f"{name}.nii.gz", affine)
        Path(f"{name}.csv").write_text(f"id,image,masks\na,i.nii.gz,{name}.nii.gz\n")
    plain = dice_of(model, "whole.csv")
    control(plain == 1.0, f"with a mask of 0 and 1 Dice is {plain}, not 1")

    answer = segdistill("data", "check", "nearly.csv")
    if answer.code:
        return Verdict(True, f"{answer.err.splitlines()[0].split(': ', 2)[-1]}; right: 120 voxels")
    found = dice_of(model, "nearly.csv")
    return Verdict(found != 1.0, f"Dice against the 120 voxels that the image shows: {found}; right: 1")


if __name__ == "__main__":
    script(main)
