"""segdistill demo: few masks, many images, a teacher, and how small the student can be; on synthetic images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from segdistill.records import EvaluationRecord

OVERLAYS = 4
_HEAD = "size       parameters     ms  student  baseline  difference"


def demo(
    out: Annotated[Path, typer.Option(help="folder for everything that the demo makes")] = Path("runs/demo"),
) -> None:
    """Try everything on synthetic images, in minutes.

    Few masks and many images: two teachers, students of three sizes beside the same networks without teachers,
    evaluation, report, model file and overlays.
    """
    import segdistill
    from segdistill.data.case import select
    from segdistill.data.table import read_cases
    from segdistill.experiment.results import evaluations
    from segdistill.files import shown

    result = segdistill.run("demo", out=out, device="cpu")
    cases = read_cases(out / "cases.csv")
    test = [case for case in select(cases, split="test") if not case.is_normal]
    predicted = segdistill.predict(
        out / "model.onnx", [case.image for case in test[:OVERLAYS]], out / "overlays"
    )
    train, masks = len(select(cases, split="train")), result.stage("teacher_1").record.train_cases
    print("Synthetic images (a phantom, not patients).")
    print(
        f"{train} images to train on, but only {masks} of them with a mask. {len(test)} other images are the test."
    )
    print(
        "Two teachers learn from the masks. Each student learns from the masks, and from the teachers on all other"
    )
    print(
        "images. Its baseline is the same network, trained as long on the masks alone. Dice on the test images:"
    )
    print("\n".join(ladder(evaluations(out))))
    print(shown(f"report      {result.report}"))
    print(shown(f"model file  {result.model_file}"))
    print(shown(f"overlays    {predicted.folder}"))


def ladder(found: Mapping[str, EvaluationRecord]) -> Iterator[str]:
    """The students beside their baselines, a line each, and what can be concluded from them.

    Args:
        found: evaluations of the stages student_SIZE and baseline_SIZE, large to small, and of teachers.

    >>> list(ladder({}))
    ['size       parameters     ms  student  baseline  difference', 'One seed and few images: this shows ...
    """
    yield _HEAD
    below = []
    for name, student in found.items():
        kind, _, size = name.partition("_")
        dice = _dice(found, name)
        if kind == "teacher":
            yield f"{name:10} {_cost(student)}  {dice:7.3f}"
        if kind != "student":
            continue
        baseline = _dice(found, f"baseline_{size}")
        yield f"{size:10} {_cost(student)}  {dice:7.3f}  {baseline:8.3f}  {dice - baseline:+10.3f}"
        if dice < baseline:
            below.append(size)
    if below:
        yield f"The student is below its baseline here: {', '.join(below)}. Distillation did not help there."
    yield "One seed and few images: this shows how it works, and is no claim that distillation helps."


def _dice(found: Mapping[str, EvaluationRecord], name: str) -> float:
    score = found[name].score("dice")
    return float("nan") if score is None or score.mean is None else score.mean


def _cost(found: EvaluationRecord) -> str:
    return f"{(found.cost.parameters or 0) / 1e6:8.2f} M  {found.cost.ms or 0:5.1f}"
