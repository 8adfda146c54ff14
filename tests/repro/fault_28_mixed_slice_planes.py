"""Six axial MR volumes of one kind; three are stored with another order of axes (PIR), so that their
"slices" are another plane.

Right: a warning at index and check (or axial slices taken from all). Never: 12 slices of 40 x 40 in one, 40
slices of 12 x 40 in the other, 0 warnings.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from common import Verdict, control, control_call, model_file, rows_of, script, segdistill, warns_of

PLANES = ("plane", "axial", "sagittal", "orientation", "axes")
AFFINE = np.diag([-0.8, -0.8, 3, 1.0])


def volumes(name: str, turned_from: int) -> None:
    """Six volumes and their masks; those from number `turned_from` on are stored as PIR."""
    rows = ["id,image,masks"]
    for n in range(6):
        image = np.random.default_rng(n).normal(100, 20, (40, 40, 12)).astype(np.float32)
        mask = np.zeros(image.shape, np.uint8)
        mask[10 + n : 20 + n, 12:22, 3:8] = 1
        pair = nib.Nifti1Image(image, AFFINE), nib.Nifti1Image(mask, AFFINE)
        if n >= turned_from:
            wanted = nib.orientations.axcodes2ornt("PIR")
            how = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), wanted)
            pair = tuple(part.as_reoriented(how) for part in pair)
        for part, file in zip(pair, (f"{name}{n}.nii.gz", f"{name}{n}m.nii.gz"), strict=True):
            part.header.set_xyzt_units("mm")
            nib.save(part, file)
        rows.append(f"{n},{name}{n}.nii.gz,{name}{n}m.nii.gz")
    Path(f"{name}.csv").write_text("\n".join(rows) + "\n")


def main() -> Verdict:
    volumes("one", 6)
    plain = control_call("data", "check", "one.csv")
    control(not warns_of(plain.text, PLANES), f"six volumes of one plane are warned about: {plain.out}")

    volumes("mixed", 3)
    answer = segdistill("data", "check", "mixed.csv")
    print(answer.text)
    control_call("predict", model_file(), "mixed0.nii.gz", "mixed3.nii.gz", "-o", "p")
    slices = [row["slices"] for row in rows_of("p/predictions.csv")]
    words = f"slices that the network sees in two volumes of one kind: {' and '.join(slices)}"
    return Verdict(len(set(slices)) > 1 and not warns_of(answer.text, PLANES), words)


if __name__ == "__main__":
    script(main)
