"""Who taught whom with which cases, where teachers speak only of cases that they never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segdistill.evaluation.comparison import split_name
from segdistill.evaluation.html import table, text


@dataclass(frozen=True)
class Taught:
    """One teacher of one student, in numbers of training cases.

    Attributes:
        student, teacher: names of the stages.
        learned: cases that the teacher was trained on.
        taught: cases of the student that it spoke of.
        overlap: those among `taught` that it was trained on.
    """

    student: str
    teacher: str
    learned: int
    taught: int
    overlap: int


def teachers_table(rows: Sequence[Taught]) -> str:
    """A row per teacher; students that it taught alike (seeds of one method, say) share it. "" without rows.

    >>> teachers_table([])
    ''
    >>> page = teachers_table([Taught("kd@0", "t-fold-1", 20, 10, 0), Taught("kd@1", "t-fold-1", 20, 10, 0)])
    >>> page.count("t-fold-1"), page.count("kd")
    (1, 1)
    """
    if not rows:
        return ""
    students: dict[tuple[str, int, int, int], dict[str, None]] = {}
    for row in rows:
        alike = (row.teacher, row.learned, row.taught, row.overlap)
        students.setdefault(alike, {})[split_name(row.student)[0]] = None
    cells = [
        [text(teacher), *(f"{count:,}" for count in counts), text(", ".join(names))]
        for (teacher, *counts), names in students.items()
    ]
    heads = ["Teacher", "Cases it learned from", "Cases it taught", "Overlap", "Students"]
    return (
        "<h3>Who taught whom</h3>"
        + table(heads, cells)
        + '<p class="soft">Overlap: cases it taught that it had learned from. Case by case: teachers.csv.</p>'
    )
