"""Several teachers of different architecture: the equations, the guards, and what stays out of the student."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from segdistill.data.views import Views
from segdistill.distillation import Teacher, Weighting, create_method, create_weighting
from segdistill.distillation.methods.lightvessel import FeatureSimilarity, feature_autoencoder
from segdistill.errors import InputError
from segdistill.losses import create_loss
from segdistill.models.network import Output
from segdistill.models.registry import create_network
from segdistill.training.distillation import Distillation
from segdistill.training.loop import STATE, WEIGHTS, fit
from segdistill.training.settings import FitSettings
from tests.training.conftest import adaptive, network, reconstruction

ALL = (
    "soft_prediction",
    "attention_transfer",
    "region_contrast",
    "adversarial_similarity",
    "feature_similarity",
)


def real_teachers() -> dict[str, nn.Module]:
    """Encoders, decoders, strides and widths of three kinds."""
    torch.manual_seed(5)
    return {
        "enet": create_network("enet", in_channels=1),
        "unet": create_network("unet", in_channels=1, widths=[4, 6, 8, 8]),
        "resnet": create_network("resnet_attention_unet", in_channels=1, depth=18, base=4),
    }


def small_student() -> nn.Module:
    torch.manual_seed(6)
    return create_network("simplified_unet", in_channels=1, widths=[4, 4, 8, 8])


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(3, 1, 64, 64, generator=generator),
        "mask": torch.randint(0, 2, (3, 8, 8), generator=generator)
        .repeat_interleave(8, 1)
        .repeat_interleave(8, 2),
        "index": torch.tensor([2, 0, 1]),
    }


def every_method(student: nn.Module, networks: dict[str, nn.Module]) -> dict[str, tuple[float, object]]:
    codes = {name: feature_autoencoder(n, name) for name, n in {"student": student, **networks}.items()}
    made = {name: create_method(name) for name in ALL[:-1]}
    return {name: (0.1, method) for name, method in made.items()} | {
        "feature_similarity": (1.0, FeatureSimilarity(autoencoders=codes))
    }


def task_of(
    student: nn.Module,
    networks: dict[str, nn.Module],
    weighting: Weighting | None = None,
    combine: str = "losses",
) -> Distillation:
    teachers = [Teacher(name, n, 0.5) for name, n in networks.items()]
    return Distillation(
        student,
        create_loss("amtd_seg"),
        teachers,
        torch.full((3, len(teachers)), 0.5),
        every_method(student, networks),  # type: ignore[arg-type]
        weighting=weighting,
        combine=combine,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("combine", ["losses", "predictions"])
def test_guards_with_three_architectures(combine: str, batch: dict[str, Tensor]) -> None:
    """Teachers stay in eval mode, frozen, unchanged and outside the student; every method sees all of them."""
    networks, student = real_teachers(), small_student()
    task = task_of(student, networks, create_weighting(), combine)
    before = {n: {k: v.clone() for k, v in t.state_dict().items()} for n, t in networks.items()}
    for teacher in networks.values():
        teacher.train()  # whatever happens to it
    parts = task.losses(batch, "student")
    assert parts is not None
    parts["loss"].backward()
    for name, teacher in networks.items():
        after = teacher.state_dict()
        assert all(torch.equal(value, after[k]) for k, value in before[name].items())  # no BN update
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
        for kind in ALL[1:]:
            assert torch.isfinite(parts[f"{name}/{kind}"])
        assert 0 < parts[f"{name}/weight"] < 1
    assert sum(parts[f"{name}/weight"] for name in networks).item() == pytest.approx(1, rel=1e-5)
    assert ("combined/soft_prediction" in parts) == (combine == "predictions")
    held = sum(p.numel() for p in task.players["student"].parameters())
    assert held == sum(p.numel() for p in student.parameters())
    assert {n for n, p in student.named_parameters() if p.grad is None} == set()


def test_loss_is_amtds_equations(batch: dict[str, Tensor]) -> None:
    """Eq. 6 and 7 written out: Seg + 0.1 sum_j w_j (AT_j + RC_j) + 0.1 KL(sum_j w_j p_j || p), per sample."""
    networks, student = real_teachers(), small_student().eval()
    names = ("attention_transfer", "region_contrast", "soft_prediction")
    kinds = {n: create_method(n) for n in names[:2]} | {
        "soft_prediction": create_method("soft_prediction", temperature=4.0)
    }
    task = Distillation(
        student,
        create_loss("amtd_seg"),
        [Teacher(n, t) for n, t in networks.items()],
        torch.ones(3, 3),
        {n: (0.1, k) for n, k in kinds.items()},
        weighting=create_weighting(),
        combine="predictions",
    )
    got = task.losses(batch, "student")
    assert got is not None
    image, mask = batch["image"], batch["mask"]
    with torch.no_grad():
        own, outputs = student(image), [t.eval()(image) for t in networks.values()]
    g = (mask > 0).double()
    p = [a.logits.double().softmax(1)[:, 1] for a in outputs]
    dice = torch.stack([2 * (q * g).sum((1, 2)) / (q + g).sum((1, 2)) for q in p], 1)
    w = dice / dice.sum(1, keepdim=True)
    mixed = sum(
        w[:, j, None, None, None] * a.logits.double().div(4).softmax(1) for j, a in enumerate(outputs)
    )
    student_log = own.logits.double().div(4).log_softmax(1)
    expected = create_loss("amtd_seg")(own.logits, mask).double()
    expected += 0.1 * 16 * (mixed * (mixed.log() - student_log)).sum(1).mean()
    for name in names[:2]:
        kind = kinds[name]
        for j, output in enumerate(outputs):
            loss = kind(kind.targets(own, mask), kind.targets(output, mask))
            expected += 0.1 * (w[:, j] * loss).mean()
    assert got["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_teacher_is_the_same_either_way(batch: dict[str, Tensor]) -> None:
    networks = {"unet": real_teachers()["unet"]}
    losses = [
        task_of(small_student(), networks, combine=combine).losses(batch, "student")
        for combine in ("losses", "predictions")
    ]
    assert losses[0] is not None
    assert losses[1] is not None
    torch.testing.assert_close(losses[0]["loss"], losses[1]["loss"], rtol=1e-5, atol=1e-6)


def test_uniform_weights_are_the_mean_of_the_losses(batch: dict[str, Tensor]) -> None:
    networks = real_teachers()
    got = task_of(small_student(), networks, create_weighting("uniform")).losses(batch, "student")
    assert got is not None
    expected = create_loss("amtd_seg").total({name: got[name] for name in ("dice", "lovasz")})
    for kind in ALL:
        weight = 1.0 if kind == "feature_similarity" else 0.1
        expected = expected + weight * sum(got[f"{name}/{kind}"] for name in networks) / 3
    assert got["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_active_teachers_only_the_reference_teaches(batch: dict[str, Tensor]) -> None:
    networks, student = real_teachers(), small_student().eval()
    task = Distillation(
        student,
        create_loss("dice"),
        [Teacher(n, t) for n, t in networks.items()],
        torch.zeros(3, 3),
        {"soft_prediction": (1.0, create_method("soft_prediction"))},
        weighting=create_weighting(),
        combine="predictions",
    )
    got = task.losses(batch, "student")
    assert got is not None
    alone = create_loss("dice")(student(batch["image"]).logits, batch["mask"])
    assert got["loss"].item() == pytest.approx(alone.item())


def test_a_missing_feature_lists_what_the_network_has() -> None:
    student, networks = small_student(), real_teachers()
    with pytest.raises(
        InputError,
        match=r"attention_transfer: teacher 'enet' has no feature 'enc4': it has enc1 \(stride 2\)",
    ):
        Distillation(
            student,
            create_loss("dice"),
            [Teacher(n, t) for n, t in networks.items()],
            torch.ones(3, 3),
            {"attention_transfer": (1.0, create_method("attention_transfer", layers=["enc4"]))},
        )


def test_a_network_that_declares_nothing_is_checked_by_its_outputs(batch: dict[str, Tensor]) -> None:
    class External(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_student()

        def forward(self, image: Tensor) -> Output:
            output = self.inner(image)
            return Output(output.logits, {"encoder": output.features["enc2"]})

    def task(layers: list[str]) -> Distillation:
        methods = {"attention_transfer": (1.0, create_method("attention_transfer", layers=layers))}
        teachers = [Teacher("f", External())]
        return Distillation(small_student(), create_loss("dice"), teachers, torch.ones(3, 1), methods)

    assert task(["encoder"]).losses(batch, "student") is not None
    with pytest.raises(InputError, match=r"teacher 'f' has no feature 'enc@4': it has encoder \(stride 2\)"):
        task(["enc@4"]).losses(batch, "student")


def test_networks_of_other_classes_are_refused() -> None:
    methods = {"soft_prediction": (1.0, create_method("soft_prediction"))}

    def task(classes: int) -> Distillation:
        teachers = [Teacher("t", create_network("unet", 1, classes, widths=[2, 4]))]
        return Distillation(small_student(), create_loss("dice"), teachers, torch.ones(3, 1), methods)

    with pytest.raises(InputError, match="the student has 2 classes, teacher 't' has 3"):
        task(3)
    task(1)  # one sigmoid logit is the same as two classes


def test_learned_parts_train_and_resume_but_are_not_exported(
    views: tuple[Views, Views], tmp_path: Path, fabric: Fabric
) -> None:
    task = adaptive()
    companions = task.players["student"].companions
    before = {k: v.clone() for k, v in companions.state_dict().items()}  # type: ignore[operator, union-attr]
    assert sorted(before) == ["3.projections.resnet/.weight", "3.projections.unet/.weight", "5.sums"]
    how = FitSettings(
        epochs=1, batch_size=4, precision="fp32", workers=0, select="last", checkpoint_seconds=0.0
    )
    for _ in fit(task, *views, how, tmp_path, fabric):
        state = torch.load(tmp_path / STATE, weights_only=True) if (tmp_path / STATE).exists() else {}
    assert sorted(state["companions"]["student"]) == sorted(before)
    after = companions.state_dict()  # type: ignore[operator, union-attr]
    learned = [
        name for name in before if name != "5.sums"
    ]  # of gradients, for weights that are set from them
    assert all(not torch.equal(before[k], after[k]) for k in learned)
    assert set(load_file(tmp_path / WEIGHTS)) == set(network().state_dict())


def test_auto_encoders_learn_a_frozen_network(
    views: tuple[Views, Views], tmp_path: Path, fabric: Fabric
) -> None:
    task = reconstruction()
    teacher = {k: v.clone() for k, v in task.teacher.network.state_dict().items()}
    how = FitSettings(epochs=25, batch_size=4, precision="fp32", workers=0, augment="none")
    progress = list(fit(task, *views, how, tmp_path, fabric))
    assert all(torch.equal(teacher[k], v) for k, v in task.teacher.network.state_dict().items())
    ends = [step.validation["val_loss"] for step in progress if "val_loss" in step.validation]
    assert ends[-1] < 0.8 * ends[0]
    assert set(load_file(tmp_path / WEIGHTS)) == set(
        reconstruction().players["autoencoders"].network.state_dict()
    )  # type: ignore[operator, union-attr]
