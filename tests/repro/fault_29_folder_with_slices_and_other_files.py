"""A folder with two DICOM slices, a NIfTI volume and a PNG is given to predict.

Right: three results (series, volume, picture), or a line that names what was left out. Never: "1 of 1
images segmented", exit code 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import (
    Verdict,
    control,
    control_call,
    dicom_slice,
    model_file,
    nifti,
    noise,
    save,
    script,
    segdistill,
)


def files(series: str, volume: str, picture: str) -> None:
    for k in range(2):
        dicom_slice(f"{series}/{k}.dcm", k)
    nifti(
        np.random.default_rng(0).integers(0, 255, (24, 20, 8)).astype(np.int16), f"{volume}/patient7.nii.gz"
    )
    save(noise(1), f"{picture}/scan.png")


def main() -> Verdict:
    model_file()
    files("apart/ct", "apart/volumes", "apart/pictures")
    plain = control_call("predict", "model.onnx", "apart", "-o", "p")
    control("3 of 3" in plain.out, f"in folders of their own: {plain.out}")

    files("d", "d", "d")
    answer = segdistill("predict", "model.onnx", "d", "-o", "q")
    done = sorted(path.name for path in Path("q").iterdir())
    print(answer.code, answer.text.strip(), done)
    left = [
        name
        for name, mask in (("patient7.nii.gz", "patient7.nii.gz"), ("scan.png", "scan.png"))
        if mask not in done and name not in answer.text
    ]
    return Verdict(bool(left), f"left out silently: {' and '.join(left) or 'nothing'}")


if __name__ == "__main__":
    script(main)
