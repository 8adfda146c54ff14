"""A folder of three volumes, the second with NaN as scl_inter in its header (nibabel's HeaderDataError is
no InputError).

Right: its line among the failures, the other two done, exit code 4 (docs: 'Pictures that cannot be read are
listed at the end, the others are done'). Never: a traceback, the third volume not done, and a table without
the rows of what was done.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from common import Verdict, control, control_call, model_file, nifti, rows_of, script, segdistill, show


def main() -> Verdict:
    model_file()
    rng = np.random.default_rng(0)
    for name in "abc":
        nifti(rng.integers(0, 1000, (16, 14, 6)).astype(np.int16), f"d/{name}.nii", (0.8, 0.8, 2, 1))
    plain = control_call("predict", "model.onnx", "d", "-o", "whole")
    control("3 of 3" in plain.out, f"of the three whole volumes: {plain.out}")

    header = bytearray(Path("d/b.nii").read_bytes())
    struct.pack_into("<ff", header, 112, 1.0, math.nan)
    Path("d/b.nii").write_bytes(header)
    answer = segdistill("predict", "model.onnx", "d", "-o", "p")
    show("one of three is damaged", answer)
    done = sorted(path.name for path in Path("p").glob("*.nii.gz"))
    rows = len(rows_of("p/predictions.csv")) if Path("p/predictions.csv").exists() else 0
    right = answer.code == 4 and not answer.crashed and done == ["a.nii.gz", "c.nii.gz"] and rows == 2
    named = "b.nii" in answer.err
    words = f"exit code {answer.code}, traceback: {answer.crashed}, masks written: {done}, rows: {rows}, named: {named}"
    return Verdict(not (right and named), words)


if __name__ == "__main__":
    script(main)
