"""Schedules against their formulas, and settings that old runs are known by."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from segdistill.training.optimisation import make_optimizer, make_schedule
from segdistill.training.settings import FitSettings, OptimizerSettings, ScheduleSettings


def rates(settings: ScheduleSettings, steps: int, lr: float) -> tuple[list[float], torch.optim.Optimizer]:
    optimizer = make_optimizer(nn.Linear(2, 2), OptimizerSettings(name="adam", lr=lr))
    schedule = make_schedule(optimizer, settings, steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()  # type: ignore[call-arg]
    return seen, optimizer


def test_cyclic_is_a_triangle_and_leaves_momentum_alone() -> None:
    seen, optimizer = rates(ScheduleSettings(name="cyclic", steps_up=4), 10, 1e-2)
    up = [1e-6 + (1e-2 - 1e-6) * share for share in (0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0.25)]
    assert seen == pytest.approx(up, rel=1e-6)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_polynomial() -> None:
    seen, _ = rates(ScheduleSettings(name="polynomial"), 50, 1e-3)
    assert seen == pytest.approx([1e-3 * (1 - t / 50) ** 0.9 for t in range(50)], rel=1e-6)


def test_published_numbers_are_the_defaults() -> None:
    assert ScheduleSettings(name="cyclic").model_dump() | {"lowest": 1e-6, "steps_up": 2000} == (
        ScheduleSettings(name="cyclic").model_dump()
    )
    assert ScheduleSettings(name="polynomial").model_dump()["power"] == 0.9


@pytest.mark.parametrize("name", ["constant", "plateau", "one_cycle"])
def test_dumps_of_older_schedules_are_as_they_were(name: str) -> None:
    """They enter the fingerprints of finished runs."""
    expected = {"name": name, "factor": 0.1, "patience": 3, "warm_up": 0.3}
    assert ScheduleSettings(name=name).model_dump() == expected  # type: ignore[arg-type]
    fit = FitSettings(schedule=ScheduleSettings(name=name))  # type: ignore[arg-type]
    assert fit.model_dump(mode="json")["schedule"] == expected
    assert json.loads(fit.model_dump_json())["schedule"] == expected


@pytest.mark.parametrize("name", ["constant", "plateau", "one_cycle", "cyclic", "polynomial"])
def test_dumps_are_read_back(name: str) -> None:
    settings = ScheduleSettings(name=name, factor=0.5)  # type: ignore[arg-type]
    assert ScheduleSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("bad", [{"lowest": -1.0}, {"steps_up": 0}, {"power": 0.0}, {"name": "cosine"}])
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ScheduleSettings.model_validate(bad)
