"""A training of so many steps: the last epoch ends early, and a stopped one goes on to the very same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from segdistill.data.views import Views
from segdistill.training.curves import read_curves
from segdistill.training.loop import WEIGHTS, fit
from segdistill.training.settings import FitSettings
from tests.training.conftest import supervised

PER_EPOCH = 3  # eleven cases in batches of four: the last has three


def train(
    views: tuple[Views, Views], folder: Path, fabric: Fabric, stop_after: int | None = None, **settings: int
) -> list[tuple[int, int]]:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    fixed = FitSettings(batch_size=4, checkpoint_seconds=0.0, workers=0, precision="fp32", **settings)
    told = []
    training = fit(supervised(), *views, fixed, folder, fabric)
    for number, progress in enumerate(training):
        told.append((progress.epoch, progress.step))
        if number == stop_after:
            training.close()  # type: ignore[attr-defined]
            break
    return told


def test_the_last_epoch_ends_early(views: tuple[Views, Views], tmp_path: Path, fabric: Fabric) -> None:
    told = train(views, tmp_path / "a", fabric, steps=7)
    assert len(told) == 7
    curves = read_curves(tmp_path / "a" / "curves.csv")
    assert [row["epoch"] for row in curves] == [1, 2, 3]
    # its numbers are the mean over the one step that it has, not over three
    assert curves[2]["loss"] == pytest.approx(curves[1]["loss"], rel=0.5)


def test_whole_epochs_are_the_same_as_counted_in_steps(
    views: tuple[Views, Views], tmp_path: Path, fabric: Fabric
) -> None:
    train(views, tmp_path / "a", fabric, steps=2 * PER_EPOCH)
    train(views, tmp_path / "b", fabric, epochs=2)
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("stop_after", [2, 5, 6])
def test_a_stopped_one_goes_on(
    views: tuple[Views, Views], tmp_path: Path, fabric: Fabric, stop_after: int
) -> None:
    train(views, tmp_path / "whole", fabric, steps=8)
    train(views, tmp_path / "broken", fabric, stop_after, steps=8)
    train(views, tmp_path / "broken", fabric, steps=8)
    assert (tmp_path / "broken" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_fewer_steps_than_an_epoch(views: tuple[Views, Views], tmp_path: Path, fabric: Fabric) -> None:
    assert len(train(views, tmp_path / "a", fabric, steps=1)) == 1
    assert (tmp_path / "a" / WEIGHTS).exists()
