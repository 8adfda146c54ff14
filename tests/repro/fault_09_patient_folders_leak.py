"""images/patient00/0.png ... images/patient07/5.png: eight patients with six pictures each, split by
--split hold-out.

Right: no patient on two sides (the folder is the group), or a warning that asks whether the folders are
patients. Never: every patient in train, val and test with 0 warnings (as labels they are even spread on
purpose).
"""

from __future__ import annotations

from common import (
    Verdict,
    box_mask,
    control,
    control_call,
    noise,
    rows_of,
    save,
    script,
    segdistill,
    warns_of,
)


def main() -> Verdict:
    for patient in range(8):
        for n in range(6):
            for name, mark in (("patients", "/"), ("flat", "_")):
                save(noise(10 * patient + n), f"{name}/images/patient{patient:02}{mark}{n}.png")
                save(box_mask(10 + n, 30, 20, 40), f"{name}/masks/patient{patient:02}{mark}{n}.png")
    control_call("data", "index", "folder", "flat", "-o", "flat.csv", "--split", "hold-out")
    plain = {row["split"] for row in rows_of("flat.csv")}
    control(plain == {"train", "val", "test"}, f"the same pictures in one folder are split into {plain}")

    answer = segdistill("data", "index", "folder", "patients", "-o", "c.csv", "--split", "hold-out")
    print(answer.text)
    if answer.code:
        return Verdict(True, f"refused: {answer.last}")
    sides: dict[str, set[str]] = {}
    for row in rows_of("c.csv"):
        patient = next(part for part in row["image"].split("/") if part.startswith("patient0"))
        sides.setdefault(patient, set()).add(row["split"])
    leaking = sum(len(found) > 1 for found in sides.values())
    words = f"{leaking} of 8 patients are on several sides; right: 0, or a warning"
    return Verdict(leaking > 0 and not warns_of(answer.text, ("patient", "group")), words)


if __name__ == "__main__":
    script(main)
