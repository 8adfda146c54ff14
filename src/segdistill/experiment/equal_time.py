"""How many steps a baseline takes in the time of a distillation: measured once, then kept with the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from segdistill.experiment.results import read_json
from segdistill.files import write_json
from segdistill.stats.comparison import split_name

EQUAL_TIME_FILE = "equal_time.json"


@dataclass(frozen=True)
class StepTimes:
    """Seconds per optimiser step, and what a whole distillation takes of them.

    Attributes:
        alone: a step of the student without teachers.
        method: a step of the distillation, its teachers asked.
        asking: the part of it that the teachers take.
        steps: of the distillation.
        asked: steps' worth of images that its teachers answer: all of them, or with a cache the views of one filling.

    >>> StepTimes(alone=0.1, method=0.4, asking=0.25, steps=100, asked=20).equal_steps  # 100 x 0.15 + 20 x 0.25 s
    200
    """

    alone: float
    method: float
    asking: float
    steps: int
    asked: int

    @property
    def equal_steps(self) -> int:
        """Steps of the baseline in the time of the distillation; never fewer than it has itself."""
        total = self.steps * max(self.method - self.asking, self.alone) + self.asked * self.asking
        return max(self.steps, round(total / self.alone))


def equal_steps(run: Path, stage: str) -> int | None:
    """The steps that were measured for a stage, for all its seeds alike; None before.

    >>> equal_steps(Path("nowhere"), "baseline_equal_time@0")
    """
    found = read_json(run / EQUAL_TIME_FILE).get(split_name(stage)[0], {}).get("steps")
    return found if type(found) is int else None


def keep_times(run: Path, stage: str, method: str, times: StepTimes) -> None:
    """Writes what was measured, and the steps that follow from it, into the run."""
    known = read_json(run / EQUAL_TIME_FILE)
    seconds = {name: round(value, 5) for name, value in asdict(times).items() if isinstance(value, float)}
    facts = {
        "equal_time_to": split_name(method)[0],
        "steps": times.equal_steps,
        "method_steps": times.steps,
        "asked_steps": times.asked,
        "seconds_per_step": seconds,
    }
    write_json(run / EQUAL_TIME_FILE, known | {split_name(stage)[0]: facts})
