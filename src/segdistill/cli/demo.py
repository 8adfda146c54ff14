"""segdistill demo: the whole story on synthetic images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.progress import needs


def demo(
    out: Annotated[Path, typer.Option(help="folder for everything that the demo makes")] = Path("runs/demo"),
) -> None:
    """Two teachers, a distilled student, evaluation, report, model file and a prediction: minutes on a laptop."""
    from segdistill.config.load import load_recipe

    with needs("the demo", "train"):
        from segdistill.cli.progress import show
        from segdistill.experiment.machine import Machine
        from segdistill.experiment.results import run_summary
        from segdistill.experiment.run import run_recipe
    from segdistill.cli.predict import predict
    from segdistill.data.case import select
    from segdistill.data.table import read_cases

    show(run_recipe(load_recipe("demo"), None, out, Machine(device="cpu")))
    summary = run_summary(out)
    print("Dice on the test images (synthetic: a phantom, not patients)")
    for name, stage in summary["stages"].items():
        print(f"  {name:20}{stage['line']}")
    shown = next(
        case for case in select(read_cases(out / "cases.csv"), split="test") if case.label == "malignant"
    )
    predict(out / "model.onnx", [shown.image], out=out / "prediction")
    print(f"report      {out / 'report.html'}")
    print(f"model file  {out / 'model.onnx'}")
    print(f"prediction  {out / 'prediction'}")
