"""Every loss against its formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.errors import InputError
from segdistill.losses import LOSSES, create_loss
from segdistill.losses.dice import dice_loss
from segdistill.losses.iou import iou_loss
from segdistill.losses.lovasz import _jaccard_steps, lovasz_softmax
from tests.losses.contract import LossContract, as_torch, random_case, softmax


def numpy_cross_entropy(z: np.ndarray, y: np.ndarray) -> float:
    p = softmax(z)
    return float(-np.log(np.take_along_axis(p, y[:, None], 1)).mean())


def numpy_dice(z: np.ndarray, y: np.ndarray, eps: float = 1e-5) -> float:
    scores = []
    for p, g in zip(softmax(z)[:, 1], (y == 1).astype(float), strict=True):
        scores.append((2 * (p * g).sum() + eps) / ((p**2).sum() + (g**2).sum() + eps))
    return float(1 - np.mean(scores))


def numpy_iou(z: np.ndarray, y: np.ndarray, eps: float = 1e-5) -> float:
    values = []
    for p, g in zip(softmax(z)[:, 1], (y == 1).astype(float), strict=True):
        inter = (p * g).sum()
        values.append(-np.log((inter + eps) / (p.sum() + g.sum() - inter + eps)))
    return float(np.mean(values))


def numpy_lovasz(z: np.ndarray, y: np.ndarray) -> float:
    """The Lovasz extension by its definition: steps of the Jaccard loss of growing sets of errors."""
    p = np.moveaxis(softmax(z), 1, 0).reshape(z.shape[1], -1)
    values = []
    for c, own in enumerate(p):
        g = (y.reshape(-1) == c).astype(float)
        if not g.any():
            continue
        errors = np.abs(g - own)
        order = np.argsort(-errors, kind="stable")
        before, total = 0.0, 0.0
        wrong = np.zeros_like(g)
        for place in order:
            wrong[place] = 1
            # prediction that is wrong exactly there: what is left of g, and what is added beside it
            inter, union = (g * (1 - wrong)).sum(), np.maximum(g, wrong).sum()
            loss = 1 - inter / union
            total += errors[place] * (loss - before)
            before = loss
        values.append(total)
    return float(np.mean(values))


def numpy_amtd_dice(z: np.ndarray, y: np.ndarray) -> float:
    scores = []
    for p, g in zip(softmax(z)[:, 1], (y == 1).astype(float), strict=True):
        scores.append((2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1))
    return float(1 - np.mean(scores))


def numpy_focal(z: np.ndarray, y: np.ndarray) -> float:
    p = np.take_along_axis(softmax(z), y[:, None], 1)
    return float((-((1 - p) ** 2) * np.log(p)).mean())


def numpy_balanced_cross_entropy(z: np.ndarray, y: np.ndarray) -> float:
    """Class by class: the sum of a class's losses, times the share of all others."""
    p, total, weight = softmax(z), 0.0, 0.0
    for c in range(z.shape[1]):
        own = y == c
        total += (1 - own.mean()) * -np.log(p[:, c][own]).sum()
        weight += (1 - own.mean()) * own.sum()
    return float(total / weight)


def numpy_batch_dice(z: np.ndarray, y: np.ndarray, eps: float = 1e-5) -> float:
    p = softmax(z)
    scores = [
        (2 * p[:, c][y == c].sum() + eps) / ((p[:, c] ** 2).sum() + (y == c).sum() + eps)
        for c in range(z.shape[1])
    ]
    return float(1 - np.mean(scores))


class TestCrossEntropy(LossContract):
    name = "cross_entropy"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return numpy_cross_entropy(z, y)


class TestDice(LossContract):
    name = "dice"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return numpy_dice(z, y)


class TestIoU(LossContract):
    name = "iou"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return numpy_iou(z, y)


class TestWeightBalance(LossContract):
    name = "weight_balance"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return 2 * numpy_cross_entropy(z, y) + numpy_dice(z, y) + numpy_iou(z, y)


class TestCrossEntropyDice(LossContract):
    name = "cross_entropy_dice"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return numpy_cross_entropy(z, y) + numpy_dice(z, y)


class TestCrossEntropyRmse(LossContract):
    name = "cross_entropy_rmse"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        error = softmax(z)[:, 1] - y
        return numpy_cross_entropy(z, y) + float(np.sqrt((error**2).mean((1, 2))).mean())


class TestLovasz(LossContract):
    name = "lovasz_softmax"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return numpy_lovasz(z, y)


class TestAMTDSeg(LossContract):
    name = "amtd_seg"
    size_tolerance = 2e-2  # its Dice has the published smoothing of one whole position

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return 0.2 * numpy_amtd_dice(z, y) + 0.3 * numpy_lovasz(z, y)


class TestFocal(LossContract):
    name = "focal"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return numpy_focal(z, y)


class TestEMKDSeg(LossContract):
    name = "emkd_seg"
    size_tolerance = 2e-2  # its Dice has the published smoothing of one whole position

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return 0.5 * numpy_focal(z, y) + 0.5 * numpy_amtd_dice(z, y)


class TestBalancedCrossEntropy(LossContract):
    name = "balanced_cross_entropy"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return numpy_balanced_cross_entropy(z, y)


class TestProtoKDSeg(LossContract):
    name = "protokd_seg"

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        return numpy_balanced_cross_entropy(z, y) + numpy_batch_dice(z, y)


def test_every_loss_is_under_contract() -> None:
    assert {each.name for each in LossContract.__subclasses__()} >= set(LOSSES)


def test_weight_balance_shows_its_parts() -> None:
    z, y = random_case()
    parts = create_loss("weight_balance").parts(*as_torch(z, y))
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(
        {"cross_entropy": numpy_cross_entropy(z, y), "dice": numpy_dice(z, y), "iou": numpy_iou(z, y)},
        rel=1e-5,
    )


def test_dice_options_against_numpy() -> None:
    z, y = random_case()
    p, g = softmax(z), np.stack([y == 0, y == 1], 1).astype(float)
    over = (2, 3)
    expected = 1 - ((2 * (p * g).sum(over)) / (p.sum(over) + g.sum(over))).mean()
    got = dice_loss(*as_torch(z, y), squared=False, background=True, epsilon=0.0)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_iou_without_overlap_is_bounded() -> None:
    z = torch.stack([torch.full((1, 4, 4), -40.0), torch.full((1, 4, 4), 40.0)], 1)
    assert iou_loss(z, torch.zeros(1, 4, 4, dtype=torch.long)).item() <= -np.log(1e-5 / 17)


def test_unknown_names_and_options_are_explained() -> None:
    with pytest.raises(InputError, match="did you mean 'dice'"):
        create_loss("dicee")
    with pytest.raises(InputError, match=r"no option 'square'.*squared"):
        create_loss("dice", square=True)


def test_amtd_dice_at_the_papers_size_does_not_depend_on_it() -> None:
    z, y = as_torch(*random_case(size=48))
    values = [
        create_loss("amtd_seg")(
            z.repeat_interleave(k, 2).repeat_interleave(k, 3),
            y.repeat_interleave(k, 1).repeat_interleave(k, 2),
        ).item()
        for k in (1, 4)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_lovasz_is_one_minus_iou_of_hard_predictions(classes: int, per_image: bool) -> None:
    rng = np.random.default_rng(0)
    y, guess = rng.integers(0, classes, (2, 3, 8, 8))
    y[1] = 0  # an image of one class only
    z = 200.0 * np.moveaxis(np.eye(classes)[guess], -1, 1)
    groups = [(y[i], guess[i]) for i in range(3)] if per_image else [(y, guess)]
    expected = [
        np.mean(
            [
                1 - ((t == c) & (p == c)).sum() / ((t == c) | (p == c)).sum()
                for c in range(classes)
                if (t == c).any()
            ]
        )
        for t, p in groups
    ]
    got = lovasz_softmax(*as_torch(z, y), per_image=per_image)
    assert got.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_lovasz_of_absent_classes() -> None:
    """ "all" takes the largest wrong probability of a class that is nowhere; "present" leaves it out."""
    z, y = random_case(classes=3)
    y[:] = y % 2
    absent = softmax(z)[:, 2].max()
    present = lovasz_softmax(*as_torch(z, y)).item()
    assert lovasz_softmax(*as_torch(z, y), classes="all").item() == pytest.approx(
        (2 * present + absent) / 3, rel=1e-5
    )
    with pytest.raises(InputError, match="classes is 'some': choose from present, all"):
        create_loss("lovasz_softmax", classes="some")


def test_lovasz_steps_keep_their_digits_on_large_images() -> None:
    """A million positions: the steps are about 1e-6; as differences of float32 IoU values they would be noise."""
    generator = torch.Generator().manual_seed(0)
    g = (torch.rand(1, 1024 * 1024, generator=generator) < 0.1).float()
    hits, others = g.double().cumsum(1), (1 - g.double()).cumsum(1)
    jaccard = 1 - (g.double().sum() - hits) / (g.double().sum() + others)
    exact = torch.cat([jaccard[:, :1], jaccard.diff()], 1)
    torch.testing.assert_close(_jaccard_steps(g).double(), exact, rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 4])
def test_protokds_loss_with_unequal_images_and_a_class_that_is_nowhere(classes: int) -> None:
    z, y = random_case(classes)
    y[0] = 0  # a healthy image: its share counts in the batch, not by itself
    y[y == classes - 1] = 0 if classes > 2 else 1
    got = create_loss("protokd_seg").parts(*as_torch(z, y))
    assert got["cross_entropy"].item() == pytest.approx(numpy_balanced_cross_entropy(z, y), rel=1e-5)
    assert got["dice"].item() == pytest.approx(numpy_batch_dice(z, y), rel=1e-5)


def test_balanced_cross_entropy_of_one_class_is_the_plain_one() -> None:
    """The class's weight is 0 then: the limit is the plain mean, not 0 / 0."""
    z, y = random_case()
    y[:] = 0
    assert create_loss("balanced_cross_entropy")(*as_torch(z, y)).item() == pytest.approx(
        numpy_cross_entropy(z, y), rel=1e-5
    )


def test_lightbtsegs_dice_as_printed_counts_both_classes() -> None:
    """Eq. 5 with w_k = 1 / 2, in NumPy."""
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 2, 5, 4)), rng.integers(0, 2, (2, 5, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    g = np.stack([target == 0, target == 1], axis=1)
    each = 2 * (p * g).sum((2, 3)) / ((p**2).sum((2, 3)) + g.sum((2, 3)))
    printed = create_loss("weight_balance", background=True)
    found = printed.parts(torch.tensor(logits).float(), torch.tensor(target))["dice"]
    assert found.item() == pytest.approx(1 - each.mean(), abs=1e-5)
    default = create_loss("weight_balance").parts(torch.tensor(logits).float(), torch.tensor(target))["dice"]
    assert default.item() == pytest.approx(1 - each[:, 1].mean(), abs=1e-5)
