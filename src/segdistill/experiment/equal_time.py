"""How many steps a baseline takes in the time of a distillation: measured once, then kept with the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from segdistill.experiment.results import read_json
from segdistill.files import write_json

EQUAL_TIME_FILE = "equal_time.json"


@dataclass(frozen=True)
class StepTimes:
    """Seconds per optimiser step, and the number of steps of a distillation.

    Attributes:
        baseline: a step of the student without teachers.
        distillation: a step of the distillation with its teachers.
        teachers: the part of it that the teachers take.
        steps: of the distillation.
        teacher_steps: steps for which the teachers run: all of them, or with a cache those of the cached views.

    >>> StepTimes(0.1, 0.4, 0.25, steps=100, teacher_steps=20).equal_steps  # 100 x 0.15 + 20 x 0.25 s
    200
    """

    baseline: float
    distillation: float
    teachers: float
    steps: int
    teacher_steps: int

    @property
    def equal_steps(self) -> int:
        """Steps of the baseline in the time of the distillation; never fewer than those of the distillation."""
        total = (
            self.steps * max(self.distillation - self.teachers, self.baseline)
            + self.teacher_steps * self.teachers
        )
        return max(self.steps, round(total / self.baseline))


def equal_steps(run: Path, variant: str) -> int | None:
    """The steps that were measured for a stage, the same for all its seeds; None before.

    >>> equal_steps(Path("nowhere"), "baseline_equal_time")
    """
    found = read_json(run / EQUAL_TIME_FILE).get(variant, {}).get("steps")
    return found if type(found) is int else None


def keep_times(run: Path, variant: str, distilled: str, times: StepTimes) -> None:
    """Writes what was measured for a stage, and the steps that follow from it, into the run.

    Args:
        run: its folder.
        variant: the stage without its seed.
        distilled: the distillation whose time it takes, without its seed.
        times: as measured.
    """
    known = read_json(run / EQUAL_TIME_FILE)
    seconds = {name: round(value, 5) for name, value in asdict(times).items() if isinstance(value, float)}
    facts = {
        "equal_time_to": distilled,
        "steps": times.equal_steps,
        "distillation_steps": times.steps,
        "teacher_steps": times.teacher_steps,
        "seconds_per_step": seconds,
    }
    write_json(run / EQUAL_TIME_FILE, known | {variant: facts})
