"""Gradients of terms: against torch.autograd by hand, and that measuring them changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from segdistill.data.views import Views, batch_indices, batches
from segdistill.distillation import Teacher, create_method
from segdistill.errors import InputError
from segdistill.losses import create_loss
from segdistill.models.network import Output
from segdistill.training import gradients
from segdistill.training.curves import read_curves
from segdistill.training.distillation import Distillation
from segdistill.training.gradients import find_imbalance, find_set_weights
from segdistill.training.loop import STATE, WEIGHTS, Progress, Training, fit
from segdistill.training.settings import FitSettings
from segdistill.training.task import Batch
from tests.training.conftest import network

Array = NDArray[np.float64]


def task_of(
    weight: float = 1.0, hard_weight: float = 1.0, student: nn.Module | None = None, **options: object
) -> Distillation:
    methods = {
        "soft_prediction": (weight, create_method("soft_prediction", temperature=4.0, **options)),
        "cwd": (0.5, create_method("cwd", features=50.0, temperature=1.0, **options)),
    }
    teachers = [Teacher(name, network(seed), 0.5) for name, seed in (("a", 1), ("b", 2))]
    chosen = student or network()
    return Distillation(
        chosen, create_loss("weight_balance"), teachers, torch.full((11, 2), 0.5), methods, hard_weight
    )


def some(views: Views, count: int) -> list[Batch]:
    return list(islice(batches(views, 4, 0, workers=0), count))


def gradient(task: Distillation, batch: Batch, of: Callable[[Output, list[Output]], Tensor]) -> Array:
    """The gradient at the student's weights, of a loss that is written out here."""
    output = task.student(batch["image"])
    with torch.no_grad():
        theirs = [teacher.network.eval()(batch["image"]) for teacher in task.live]
    task.student.zero_grad()
    of(output, theirs).backward()
    found = [
        (torch.zeros_like(weight) if weight.grad is None else weight.grad).double().flatten()
        for weight in task.student.parameters()
    ]
    task.student.zero_grad()
    return torch.cat(found).numpy()


def norm(values: Array) -> float:
    return float(np.sqrt(np.square(values).sum()))


def soft(output: Output, theirs: list[Output]) -> Tensor:
    """Sum over two teachers of weight one half."""
    own = torch.log_softmax(output.logits / 4, 1)  # type: ignore[operator]
    losses = []
    for each in theirs:
        teacher = torch.log_softmax(each.logits / 4, 1)  # type: ignore[operator]
        losses.append(16 * (teacher.exp() * (teacher - own)).sum(1).mean())
    return 0.5 * losses[0] + 0.5 * losses[1]


def logits(output: Output, theirs: list[Output]) -> Tensor:
    own = torch.log_softmax(output.logits.flatten(2), 2)  # type: ignore[union-attr]
    losses = []
    for each in theirs:
        teacher = torch.log_softmax(each.logits.flatten(2), 2)  # type: ignore[union-attr]
        losses.append((teacher.exp() * (teacher - own)).sum(2).mean())
    return 0.5 * losses[0] + 0.5 * losses[1]


def test_ratios_and_cosines_equal_gradients_by_hand(views: tuple[Views, Views]) -> None:
    """Of one batch: each term with its weight, over the supervised loss with its own."""
    task = task_of(weight=0.2, hard_weight=0.3)
    batch, loss = some(views[0], 1)[0], create_loss("weight_balance")
    hard, own, cwd = (
        gradient(task, batch, of)
        for of in (lambda output, _: loss(output.logits, batch["mask"]), soft, logits)
    )
    task.begin_step(0, 0, is_last=False)
    task.losses(batch, "student")
    found = task.measured()
    assert found["grad/soft_prediction"] == pytest.approx(0.2 * norm(own) / (0.3 * norm(hard)), rel=1e-4)
    assert found["grad/cwd/logits"] == pytest.approx(0.5 * 3 * norm(cwd) / (0.3 * norm(hard)), rel=1e-4)
    for name, term in (("soft_prediction", own), ("cwd/logits", cwd)):
        cosine = float(np.dot(term, hard)) / (norm(term) * norm(hard))
        assert found[f"grad_cosine/{name}"] == pytest.approx(cosine, abs=1e-4)
    assert found["grad_weight/soft_prediction"] == 0.2
    assert found["grad_weight/cwd/features"] == 25.0
    task.begin_step(0, 1, is_last=False)
    task.losses(batch, "student")
    assert task.measured() == {}


def test_every_ten_steps_of_the_first_epoch_and_at_the_end_of_each(
    views: tuple[Views, Views], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "EVERY", 2)
    settings = FitSettings(epochs=3, batch_size=2)
    list(fit(task_of(), views[0], None, settings, tmp_path, fabric))
    rows, curves = read_curves(tmp_path / "gradients.csv"), read_curves(tmp_path / "curves.csv")
    steps = len(batch_indices(len(views[0]), 2, 0, 0))
    first = sorted({*range(1, steps + 1, 2), steps})
    assert [(row["epoch"], row["step"]) for row in rows] == [
        *((1, step) for step in first),
        (2, steps),
        (3, steps),
    ]
    monkeypatch.setattr(gradients, "EVERY", 2 * steps)
    list(fit(task_of(), views[0], None, settings, tmp_path / "rarely", fabric))
    rarely = read_curves(tmp_path / "rarely" / "gradients.csv")
    assert [(row["epoch"], row["step"]) for row in rarely] == [(1, 1), (1, steps), (3, steps)]
    monkeypatch.setattr(gradients, "EVERY", 10 * steps)
    list(fit(task_of(), views[0], None, settings, tmp_path / "ends", fabric))
    ends = read_curves(tmp_path / "ends" / "gradients.csv")
    assert [(row["epoch"], row["step"]) for row in ends] == [(1, 1), (1, steps), (3, steps)]
    last = {row["epoch"]: row for row in rows}
    for row in curves:
        assert row["grad/cwd/logits"] == last[row["epoch"]]["grad/cwd/logits"]
        assert -1 <= row["grad_cosine/cwd/logits"] <= 1


def test_a_weight_is_set_so_that_gradients_have_the_ratio(
    views: tuple[Views, Views], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "SETTLED", 2)
    task = task_of(weight=2.0, hard_weight=0.3, scale="gradient", ratio=0.5)
    batch = some(views[0], 1)[0]
    loss = create_loss("weight_balance")
    hard = 0.3 * norm(gradient(task, batch, lambda own, _: loss(own.logits, batch["mask"])))
    factor = 0.5 * hard / norm(gradient(task, batch, soft))
    shown = task.losses(batch, "student")
    assert shown is not None
    assert task.columns() == {}  # of two batches one is measured
    gradients_of_all = torch.autograd.grad(shown["loss"], list(task.student.parameters()), allow_unused=True)
    assert all(torch.isfinite(each).all() for each in gradients_of_all if each is not None)
    task.losses(batch, "student")
    columns = task.columns()
    assert set(columns) == {
        f"set_weight/{name}" for name in ("soft_prediction", "cwd/logits", "cwd/features")
    }
    assert columns["set_weight/soft_prediction"] == pytest.approx(2 * factor, rel=1e-3)
    # the total has it: with published weights that are the factors, it is the same
    plain = task_of(weight=columns["set_weight/soft_prediction"], hard_weight=0.3, student=task.student)
    parts = plain.losses(batch, "student")
    again = task.losses(batch, "student")
    assert parts is not None
    assert again is not None
    terms = [name for name in parts if name.startswith(("a/cwd", "b/cwd"))]
    difference = sum(
        0.5 * (columns[f"set_weight/{name[2:]}"] - (25.0 if "features" in name else 1.5)) * parts[name].item()
        for name in terms
    )
    assert again["loss"].item() == pytest.approx(parts["loss"].item() + difference, rel=1e-4)
    before = task.columns()
    for other in some(views[0], 2):
        task.losses(other, "student")
    assert task.columns() == before


class Random(nn.Module):
    """A student with dropout, which draws random numbers in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.classes = network(), 2

    def forward(self, image: Tensor) -> Output:
        output: Output = self.inner(nn.functional.dropout(image, 0.2, self.training))
        return output


@pytest.mark.parametrize(("teachers", "precision"), [("losses", "32-true"), ("predictions", "bf16-mixed")])
def test_measuring_changes_no_bit_of_the_training(
    views: tuple[Views, Views],
    tmp_path: Path,
    teachers: str,
    precision: str,
) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    results = []
    for is_open in (True, False):
        torch.manual_seed(3)
        methods = {"soft_prediction": (1.0, create_method("soft_prediction"))}
        task = Distillation(
            Random(),
            create_loss("weight_balance"),
            [Teacher("a", network(1)), Teacher("b", network(2))],
            torch.full((11, 2), 0.5),
            methods,
            combine=teachers,  # type: ignore[arg-type]
        )
        assert task.gradients is not None
        task.gradients.is_open = is_open
        folder = tmp_path / str(is_open)
        list(fit(task, views[0], None, FitSettings(epochs=2, batch_size=4), folder, fabric))
        rows = read_curves(folder / "curves.csv")
        results.append(((folder / WEIGHTS).read_bytes(), torch.get_rng_state(), rows))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert "grad/soft_prediction" in results[0][2][0]
    kept = [{k: v for k, v in row.items() if k in ("loss", "cross_entropy")} for row in results[0][2]]
    assert kept == [{k: v for k, v in row.items() if k in ("loss", "cross_entropy")} for row in results[1][2]]


def test_a_set_weight_survives_a_kill(
    views: tuple[Views, Views], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the weight is settled, and after: the same bits."""
    monkeypatch.setattr(gradients, "SETTLED", 4)
    monkeypatch.setattr(gradients, "EVERY", 2)
    settings = FitSettings(epochs=2, batch_size=4, checkpoint_seconds=0.0)

    def make() -> Distillation:
        method = create_method("soft_prediction", scale="gradient", balance="class")
        methods = {"soft_prediction": (1.0, method)}
        return Distillation(
            network(), create_loss("dice"), [Teacher("a", network(1))], torch.ones(11, 1), methods
        )

    def run(folder: Path, stop: int | None = None) -> list[Progress]:
        return list(islice(fit(make(), views[0], None, settings, folder, fabric), stop))

    run(tmp_path / "whole")
    for stop in (2, 5):
        folder = tmp_path / f"killed-{stop}"
        run(folder, stop)
        assert (folder / STATE).exists()
        run(folder)
        assert (folder / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
        assert read_curves(folder / "curves.csv")[-1].keys() >= {"set_weight/soft_prediction"}
        assert (folder / "gradients.csv").read_bytes() == (tmp_path / "whole" / "gradients.csv").read_bytes()


def test_batches_without_masks_do_not_count(
    views: tuple[Views, Views], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "SETTLED", 2)
    task = task_of(scale="gradient")
    batch = some(views[0], 1)[0]
    hidden = batch | {
        "has_mask": torch.zeros_like(batch["has_mask"]),
        "mask": torch.zeros_like(batch["mask"]),
    }
    for step in range(4):
        task.begin_step(0, 10 * step, is_last=True)
        task.losses(hidden, "student")
        assert task.measured() == {}
    assert task.columns() == {}
    for _ in range(2):
        task.losses(batch, "student")
    assert "set_weight/soft_prediction" in task.columns()
    endless = task_of(scale="gradient")
    for _ in range(21):
        endless.losses(hidden, "student")
    monkeypatch.setattr(torch.autograd, "grad", None)  # it has given up
    endless.losses(hidden, "student")
    assert endless.columns() == {}


def test_a_row_without_mask_is_balanced_by_its_teacher(views: tuple[Views, Views]) -> None:
    batch = some(views[0], 1)[0]
    shown = batch["has_mask"].clone()
    shown[1] = False
    partly = batch | {"has_mask": shown, "mask": batch["mask"] * shown[:, None, None]}
    teacher = Teacher("a", network(1))
    method = create_method("soft_prediction", balance="class")
    task = Distillation(network(), create_loss("dice"), [teacher], torch.ones(11, 1), {"kd": (1.0, method)})
    with torch.no_grad():
        parts = task.losses(partly, "student")
        theirs = teacher(batch["image"], ())
        mask = batch["mask"].clone()
        mask[1] = theirs.logits[1].argmax(0)  # type: ignore[index]
        own = task.student(batch["image"])
        expected = method(method.targets(own, mask), method.targets(theirs, mask)).mean()
    assert parts is not None
    torch.testing.assert_close(parts["a/kd"], expected)


def test_nothing_to_compare_with() -> None:
    alone = task_of(hard_weight=0.0)
    alone.begin_step(0, 0, is_last=False)
    assert alone.measured() == alone.columns() == {}
    with pytest.raises(InputError, match="soft_prediction: scale gradient needs the supervised loss"):
        task_of(hard_weight=0.0, scale="gradient")


def test_warnings_state_the_weight_that_would_balance() -> None:
    def lines(ratio: float) -> list[str]:
        return find_imbalance([{"grad/kd": ratio, "grad_weight/kd": 2.0}])

    assert lines(0.0101) == lines(9.99) == []
    (weak,) = lines(0.005)
    assert "0.5 % of the supervised one" in weak
    assert "the weight 2e+02 in place of 2 would make it 0.5 times" in weak
    (strong,) = lines(20.0)
    assert "20 times the supervised one" in strong
    assert "the weight 0.05 in place of 2" in strong
    assert lines(0.0) == ["kd has no gradient: it teaches nothing: remove it, or check its teachers"]
    assert find_set_weights([{"loss": 1.0}]) == []


def test_both_ends_of_a_training_count() -> None:
    rows = [{"grad/kd": ratio, "grad_weight/kd": 2.0} for ratio in (0.5, 100.0, 0.004)]
    assert find_imbalance(rows, ended=False) == []
    (line,) = find_imbalance(rows)
    assert line.startswith("at the end of the last epoch the gradient of kd is 0.4 % of the supervised one")
    assert find_imbalance(rows[:2], ended=False) == []
    assert len(find_imbalance(rows[::-1])) == 1
    assert len(find_imbalance([rows[2], rows[0], rows[1]])) == 2


def test_a_warning_names_the_epoch_that_was_measured() -> None:
    """An early stop may end a training of short epochs after one that is not measured."""
    bare = {"loss": 1.0}
    rows = [bare, {"grad/kd": 100.0, "grad_weight/kd": 2.0}, {"grad/kd": 0.004, "grad_weight/kd": 2.0}, bare]
    first, last = find_imbalance([{"epoch": 10.0 + k, **row} for k, row in enumerate(rows)])
    assert first.startswith("at the end of epoch 11 the gradient of kd is 100 times")
    assert last.startswith("at the end of epoch 12 the gradient of kd is 0.4 %")
    assert find_imbalance(rows[:2])[0].startswith("at the end of the last epoch")


def test_a_warned_weight_is_the_right_one(views: tuple[Views, Views]) -> None:
    """With the weight of the warning the ratio is one half."""
    batch = some(views[0], 1)[0]

    def ratio(weight: float) -> float:
        task = task_of(weight=weight)
        task.begin_step(0, 0, is_last=False)
        task.losses(batch, "student")
        return task.measured()["grad/soft_prediction"]

    first = ratio(1e-4)
    assert first < 0.01
    (line, *_) = find_imbalance([{"grad/soft_prediction": first, "grad_weight/soft_prediction": 1e-4}])
    wanted = float(line.split("the weight ")[1].split()[0])
    assert ratio(wanted) == pytest.approx(0.5, rel=0.06)  # the message has two digits


def test_cost_of_measuring(views: tuple[Views, Views], fabric: Fabric) -> None:
    """Gradients are computed in every tenth step of the first epoch."""
    task, calls = task_of(), []
    training = Training(task, FitSettings(batch_size=4), fabric, 20)
    real = torch.autograd.grad

    def counted(*args: object, **named: object) -> object:
        calls.append(1)
        return real(*args, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", counted)
        for _ in range(11):
            training.step(iter(some(views[0], 1)))
    assert len(calls) == 2 * 4  # the supervised loss and three terms
