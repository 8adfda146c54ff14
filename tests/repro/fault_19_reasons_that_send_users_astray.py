"""Files that are whole, but of a kind that is not read. The message must not say that they are damaged.

float64 TIFF -> right: says float64, or that this kind of TIFF is not read and what to save instead (today:
"cannot identify image file <_io.BufferedReader ...>: restore the file"). dataset.json of nnU-Net v2 ->
right: says that it is no Decathlon dataset.json (today: "is damaged (KeyError): unpack the task again").
images/*.nii.gz and masks/*.nii.gz -> right: volumes need a table (today: "no images: put them into
.../images"). Or they are read.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from common import (
    Answer,
    Verdict,
    box_mask,
    control_call,
    mentions,
    model_file,
    nifti,
    noise,
    save,
    script,
    segdistill,
    show,
)


def write_float64_tiff(path: str) -> None:
    """Eight by eight pixels of 64 bits, which Pillow cannot write."""
    pixels = np.linspace(0, 1, 64).astype("<f8").tobytes()
    short, long = 3, 4
    tags = [
        (256, long, 8),
        (257, long, 8),
        (258, short, 64),
        (259, short, 1),
        (262, short, 1),
        (273, long, 8),
    ]
    tags += [(277, short, 1), (278, long, 8), (279, long, 512), (339, short, 3)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = b"II*\0" + struct.pack("<I", 8 + 512)
    Path(path).write_bytes(start + pixels + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0")


def write_task(folder: str, content: dict[str, object], suffix: str) -> None:
    volume = np.random.default_rng(0).integers(0, 99, (8, 8, 4)).astype(np.int16)
    mask = np.zeros((8, 8, 4), np.uint8)
    mask[2:5, 2:5, 1:3] = 1
    nifti(volume, f"{folder}/imagesTr/c1{suffix}.nii.gz")
    nifti(mask, f"{folder}/labelsTr/c1.nii.gz")
    Path(folder, "dataset.json").write_text(json.dumps(content))


def controls() -> None:
    """The same of a kind that is read: float32, a Decathlon task, a folder of pictures."""
    save(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), "f32.tif")
    control_call("predict", "model.onnx", "f32.tif", "-o", "masks")
    listed = {"image": "./imagesTr/c1.nii.gz", "label": "./labelsTr/c1.nii.gz"}
    write_task("task", {"labels": {"0": "background", "1": "organ"}, "training": [listed]}, "")
    control_call("data", "index", "decathlon", "task", "-o", "task.csv")
    save(noise(1), "pictures/images/1.png")
    save(box_mask(20, 40, 30, 50), "pictures/masks/1.png")
    control_call("data", "index", "folder", "pictures", "-o", "pictures.csv")


def main() -> Verdict:
    model_file()
    controls()
    write_float64_tiff("f64.tif")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 1}
    write_task("nnunet", {**described, "file_ending": ".nii.gz"}, "_0000")
    for kind in ("images", "masks"):
        nifti(np.zeros((8, 8, 4), np.int16), f"volumes/{kind}/c1.nii.gz")
    calls: dict[str, tuple[Answer, tuple[str, ...]]] = {
        "float64 TIFF": (
            segdistill("predict", "model.onnx", "f64.tif", "-o", "masks"),
            ("BufferedReader", "restore the file"),
        ),
        "dataset.json of nnU-Net": (
            segdistill("data", "index", "decathlon", "nnunet", "-o", "nn.csv"),
            ("is damaged", "unpack the task again"),
        ),
        "folder of volumes": (
            segdistill("data", "index", "folder", "volumes", "-o", "v.csv"),
            ("no images: put them into",),
        ),
    }
    faults = []
    for what, (answer, misleading) in calls.items():
        show(what, answer)
        if answer.crashed or (answer.code and mentions(answer.err, misleading)):
            faults.append(what)
    return Verdict(bool(faults), f"misleading: {', '.join(faults) or 'none'}")


if __name__ == "__main__":
    script(main)
