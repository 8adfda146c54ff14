"""Schedules against their formulas, and settings that describe themselves."""

from __future__ import annotations

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from segdistill.training.optimisation import make_optimizer, make_schedule
from segdistill.training.settings import (
    AdversarialSettings,
    FitSettings,
    JointSettings,
    OptimizerSettings,
    ScheduleSettings,
)


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
    settings = ScheduleSettings()
    assert (settings.lowest, settings.steps_up, settings.power) == (1e-6, 2000, 0.9)


@pytest.mark.parametrize(
    "settings", [AdversarialSettings, FitSettings, JointSettings, OptimizerSettings, ScheduleSettings]
)
def test_every_setting_is_described(settings: type[BaseModel]) -> None:
    assert all(field.description for field in settings.model_fields.values())


@pytest.mark.parametrize("name", ["constant", "plateau", "one_cycle", "cyclic", "polynomial"])
def test_dumps_are_read_back(name: str) -> None:
    settings = ScheduleSettings(name=name, factor=0.5)  # type: ignore[arg-type]
    assert ScheduleSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("bad", [{"lowest": -1.0}, {"steps_up": 0}, {"power": 0.0}, {"name": "cosine"}])
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ScheduleSettings.model_validate(bad)
