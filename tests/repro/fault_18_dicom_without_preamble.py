"""DICOM files without the 128 bytes of preamble and "DICM" (scanners, research exports), a single one and a
series, named .dcm.

Right: read, or a line that says what is missing and what to do. Never: "is not a ... DICOM file" or "has a
damaged DICOM header (InvalidDicomError)".
"""

from __future__ import annotations

from pathlib import Path

import pydicom

from common import Answer, Verdict, control, dicom_slice, mentions, model_file, script, segdistill, show

REASONS = ("preamble", "dicm", "meta ")


def answers(folder: str) -> dict[str, Answer]:
    table = f"{folder}.csv"
    Path(table).write_text(f"id,image,masks,label\na,{folder},,normal\n")
    return {
        "a single slice": segdistill("predict", "model.onnx", f"{folder}/0.dcm", "-o", f"{folder}-one"),
        "a series": segdistill("predict", "model.onnx", folder, "-o", f"{folder}-masks"),
        "a series in a table": segdistill("data", "check", table, "--unlabelled"),
    }


def main() -> Verdict:
    model_file()
    for k in range(4):
        dicom_slice(f"whole/{k}.dcm", k)
        dicom_slice(f"bare/{k}.dcm", k, preamble=False)
    bare = Path("bare/0.dcm")
    assert bare.read_bytes()[128:132] != b"DICM"
    assert pydicom.dcmread(bare, force=True).Rows == 32
    for what, answer in answers("whole").items():
        control(answer.code == 0, f"{what} with its preamble: {answer.last}")

    faults = []
    for what, answer in answers("bare").items():
        show(what, answer)
        if answer.code and not mentions(answer.text, REASONS):
            faults.append(what)
    return Verdict(bool(faults), f"wrong reason given for {', '.join(faults) or 'none'}")


if __name__ == "__main__":
    script(main)
