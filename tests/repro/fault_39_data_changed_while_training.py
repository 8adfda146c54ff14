"""The training pictures are replaced while the run trains (a sync, a colleague). It trains on from what it
prepared at the start, which is right; but at the end it hashes the files again.

Right: run.json and the model file state the hash of the data that was trained on, and one line says that
files have changed since. Never: data_hash (and provenance.data_sha256 of the model file) of pictures that
no weight has ever seen, exit code 0.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from common import (
    TEACHER_ONLY,
    Verdict,
    control,
    control_call,
    dataset,
    mentions,
    rows_of,
    save,
    script,
    start,
)

TOLD = ("changed", "differ", "no longer")


def stated(run: str) -> tuple[str, str]:
    """The hash of the data in run.json, and in the model file ("" where there is none)."""
    facts = json.loads(Path(run, "run.json").read_text())
    model = Path(run, "model.onnx")
    if not model.exists():
        return str(facts.get("data_hash")), ""
    entries = onnx.load(model).metadata_props
    info = json.loads(next(entry.value for entry in entries if entry.key == "segdistill"))
    return str(facts.get("data_hash")), str(info["provenance"]["data_sha256"])


def main() -> Verdict:
    Path("tiny.yaml").write_text(TEACHER_ONLY)
    dataset("d", 24)
    words = ("run", "tiny.yaml", "--data", "d", "--device", "cpu", "--set", "epochs=8", "--out")
    plain = control_call(*words, "plain")
    known, of_model = stated("plain")
    control(
        known == of_model and not mentions(plain.err, TOLD),
        f"without a change the hashes differ: {plain.last}",
    )

    child = start(*words, "r")
    curves = Path("r/stages/teacher/curves.csv")
    while not curves.exists() and child.poll() is None:
        time.sleep(0.05)
    began, _ = stated("r")
    control(began == known, "the same data have another hash in the second run")
    for row in rows_of("r/cases.csv"):
        if row["split"] == "train":
            path = Path("r", row["image"])
            save(255 - np.asarray(Image.open(path)), path)
    child.wait()
    said = Path("log").read_text()
    print(child.returncode, said.strip().splitlines()[-1])
    of_run, of_model = stated("r")
    wrong = [
        name
        for name, value in (("run.json", of_run), ("the model file", of_model))
        if value not in ("", began)
    ]
    told = mentions(said, TOLD) and "Traceback" not in said
    where = " and ".join(wrong) or "neither"
    return Verdict(
        bool(wrong) or not told, f"the hash of data that was not trained on stands in: {where}; told: {told}"
    )


if __name__ == "__main__":
    script(main)
