"""A .seg.nrrd as 3D Slicer writes it for 120 structures: its header has about 80 kB.

Right: read (240 voxels, here the very ones that the image shows). Never: "is not an NRRD file with its data
inside".
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from common import Verdict, control, dice_of, model_file, nifti, script, segdistill


def write_nrrd(path: str, mask: np.ndarray, structures: int) -> int:
    """Writes a segmentation (slices, rows, columns); gives the bytes of its header."""
    lines = [
        "NRRD0004",
        "type: uchar",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: 24 20 10",
        "space directions: (0.8,0,0) (0,0.9,0) (0,0,3)",
        "kinds: domain domain domain",
        "encoding: gzip",
        "space origin: (0,0,0)",
    ]
    tags = "Segmentation.Status:inprogress|TerminologyEntry:" + "category~type~region " * 30
    lines += [f"Segment{n}_Tags:={tags}" for n in range(structures)]
    header = ("\n".join(lines) + "\n\n").encode()
    Path(path).write_bytes(header + gzip.compress(mask.tobytes()))
    return len(header)


def main() -> Verdict:
    mask = np.zeros((10, 20, 24), np.uint8)
    mask[2:6, 4:14, 6:12] = 1  # 240 voxels
    nifti((mask * 255).astype(np.int16).transpose(2, 1, 0), "i.nii.gz", [-0.8, -0.9, 3, 1])
    model = model_file(size=(20, 24))
    lengths = {
        name: write_nrrd(f"{name}.seg.nrrd", mask, count) for name, count in (("short", 2), ("long", 120))
    }
    for name in lengths:
        Path(f"{name}.csv").write_text(f"id,image,masks\na,i.nii.gz,{name}.seg.nrrd\n")
    plain = dice_of(model, "short.csv")
    control(plain == 1.0, f"with a header of {lengths['short']} bytes Dice is {plain}, not 1")

    answer = segdistill("data", "check", "long.csv")
    if answer.code:
        reason = answer.err.splitlines()[0].split(": ")[-1]
        return Verdict(True, f"header of {lengths['long']} bytes: {reason}; right: 240 voxels")
    found = dice_of(model, "long.csv")
    return Verdict(found != 1.0, f"Dice against the 240 voxels that the image shows: {found}; right: 1")


if __name__ == "__main__":
    script(main)
