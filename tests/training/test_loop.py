"""The loop: equal to plain PyTorch, bit-identical after any interruption, and honest about numbers that go wrong."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import default_collate

from segdistill.data.views import Views, batch_indices
from segdistill.errors import InputError
from segdistill.losses import create_loss
from segdistill.training.checkpoint import TrainingStopped, load_state, save_state
from segdistill.training.curves import read_curves
from segdistill.training.loop import BEST, STATE, WEIGHTS, Progress, fit
from segdistill.training.settings import FitSettings, OptimizerSettings, ScheduleSettings
from tests.training.conftest import TASKS, network, supervised

PAIR = tuple[Views, Views]


def settings(**changes: object) -> FitSettings:
    base = FitSettings(
        epochs=3, batch_size=3, precision="fp32", channels_last=False, workers=0, select="last"
    )
    return base.model_copy(update=changes)


def run(
    task: object, views: PAIR, how: FitSettings, folder: Path, fabric: Fabric, stop_after: int | None = None
) -> int:
    """Consumes the loop, or drops it after some steps as a kill would; returns the steps taken."""
    loop = fit(task, *views, how, folder, fabric)  # type: ignore[arg-type]
    taken = 0
    for _ in loop:
        taken += 1
        if taken == stop_after:
            loop.close()
            break
    return taken


def test_equals_a_plain_loop(views: PAIR, folder: Path, fabric: Fabric) -> None:
    """The same views, AdamW and one-cycle schedule in a dozen lines of PyTorch give the same weights."""
    run(supervised(), views, settings(), folder, fabric)
    plain, loss = network(), create_loss("weight_balance")
    optimizer = torch.optim.AdamW(plain.parameters(), 2e-3, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=12, pct_start=0.3, cycle_momentum=False
    )
    train = views[0]
    for epoch in range(3):
        for part in batch_indices(len(train), 3, train.seed, epoch):
            image, mask = default_collate([train.view(int(k), epoch) for k in part])
            loss(plain(image).logits, mask).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    trained = load_file(folder / WEIGHTS)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-5, atol=1e-6)


def untimed_curves(folder: Path) -> list[dict[str, float]]:
    rows = read_curves(folder / "curves.csv")
    return [{name: v for name, v in row.items() if name not in ("seconds", "wait_share")} for row in rows]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "schedule",
    ["one_cycle", *(pytest.param(n, marks=pytest.mark.slow) for n in ("plateau", "cyclic", "polynomial"))],
)
def test_interrupted_anywhere_ends_bit_identical(
    task: str, schedule: str, views: PAIR, tmp_path: Path, fabric: Fabric
) -> None:
    how = settings(
        schedule=ScheduleSettings(name=schedule, patience=0, steps_up=5),  # type: ignore[arg-type]
        checkpoint_seconds=0.0,
        channels_last=True,
        precision="bf16",
        select="best",
    )
    whole = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    assert run(TASKS[task](), views, how, tmp_path / "whole", whole) == 12
    chance = random.Random(f"{task}{schedule}")
    for _ in range(3):
        again = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
        torch.manual_seed(chance.randrange(1000))  # a new process begins with other random numbers
        run(TASKS[task](), views, how, tmp_path / "broken", again, stop_after=chance.randrange(1, 5))
    run(TASKS[task](), views, how, tmp_path / "broken", whole)
    expected, got = load_file(tmp_path / "whole" / WEIGHTS), load_file(tmp_path / "broken" / WEIGHTS)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert untimed_curves(tmp_path / "whole") == untimed_curves(tmp_path / "broken")


def test_dropout_resumes_bit_identical(views: PAIR, tmp_path: Path, fabric: Fabric) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.drop = network(), nn.Dropout(0.3)

        def forward(self, image: torch.Tensor) -> object:
            return self.inner(self.drop(image))

    from segdistill.training.task import Supervised

    def make() -> Supervised:
        torch.manual_seed(5)
        return Supervised(Dropping(), create_loss("dice"))

    how = settings(checkpoint_seconds=0.0)
    run(make(), views, how, tmp_path / "whole", fabric)
    run(make(), views, how, tmp_path / "broken", fabric, stop_after=6)
    run(make(), views, how, tmp_path / "broken", fabric)
    a, b = load_file(tmp_path / "whole" / WEIGHTS), load_file(tmp_path / "broken" / WEIGHTS)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("found", ["another network", "another version", "another optimiser", "no state"])
def test_a_state_of_something_else_is_refused(found: str, views: PAIR, folder: Path, fabric: Fabric) -> None:
    run(supervised(), views, settings(checkpoint_seconds=0.0), folder, fabric, stop_after=1)
    state = load_state(folder / STATE)
    if found == "another network":
        weights = state["networks"]
        weights[next(iter(weights))] = nn.Conv2d(1, 2, 3).state_dict()
    elif found == "another version":
        state["position"]["laps"] = 3
    elif found == "another optimiser":
        del state["optimizers"]
    save_state(folder / STATE, [1, 2] if found == "no state" else state)  # type: ignore[arg-type]
    message = (
        f"training state {folder / STATE} is of another network or version: remove it to train this stage"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        run(supervised(), views, settings(), folder, fabric)


def test_accumulation_equals_a_bigger_batch(views: PAIR, tmp_path: Path, fabric: Fabric) -> None:
    """Without batch statistics (eval-like normalisation) two batches of 2 give the step of one batch of 4."""

    def frozen_norm() -> object:
        task = supervised()
        for module in task.players["network"].modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0
                module.eval()
                module.train = lambda mode=True, m=module: m  # type: ignore[method-assign, misc]
        return task

    sgd = OptimizerSettings(name="sgd", lr=0.05, weight_decay=0.0)
    views[0].case_ids[:] = views[0].case_ids[:8]
    views[0]._rows[:] = views[0]._rows[:8]
    run(frozen_norm(), views, settings(batch_size=4, optimizer=sgd), tmp_path / "big", fabric)
    run(frozen_norm(), views, settings(batch_size=2, accumulate=2, optimizer=sgd), tmp_path / "small", fabric)
    a, b = load_file(tmp_path / "big" / WEIGHTS), load_file(tmp_path / "small" / WEIGHTS)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_nan_stops_with_its_name_and_keeps_the_last_checkpoint(
    views: PAIR, folder: Path, fabric: Fabric
) -> None:
    class Failing(nn.Module):
        calls = 0

        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            Failing.calls += self.training and logits.requires_grad
            return create_loss("dice")(logits, target) * (float("nan") if Failing.calls > 6 else 1.0)

    task = supervised()
    task.loss = Failing()
    with pytest.raises(
        TrainingStopped, match=r"loss is NaN at step 3 of epoch 2.*last good checkpoint is kept"
    ):
        run(task, views, settings(), folder, fabric)
    kept = torch.load(folder / STATE, weights_only=True)
    assert kept["position"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in kept["networks"]["network"].values())


def test_best_epoch_is_kept_and_training_stops_early(views: PAIR, folder: Path, fabric: Fabric) -> None:
    how = settings(epochs=30, select="best", early_stop=2, optimizer=OptimizerSettings(lr=0.3))
    run(supervised(), views, how, folder, fabric)
    dice = [row["val_dice"] for row in read_curves(folder / "curves.csv")]
    assert len(dice) < 30
    assert max(dice) == dice[-3]
    check = supervised()
    check.players["network"].network.load_state_dict(load_file(folder / WEIGHTS))  # type: ignore[operator, union-attr]
    check.players["network"].eval()
    scores = []
    for k in range(len(views[1])):
        image, mask = views[1].view(k, 0)
        predicted = check.players["network"](image[None]).logits[0].argmax(0) == 1
        total = predicted.sum() + mask.sum()
        scores.append(float(2 * (predicted & (mask == 1)).sum() / total) if total else 1.0)
    assert sum(scores) / len(scores) == pytest.approx(max(dice), abs=1e-6)


def test_what_a_finished_stage_leaves(views: PAIR, folder: Path, fabric: Fabric) -> None:
    progress: list[Progress] = list(fit(supervised(), *views, settings(), folder, fabric))
    assert {p.name for p in folder.iterdir()} == {WEIGHTS, "curves.csv", "tensorboard"}
    assert not (folder / BEST).exists()
    assert [p.step for p in progress] == [1, 2, 3, 4] * 3
    assert set(progress[0].parts) == {"loss", "cross_entropy", "dice", "iou"}
    assert list((folder / "tensorboard").glob("events.*"))


def test_validation_is_rarer_where_nothing_depends_on_it(views: PAIR, folder: Path, fabric: Fabric) -> None:
    views[0]._rows[:] = views[0]._rows[:4]
    run(supervised(), views, settings(epochs=21, batch_size=4), folder, fabric)
    rows = read_curves(folder / "curves.csv")
    assert len(rows) == 21
    assert [row["epoch"] for row in rows if "val_dice" in row] == [3, 6, 9, 12, 15, 18, 21]


@pytest.mark.parametrize(
    "how", [{"select": "best"}, {"early_stop": 30}, {"schedule": ScheduleSettings(name="plateau")}]
)
def test_validation_is_made_wherever_it_decides(how: dict[str, object]) -> None:
    assert all(settings(epochs=40, **how).validates(epoch, 40) for epoch in range(40))


def test_without_validation_the_last_weights_are_kept(views: PAIR, folder: Path, fabric: Fabric) -> None:
    list(fit(supervised(), views[0], None, settings(select="best"), folder, fabric))
    assert (folder / WEIGHTS).exists()
    assert "val_dice" not in read_curves(folder / "curves.csv")[0]


def test_an_infinite_gradient_never_reaches_a_checkpoint(views: PAIR, folder: Path, fabric: Fabric) -> None:
    """The loss stays finite while its gradient is not: weights are checked before they are saved."""

    class Exploding(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("inf")

    class Loss(nn.Module):
        calls = 0

        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            Loss.calls += logits.requires_grad
            value = create_loss("dice")(logits, target)
            return Exploding.apply(value) if Loss.calls == 8 else value  # type: ignore[no-any-return, no-untyped-call]

    task = supervised()
    task.loss = Loss()
    with pytest.raises(TrainingStopped, match=r"a weight of network is NaN at step 4 of epoch 2"):
        run(task, views, settings(), folder, fabric)
    kept = torch.load(folder / STATE, weights_only=True)
    assert kept["position"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in kept["networks"]["network"].values())
