"""images/train, images/val with labels/train, labels/val (the layout of YOLO and of many PyTorch projects).

Right: the column split says train and val. Never: "train" and "val" as names of labels, so that the user's
own split is lost.
"""

from __future__ import annotations

from common import Verdict, box_mask, control, control_call, noise, rows_of, save, script, segdistill


def main() -> Verdict:
    for k, part in enumerate(("train", "val")):
        for n in range(6):
            for name, place in (("split", f"{part}/"), ("flat", "")):
                save(noise(10 * k + n), f"{name}/images/{place}{part}{n}.png")
                save(box_mask(20, 30 + n, 20, 34), f"{name}/labels/{place}{part}{n}.png")
    control_call("data", "index", "folder", "flat", "-o", "flat.csv")
    plain = rows_of("flat.csv")
    control(len(plain) == 12 and not any(row["label"] for row in plain), "the same pictures in one folder")

    answer = segdistill("data", "index", "folder", "split", "-o", "split.csv")
    print(answer.text)
    if answer.code:
        return Verdict(True, f"refused: {answer.last}; right: split train and val")
    rows = rows_of("split.csv")
    splits, labels = (sorted({row[column] for row in rows}) for column in ("split", "label"))
    words = f"split {splits}, label {labels}; right: split train and val, and no label"
    return Verdict(splits != ["train", "val"] or labels != [""], words)


if __name__ == "__main__":
    script(main)
