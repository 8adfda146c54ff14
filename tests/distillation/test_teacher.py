"""Teachers are frozen, in eval mode, without a graph, and outside the student."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segdistill.distillation import Teacher, create_method, teacher_weights
from segdistill.losses import create_loss
from segdistill.models.registry import create_network
from segdistill.training.distillation import Distillation


def small(name: str = "simplified_unet") -> nn.Module:
    return create_network(name, widths=[4, 8, 8])


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(3, 3, 16, 16, generator=generator),
        "mask": torch.randint(0, 2, (3, 16, 16), generator=generator),
        "index": torch.tensor([2, 0, 1]),
    }


def distillation(
    student: nn.Module, teachers: list[Teacher], weights: torch.Tensor, **options: object
) -> Distillation:
    methods = {"soft_prediction": (1.0, create_method("soft_prediction"))}
    return Distillation(student, create_loss("weight_balance"), teachers, weights, methods, **options)  # type: ignore[arg-type]


def test_a_call_leaves_no_graph_and_no_trace_in_the_teacher(batch: dict[str, torch.Tensor]) -> None:
    network = small().train()
    teacher = Teacher("t", network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()  # whatever somebody does to it
    answer = teacher(batch["image"])
    assert not answer.logits.requires_grad
    assert all(
        torch.equal(before[name], value) for name, value in network.state_dict().items()
    )  # no BN update
    assert not any(p.requires_grad for p in network.parameters())
    assert not answer.logits.is_inference()  # an inference tensor could not enter a loss


def test_dropout_is_off(batch: dict[str, torch.Tensor]) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.drop = small(), nn.Dropout(0.5)

        def forward(self, image: torch.Tensor) -> object:
            return self.inner(self.drop(image))

    teacher = Teacher("t", Dropping().train())
    assert torch.equal(teacher(batch["image"]).logits, teacher(batch["image"]).logits)


def test_teachers_are_not_part_of_the_student(batch: dict[str, torch.Tensor]) -> None:
    student = small()
    task = distillation(student, [Teacher("t", small())], torch.ones(3, 1))
    held = sum(p.numel() for p in task.players["student"].parameters())
    assert held == sum(p.numel() for p in student.parameters())
    task.losses(batch, "student")["loss"].backward()
    assert all(p.grad is None for p in task.teachers[0].network.parameters())


def test_loss_is_equation_9(batch: dict[str, torch.Tensor]) -> None:
    """L = 0.3 L_WB + 0.5 KL(B || S) + 0.2 KL(M || S), written out with torch's own kl_div."""
    torch.manual_seed(0)
    student, benign, malignant = small().eval(), small(), small()
    teachers = [Teacher("b", benign, 0.5, ["benign"]), Teacher("m", malignant, 0.2, ["malignant"])]
    weights = teacher_weights(teachers, ["benign", "malignant", "malignant"])
    got = distillation(student, teachers, weights, hard_weight=0.3).losses(batch, "student")

    def kl(teacher: nn.Module) -> torch.Tensor:
        s = student(batch["image"]).logits.log_softmax(1).movedim(1, -1).reshape(-1, 2)
        t = teacher(batch["image"]).logits.softmax(1).movedim(1, -1).reshape(-1, 2)
        return nn.functional.kl_div(s, t, reduction="batchmean")

    hard = create_loss("weight_balance")(student(batch["image"]).logits, batch["mask"])
    expected = 0.3 * hard + 0.5 * kl(benign) + 0.2 * kl(malignant)
    assert got["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert {"cross_entropy", "dice", "iou", "b/soft_prediction", "m/soft_prediction"} <= set(got)


def test_routing_by_class_silences_the_other_teacher(batch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    student = small().eval()
    teachers = [Teacher("b", small(), 0.5, ["benign"]), Teacher("m", small(), 0.2, ["malignant"])]
    labels = ["benign", "malignant", "malignant"]  # of cases 0, 1, 2; the batch shows 2, 0, 1
    task = distillation(student, teachers, teacher_weights(teachers, labels, "by_class"), hard_weight=0.0)
    got = task.losses(batch, "student")["loss"].item()
    method = create_method("soft_prediction")
    own = method.targets(student(batch["image"]))
    b, m = (method(own, method.targets(t(batch["image"]))) for t in teachers)
    expected = (0.2 * m[0] + 0.5 * b[1] + 0.2 * m[2]) / 3
    assert got == pytest.approx(expected.item(), rel=1e-5)


def test_finetuned_teachers_learn_only_from_the_masks_of_their_own_class(
    batch: dict[str, torch.Tensor],
) -> None:
    torch.manual_seed(0)
    teachers = [
        Teacher("b", small(), 0.5, ["benign"], trainable=True),
        Teacher("m", small(), 0.2, ["malignant"], trainable=True),
    ]
    own = torch.tensor([[True, False], [False, True], [False, True]])
    task = distillation(small(), teachers, torch.ones(3, 2), finetune=own)
    assert list(task.players) == ["student", "b", "m"]
    task.losses(batch, "student")["loss"].backward()
    assert all(
        p.grad is None for t in teachers for p in t.network.parameters()
    )  # the student's loss stops there
    network = teachers[0].network.train()
    got = task.losses(batch, "b")
    assert got is not None
    benign = batch["index"] == 0
    expected = create_loss("weight_balance")(network(batch["image"][benign]).logits, batch["mask"][benign])
    assert got["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    only_malignant = {name: value[batch["index"] != 0] for name, value in batch.items()}
    assert task.losses(only_malignant, "b") is None
