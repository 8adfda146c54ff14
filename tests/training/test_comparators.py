"""Every method of distillation end to end: two architectures, learned parts and queues that resume, clean weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor

from segdistill.data.views import Views
from segdistill.distillation import METHODS, Teacher, create_method, create_weighting
from segdistill.distillation.base import weighted_terms
from segdistill.distillation.weighting import AdaptiveFactors
from segdistill.errors import InputError
from segdistill.losses import create_loss
from segdistill.models.network import shapes_only
from segdistill.training.curves import read_curves
from segdistill.training.distillation import Distillation, build_learned_parts
from segdistill.training.loop import STATE, WEIGHTS, fit
from segdistill.training.settings import FitSettings, OptimizerSettings, ScheduleSettings
from tests.training.conftest import network, small_resnet

SMALL = {"pixels": 60, "per_image": 4, "regions": 8, "drawn_pixels": 40, "drawn_regions": 8, "grid": 4}

COMPARATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "FitNet": ("fitnet", {"layers": ["encoder", "decoder"]}),
    "SKD": ("skd", {}),
    "SKD with its critic": ("skd", {"holistic": 0.1, "critic_width": 8}),
    "IFVD": ("ifvd", {}),
    "IFVD with its critic": ("ifvd", {"adversarial": 0.001, "critic_width": 8}),
    "CWD": ("cwd", {"features": 50.0, "layers": ["encoder"]}),
    "EMKD": ("emkd", {}),
    "CIRKD": ("cirkd", SMALL),
    "ProtoKD": ("protokd", {}),
    "AMTML-KD": ("amtml", {"relations": 1.0}),
}

LEARNED = {
    "FitNet": ["0.projections.resnet/decoder.weight", "0.projections.resnet/encoder.weight"],
    "CWD": ["0.terms.features.projections.resnet/encoder.weight"],
    "CIRKD": [
        "0.terms.memory.memories.resnet/.pixel",
        "0.terms.memory.memories.resnet/.pixel_count",
        "0.terms.memory.memories.resnet/.head.0.weight",
    ],
    "AMTML-KD": ["0.terms.hints.projections.resnet/encoder.weight", "1.factors", "1.taken"],
}

CRITICS = {
    "SKD with its critic": ["skd/holistic/resnet"],
    "IFVD with its critic": ["ifvd/adversarial/resnet"],
}


def task_of(method: str) -> Distillation:
    """A small U-Net learns from a small ResNet; from two teachers where the method is about several."""
    name, options = COMPARATORS[method]
    several = name == "amtml"
    teachers = [Teacher("resnet", small_resnet(2))] + ([Teacher("unet", network(1))] if several else [])
    torch.manual_seed(4)
    return Distillation(
        network(),
        create_loss("weight_balance"),
        teachers,
        torch.ones(11, len(teachers)),
        {name: (0.1, create_method(name, **options))},
        weighting=create_weighting("adaptive_factors") if several else None,
        combine="predictions" if several else "losses",
    )


@pytest.fixture
def how() -> FitSettings:
    return FitSettings(
        epochs=2, batch_size=6, precision="fp32", workers=0, select="last", checkpoint_seconds=0.0
    )


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 2, (3, 4, 4), generator=generator)
    mask[2] = 0  # an image without lesion
    return {
        "image": torch.rand(3, 1, 32, 32, generator=generator),
        "mask": mask.repeat_interleave(8, 1).repeat_interleave(8, 2),
        "index": torch.tensor([2, 0, 1]),
    }


@pytest.mark.parametrize("method", COMPARATORS)
def test_trains_and_resumes_bit_identical_and_saves_the_student_alone(
    method: str, views: tuple[Views, Views], how: FitSettings, tmp_path: Path
) -> None:
    """In mixed precision where a critic takes gradients of its own."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if method in CRITICS else "32-true")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    task = task_of(method)
    before = {name: value.clone() for name, value in task.players["student"].state_dict().items()}
    steps = list(fit(task, *views, how, whole, fabric))
    assert len(steps) == 4
    loop = fit(task_of(method), *views, how, broken, fabric)
    next(loop)
    loop.close()  # type: ignore[attr-defined]
    state = torch.load(broken / STATE, weights_only=True)
    companions = state["companions"]["student"]
    for name in LEARNED.get(method, []):
        assert not torch.equal(companions[name], before[f"companions.{name}"])
    assert sorted(state["networks"]) == sorted(["student", *CRITICS.get(method, [])])
    torch.manual_seed(99)  # a new process begins with other random numbers
    list(fit(task_of(method), *views, how, broken, fabric))
    first, second = (load_file(folder / WEIGHTS) for folder in (whole, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert set(first) == set(network().state_dict())
    curves = [
        [
            {k: v for k, v in row.items() if k not in ("seconds", "wait_share")}
            for row in read_curves(f / "curves.csv")
        ]
        for f in (whole, broken)
    ]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("method", COMPARATORS)
def test_each_term_is_shown_and_the_loss_is_their_sum(method: str, batch: dict[str, Tensor]) -> None:
    task = task_of(method)
    parts = task.losses(batch, "student")
    assert parts is not None
    name = COMPARATORS[method][0]
    weighted = 0.0
    for part, (weight, term) in weighted_terms(1.0, task.methods[name][1]).items():
        label = f"{name}/{part}" if part else name
        shown = [value for key, value in parts.items() if key.endswith(f"/{label}")]
        assert shown
        if not (term.weighted and len(shown) > 1):  # shown before the weights of teachers
            weighted += 0.1 * weight * sum(value.item() for value in shown)
    segmentation = create_loss("weight_balance")
    hard = segmentation.total({key: parts[key] for key in ("cross_entropy", "dice", "iou")}).item()
    penalty = parts["weighting/penalty"].item() if "weighting/penalty" in parts else 0.0
    assert parts["loss"].item() == pytest.approx(hard + penalty + weighted, rel=1e-4)
    parts["loss"].backward()
    student = task.players["student"].network  # type: ignore[union-attr]
    assert {n for n, p in student.named_parameters() if p.grad is None} == set()  # type: ignore[union-attr, operator]
    assert all(
        torch.isfinite(p.grad).all() for p in task.players["student"].parameters() if p.grad is not None
    )


@pytest.mark.parametrize("method", CRITICS)
def test_critics_take_their_turn_on_the_students_targets(method: str, batch: dict[str, Tensor]) -> None:
    task = task_of(method)
    (player,) = CRITICS[method]
    critic = task.players[player].train()
    assert task.losses(batch, player) is None  # there are no targets yet
    student = task.losses(batch, "student")
    assert student is not None
    student["loss"].backward()
    assert all(p.grad is None for p in critic.parameters())
    own = [p.grad.clone() for p in task.players["student"].parameters() if p.grad is not None]
    turn = task.losses(batch, player)
    assert turn is not None
    turn["loss"].backward()
    assert all(p.grad is not None for p in critic.parameters())
    after = [p.grad for p in task.players["student"].parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(own, after, strict=True))
    assert task.losses(batch, player) is None  # each batch once


def test_adaptive_factors_learn_from_combined_predictions_alone(batch: dict[str, Tensor]) -> None:
    task = task_of("AMTML-KD")
    parts = task.losses(batch, "student")
    assert parts is not None
    weighting = task.weighting
    assert isinstance(weighting, AdaptiveFactors)
    penalty = weighting.penalty()
    (parts["loss"] - penalty).backward(retain_graph=True)
    assert weighting.factors.grad is not None
    assert weighting.factors.grad.abs().max() > 0
    assert sum(parts[f"{name}/weight"] for name in ("resnet", "unet")).item() == pytest.approx(1, rel=1e-5)
    weighting.zero_grad()
    for teacher in ("resnet", "unet"):
        assert parts[f"{teacher}/amtml/hints"].grad_fn is not None
        parts[f"{teacher}/amtml/hints"].backward(retain_graph=True)
    assert weighting.factors.grad is None or not weighting.factors.grad.any()


def test_an_inactive_teacher_of_learned_weights_leaves_finite_gradients(batch: dict[str, Tensor]) -> None:
    task = task_of("AMTML-KD")
    task.teacher_weights = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 0.0]] * 9)
    parts = task.losses(batch, "student")
    assert parts is not None
    parts["loss"].backward()
    assert all(
        torch.isfinite(p.grad).all() for p in task.players["student"].parameters() if p.grad is not None
    )
    assert parts["unet/amtml/hints"].item() == 0


def test_learned_weights_need_combined_predictions() -> None:
    for name, combine in (("amtml", "losses"), ("fitnet", "predictions")):
        with pytest.raises(InputError, match="learns from combined predictions: set combine: predictions"):
            Distillation(
                network(),
                create_loss("dice"),
                [Teacher("t", network(1))],
                torch.ones(11, 1),
                {name: (1.0, create_method(name))},
                weighting=create_weighting("adaptive_factors"),
                combine=combine,  # type: ignore[arg-type]
            )


def test_every_method_is_checked_without_memory() -> None:
    """As recipes do before anything is trained."""
    with shapes_only():
        student, teacher = network(), small_resnet(1)
        for name in METHODS.keys() - {"feature_similarity"}:
            build_learned_parts(student, {"t": teacher}, {name: (1.0, create_method(name))})


@pytest.mark.parametrize(("name", "weight"), [("skd", "holistic"), ("ifvd", "adversarial")])
def test_a_critic_may_have_a_learning_rate_of_its_own(
    name: str, weight: str, views: tuple[Views, Views], fabric: Fabric, tmp_path: Path
) -> None:
    """Adam's first step moves a parameter by its learning rate, whatever the gradient."""
    critic = f"{name}/{weight}/t"
    how = FitSettings(
        steps=1, batch_size=6, precision="fp32", workers=0, select="last",
        optimizer=OptimizerSettings(name="adam", lr=2e-3, weight_decay=0.0), schedule=ScheduleSettings(name="constant"),
    )  # fmt: skip
    for lr, expected in ((None, 2e-3), (4e-4, 4e-4)):
        method = create_method(name, critic_width=4, critic_lr=lr, **{weight: 0.1})
        torch.manual_seed(4)
        task = Distillation(
            network(),
            create_loss("weight_balance"),
            [Teacher("t", small_resnet(2))],
            torch.ones(11, 1),
            {name: (1.0, method)},
        )
        players = dict(task.players)
        before = copy.deepcopy(players)
        list(fit(task, *views, how, tmp_path / str(lr), fabric))
        moved = {
            player: max(
                (new - old).abs().max().item()
                for new, old in zip(module.parameters(), before[player].parameters(), strict=True)
            )
            for player, module in players.items()
        }
        assert moved == pytest.approx({"student": 2e-3, critic: expected}, rel=0.01)


@pytest.mark.parametrize("lr", [0, -1e-4, float("inf"), float("nan"), "fast"])
def test_learning_rates_of_critics_that_are_none(lr: object) -> None:
    for name in ("holistic", "skd", "ifvd"):
        with pytest.raises(InputError, match=name if lr == "fast" else "critic_lr (must be above 0|is nan)"):
            create_method(name, critic_lr=lr)
