"""A/1.png, B/1.png, C/1.png in one call of predict, then again without A.

Right: predictions.csv says which mask file belongs to which picture, and no mask of an earlier call is left
that the table does not list. Never: 1.png, 1_2.png, 1_3.png to be guessed from the order, and a stale
1_3.png after the second call.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from common import Verdict, control, control_call, model_file, noise, rows_of, save, script


def masks(folder: str) -> list[str]:
    found = Path(folder).rglob("*.png")
    return sorted(
        path.relative_to(folder).as_posix()
        for path in found
        if "overlay" not in path.name and path.parent.name != "earlier"
    )


def main() -> Verdict:
    model_file()
    for n, name in enumerate("ABC"):
        save(noise(n), f"distinct/{name}.png")
        save(noise(n), f"alike/{name}/1.png")
    control_call("predict", "model.onnx", "distinct", "-o", "p")
    control(
        masks("p") == ["A.png", "B.png", "C.png"],
        f"the masks of pictures with names of their own: {masks('p')}",
    )

    control_call("predict", "model.onnx", "alike", "-o", "q")
    rows, first = rows_of("q/predictions.csv"), masks("q")
    cells = [str(value) for row in rows for name, value in row.items() if name != "file"]
    named = len(first) == 3 and all(any(mask in cell for cell in cells) for mask in first)
    shutil.rmtree("alike/A")
    control_call("predict", "model.onnx", "alike", "-o", "q")
    left, listed = masks("q"), len(rows_of("q/predictions.csv"))
    print("columns:", ", ".join(rows[0]), "masks after the second call:", left)
    words = f"the table names the mask files: {named}; masks in the folder: {len(left)} for 2 pictures"
    return Verdict(not named or len(left) > listed, words)


if __name__ == "__main__":
    script(main)
