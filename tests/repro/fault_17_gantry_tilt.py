"""A CT series with a gantry tilt of 20 degrees: each slice is tilted, the table moves along z, 3 mm per
slice.

Right: the first voxel of slice 8 lies at (0, 0, 21) in the written mask's space (a sheared sform), or the
series is refused, or a line on stderr. Never: 7 mm beside it without a word (34 mm at 100 mm of head).
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

from common import Verdict, control, control_call, dicom_slice, mentions, model_file, script, segdistill


def distance(name: str) -> float:
    """How far the first voxel of slice 8 of the written mask lies from (0, 0, 21), in mm."""
    x, y, z = (nib.load(f"masks/{name}.nii.gz").affine @ [0, 0, 7, 1])[:3]
    place = np.array([-x, -y, z])
    print(f"{name}: first voxel of slice 8 at {place.round(2)}")
    return float(np.linalg.norm(place - [0, 0, 21]))


def main() -> Verdict:
    model_file()
    angle = np.radians(20)
    tilted = ("1", "0", "0", "0", f"{np.cos(angle):.10f}", f"{-np.sin(angle):.10f}")
    for k in range(8):
        dicom_slice(f"straight/{k}.dcm", k)
        dicom_slice(f"tilted/{k}.dcm", k, tilted, GantryDetectorTilt="20")
    control_call("predict", "model.onnx", "straight", "-o", "masks")
    plain = distance("straight")
    control(plain < 0.1, f"without tilt it lies {plain:.1f} mm beside its place")

    answer = segdistill("predict", "model.onnx", "tilted", "-o", "masks")
    print(answer.text)
    words = mentions(answer.err, ("tilt", "shear"))
    if answer.code:
        return Verdict(not words, f"refused: {answer.last}")
    off = distance("tilted")
    return Verdict(off > 0.1 and not words, f"first voxel of slice 8 lies {off:.1f} mm from (0, 0, 21)")


if __name__ == "__main__":
    script(main)
