"""A NIfTI image whose qform and sform differ (scanner and template space). The written mask should lie on
it in every viewer.

Right: the mask's qform, sform and their codes equal the image's. Never: one replaced by the other (viewers
on ITK read the qform: here 8.6 mm off).
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

from common import Verdict, control, control_call, model_file, script

SCANNER = np.array([[-0.7, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
TEMPLATE = np.array([[0.7, 0, 0, 1], [0, 0.8, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])


def difference(name: str, qform: np.ndarray, sform: np.ndarray, codes: tuple[int, int]) -> str:
    """What differs between an image's header and that of its predicted mask; "" when nothing does."""
    voxels = np.random.default_rng(0).integers(0, 255, (24, 20, 8)).astype(np.int16)
    image = nib.Nifti1Image(voxels, None)
    image.header.set_xyzt_units("mm")
    image.header.set_qform(qform, codes[0])
    image.header.set_sform(sform, codes[1])
    nib.save(image, f"{name}.nii.gz")
    control_call("predict", "model.onnx", f"{name}.nii.gz", "-o", "masks")
    header = nib.load(f"masks/{name}.nii.gz").header
    found = []
    if not np.allclose(header.get_qform(), qform, atol=1e-3):
        found.append("the qform")
    if not np.allclose(header.get_sform(), sform, atol=1e-3):
        found.append("the sform")
    written = (int(header["qform_code"]), int(header["sform_code"]))
    if written != codes:
        found.append(f"the codes ({written} for {codes})")
    return ", ".join(found)


def main() -> Verdict:
    model_file()
    plain = difference("one", SCANNER, SCANNER, (1, 1))
    control(not plain, f"of an image with one transform the mask differs in {plain}")
    found = difference("two", SCANNER, TEMPLATE, (1, 2))
    return Verdict(bool(found), f"the mask's header differs from the image's in {found or 'nothing'}")


if __name__ == "__main__":
    script(main)
