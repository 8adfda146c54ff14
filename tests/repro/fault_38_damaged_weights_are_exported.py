"""One value of a finished stage's weights.safetensors changed afterwards (bad disk, broken copy).
stage.json holds its SHA-256; run compares it, evaluate and export do not.

Right: 'weights.safetensors does not have the hash that stage.json records: ...', exit code 2. Never: other
scores without a word, and a model file whose provenance states a weights_sha256 that its weights do not
have.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import load_file, save_file

from common import TEACHER_ONLY, Verdict, control, control_call, dataset, script, segdistill, show

WEIGHTS = Path("r/stages/teacher/weights.safetensors")
CALLS = {
    "evaluate": ("evaluate", "r", "r/cases.csv", "--stage", "teacher"),
    "export": ("export", "r", "--stage", "teacher", "-o", "x.onnx"),
}


def stated_hash() -> str:
    """The hash of the weights that the exported model file states."""
    model = onnx.load("x.onnx")
    info = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "segdistill"))
    return str(info["provenance"]["weights_sha256"])


def real_hash() -> str:
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def main() -> Verdict:
    Path("tiny.yaml").write_text(TEACHER_ONLY)
    dataset("d")
    control_call("run", "tiny.yaml", "--data", "d", "--device", "cpu", "--out", "r")
    for words in CALLS.values():
        control_call(*words)
    control(
        stated_hash() == real_hash(), "the unharmed weights do not have the hash that their model file states"
    )

    Path("x.onnx").unlink()
    tensors = load_file(WEIGHTS)
    key = next(name for name, value in tensors.items() if value.dtype == np.float32 and value.size > 4)
    tensors[key].flat[0] += 8  # as a flipped bit of its exponent would
    save_file(tensors, WEIGHTS)
    used = []
    for name, words in CALLS.items():
        answer = segdistill(*words)
        show(name, answer)
        if answer.code != 2 or answer.crashed:
            used.append(name)
    if Path("x.onnx").exists():
        print("stated", stated_hash()[:12], "real", real_hash()[:12])
    return Verdict(bool(used), f"changed weights were used by: {', '.join(used) or 'none'}")


if __name__ == "__main__":
    script(main)
