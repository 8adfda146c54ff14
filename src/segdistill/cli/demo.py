"""segdistill demo: the whole workflow on synthetic images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="folder for everything that the demo makes")] = Path("runs/demo"),
) -> None:
    """Try everything on synthetic images, in minutes.

    Two teachers, a distilled student, evaluation, report, model file and a prediction.
    """
    import segdistill
    from segdistill.data.case import select
    from segdistill.data.table import read_cases

    result = segdistill.run("demo", out=out, device="cpu")
    print("Dice on the test images (synthetic: a phantom, not patients)")
    print("\n".join(result.lines()))
    cases = select(read_cases(out / "cases.csv"), split="test")
    shown = next(case for case in cases if case.label == "malignant")
    found = segdistill.predict(out / "model.onnx", shown.image, out / "prediction")
    print(f"prediction  {found.folder}")
