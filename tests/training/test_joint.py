"""What joint networks are told, and what selects their epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, log_expit, log_softmax, softmax
from torch import Tensor, nn

from segdistill.data.case import Case
from segdistill.distillation import Teacher, create_method
from segdistill.errors import InputError
from segdistill.losses import create_loss
from segdistill.models.network import Output
from segdistill.models.registry import create_network
from segdistill.training.inference import grad_cam, share_inside
from segdistill.training.joint import UNKNOWN, CaseLabels, Joint, JointDistillation, JointLoss, case_labels
from segdistill.training.settings import JointSettings
from segdistill.training.task import epoch_score


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 2, 3, 3)), rng.normal(size=(4, 2)) * 3, rng.integers(0, 2, size=(4, 12, 12))


def test_the_second_stage_s_loss_is_the_paper_s() -> None:
    """0.5 cross-entropy + 0.5 (location of what is located + 0.1 of what is pseudo-labelled), all in NumPy."""
    maps, spoken, mask = made()
    labels, located = np.array([0, 1, 1, 0]), np.array([True, False, True, False])
    output = Output(torch.zeros(4, 2, 12, 12), {}, [torch.from_numpy(maps)], torch.from_numpy(spoken))
    parts = JointLoss(JointSettings())(
        output, torch.from_numpy(mask), torch.from_numpy(labels), torch.from_numpy(located)
    )
    classification = -log_softmax(spoken, axis=1)[np.arange(4), labels].mean()
    logit = maps[:, 1] - maps[:, 0]
    nodes = np.rint(np.linspace(0, 11, 3) * 2) / 2  # 0, 5.5, 11
    between = (mask[:, 5] + mask[:, 6]) / 2
    rows = np.stack([mask[:, 0], between, mask[:, 11]], axis=1)
    soft = np.stack([rows[..., 0], (rows[..., 5] + rows[..., 6]) / 2, rows[..., 11]], axis=2)
    assert nodes.tolist() == [0, 5.5, 11]
    sure = softmax(spoken, axis=1).max(axis=1) > 0.8
    target = np.where(located[:, None, None], soft, expit(logit) > 0.5)
    weight = np.where(located, 1, 0.1 * sure)
    each = -(target * log_expit(logit) + (1 - target) * log_expit(-logit))
    location = (each * weight[:, None, None]).mean()
    assert parts["classification"].item() == pytest.approx(classification, rel=1e-5)
    assert parts["location"].item() == pytest.approx(location, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(0.5 * classification + 0.5 * location, rel=1e-5)
    assert parts["pseudo"].item() == pytest.approx((sure & ~located).mean())


def test_the_first_stage_leaves_the_class_out() -> None:
    maps, spoken, mask = made()
    label = torch.from_numpy(spoken).requires_grad_()
    output = Output(torch.zeros(4, 2, 12, 12), {}, [torch.from_numpy(maps)], label)
    settings = JointSettings(balance=0.0, labelled_only=True)
    parts = JointLoss(settings)(
        output, torch.from_numpy(mask), torch.full((4,), UNKNOWN), torch.ones(4, dtype=torch.bool)
    )
    assert list(parts) == ["loss", "location", "pseudo"]
    parts["loss"].backward()
    assert label.grad is not None
    assert not label.grad.any()  # zero, not missing: every parameter takes part in distributed training
    assert settings.score == ("val_dice",)


@pytest.mark.parametrize(
    ("settings", "logits"),
    [(JointSettings(), None), (JointSettings(location="none"), torch.zeros(4, 2, 6, 6))],
)
def test_class_alone(settings: JointSettings, logits: Tensor | None) -> None:
    _, spoken, mask = made(1)
    labels = np.array([1, UNKNOWN, 0, 1])
    parts = JointLoss(settings)(
        Output(logits, {}, label=torch.from_numpy(spoken)),
        torch.from_numpy(mask),
        torch.from_numpy(labels),
        torch.zeros(4, dtype=torch.bool),
    )
    known = np.array([0, 2, 3])
    wanted = -log_softmax(spoken, axis=1)[known, labels[known]].mean()
    assert parts["loss"].item() == pytest.approx(wanted, rel=1e-5)


def test_a_map_that_is_not_told_takes_part() -> None:
    """All share to the class: the map's gradient is zero, not missing, as with location none."""
    logits = torch.zeros(2, 2, 6, 6, requires_grad=True)
    output = Output(logits, {}, label=torch.zeros(2, 2))
    labels, mask = torch.tensor([0, 1]), torch.zeros(2, 6, 6, dtype=torch.long)
    parts = JointLoss(JointSettings(balance=1.0))(output, mask, labels, torch.ones(2, dtype=torch.bool))
    assert parts["loss"].item() == pytest.approx(np.log(2))
    parts["loss"].backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_class_weights_are_pytorch_s_weighted_mean() -> None:
    _, spoken, mask = made(2)
    labels, weights = np.array([0, 1, 1, 1]), np.array([2.0, 1.0])
    parts = JointLoss(JointSettings(class_weights=[2.0, 1.0]))(
        Output(None, {}, label=torch.from_numpy(spoken)),
        torch.from_numpy(mask),
        torch.from_numpy(labels),
        torch.zeros(4, dtype=torch.bool),
    )
    each = -log_softmax(spoken, axis=1)[np.arange(4), labels] * weights[labels]
    assert parts["loss"].item() == pytest.approx(each.sum() / weights[labels].sum(), rel=1e-5)


def test_a_student_s_loss_is_the_stage_s_on_what_is_located() -> None:
    _, spoken, mask = made(3)
    logits = torch.from_numpy(np.random.default_rng(4).normal(size=(4, 2, 12, 12)))
    located = torch.tensor([True, False, False, True])
    dice = create_loss("dice")
    joint = JointLoss(JointSettings(location="loss", balance=0.25), dice)
    parts = joint(
        Output(logits, {}, label=torch.from_numpy(spoken)),
        torch.from_numpy(mask),
        torch.zeros(4).long(),
        located,
    )
    wanted = dice(logits[located], torch.from_numpy(mask)[located])
    assert parts["location"].item() == pytest.approx(wanted.item())
    total = 0.25 * parts["classification"] + 0.75 * wanted
    assert parts["loss"].item() == pytest.approx(total.item())
    nothing = joint(
        Output(logits, {}, label=torch.from_numpy(spoken)),
        torch.from_numpy(mask),
        torch.zeros(4).long(),
        torch.zeros(4) > 0,
    )
    assert nothing["location"].item() == 0


class Fixed(nn.Module):
    """Answers the same whatever it sees."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, image: Tensor) -> Output:
        return self.output


def test_validation_counts_what_is_known() -> None:
    mask = torch.zeros(3, 4, 4, dtype=torch.long)
    mask[:, :2] = 1
    logits = torch.full((3, 1, 4, 4), -5.0)
    logits[0, 0, :2] = 5.0  # right
    logits[2, 0, :1] = 5.0  # half of it: Dice 2/3
    label = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    known = CaseLabels(torch.tensor([0, 0, UNKNOWN]), torch.tensor([True, False, True]))
    task = Joint(Fixed(Output(logits, {}, label=label)), JointLoss(JointSettings()), known, known)
    values = task.validate({"image": torch.zeros(3, 1, 4, 4), "mask": mask, "index": torch.arange(3)})
    assert values["dice"].tolist() == pytest.approx([1.0, 2 / 3])
    assert values["accuracy"].tolist() == [1.0, 0.0]
    assert len(values["loss"]) == 3


def test_what_selects_the_epoch() -> None:
    known = CaseLabels(torch.zeros(1).long(), torch.ones(1).bool())
    row = {"val_accuracy": 0.9, "val_dice": 0.5, "loss": 1.0}

    def score(**settings: object) -> float | None:
        return epoch_score(Joint(nn.Identity(), JointLoss(JointSettings(**settings)), known, known), row)  # type: ignore[arg-type]

    assert score() == 0.9
    assert score(select_by="dice") == 0.5
    assert score(select_by="both") == pytest.approx(0.7)
    assert score(balance=0.0) == 0.5
    assert epoch_score(Joint(nn.Identity(), JointLoss(JointSettings()), known, known), {"loss": 1.0}) is None


def test_a_label_of_no_class_is_named() -> None:
    cases = [Case("a", Path("a.png"), label="benign"), Case("b", Path("b.png"), label="normal")]
    with pytest.raises(InputError, match=r"the label of case 'b' is 'normal', not one of malignant, benign"):
        case_labels(cases, ["malignant", "benign"])
    assert case_labels(cases, ["malignant", "benign"], needed=False).labels.tolist() == [1, UNKNOWN]


def test_a_joint_student_learns_mask_and_class_of_its_teacher() -> None:
    torch.manual_seed(0)
    student = create_network("simplified_unet_joint", widths=[4, 8, 8])
    teacher = Teacher("lanet", create_network("lanet_resnet18", base=4))
    known = CaseLabels(torch.tensor([0, 1]), torch.tensor([True, True]))
    methods = {name: (0.5, create_method(name)) for name in ("soft_prediction", "soft_label")}
    joint = JointLoss(JointSettings(location="loss"), create_loss("cross_entropy"))
    task = JointDistillation(
        joint, known, known, student, create_loss("cross_entropy"), [teacher], torch.ones(2, 1), methods
    )
    batch = {
        "image": torch.rand(2, 3, 32, 32),
        "mask": torch.ones(2, 32, 32).long(),
        "index": torch.arange(2),
    }
    parts = task.losses(batch, "student")
    assert parts is not None
    assert set(parts) == {"loss", "classification", "location", "lanet/soft_prediction", "lanet/soft_label"}
    losses = 0.5 * parts["lanet/soft_prediction"] + 0.5 * parts["lanet/soft_label"]
    hard = 0.5 * parts["classification"] + 0.5 * parts["location"]
    torch.testing.assert_close(parts["loss"], hard + losses)
    assert set(task.validate(batch)) == {"loss", "dice", "accuracy"}


class Linear(nn.Module):
    """Two channels of the image are its feature; the class is a weighted sum of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0, -2.0], [-1.0, 0.5]])
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Output:
        feature = image * 1.0
        return Output(None, {"encoder": feature}, label=self.head(feature.mean(dim=(2, 3))))


def test_grad_cam_of_a_linear_network() -> None:
    """There its weights are those of the layer, so that the map is known: ReLU(sum_k w_k A_k) / max."""
    image = torch.from_numpy(np.random.default_rng(0).uniform(size=(1, 2, 4, 4)).astype(np.float32))
    for k, weight in enumerate(([1.0, -2.0], [-1.0, 0.5])):
        plain = np.maximum(weight[0] * image[0, 0].numpy() + weight[1] * image[0, 1].numpy(), 0)
        got = grad_cam(Linear(), image, torch.tensor([k]))[0].numpy()
        np.testing.assert_allclose(got, plain / max(plain.max(), 1e-12), atol=1e-6)
    assert not image.requires_grad


def test_grad_cam_s_share_and_its_refusals() -> None:
    maps = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
    assert share_inside(maps, torch.tensor([[[0, 1], [1, 0]]])).item() == 0.5
    assert share_inside(torch.zeros(1, 2, 2), torch.ones(1, 2, 2)).isnan().all()
    with pytest.raises(InputError, match="needs a network with a label and a feature 'encoder'"):
        grad_cam(create_network("simplified_unet", widths=[2, 4]), torch.zeros(1, 3, 8, 8))
