"""IFVD and ProtoKD against loops over positions in NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from segdistill.distillation import DistillationMethod, create_method
from segdistill.distillation.methods.ifvd import IFVD, IntraClass
from segdistill.distillation.methods.protokd import ProtoKD, Prototypes
from segdistill.errors import MethodWarning
from segdistill.models.network import Output
from tests.distillation.contract import Array, MethodContract
from tests.distillation.numbers import Arrays, cosine, every, hold_against, kl, nearest, resized


class TestIntraClass(MethodContract):
    name = "intra_class"


class TestIFVD(MethodContract):
    name = "ifvd"
    numbers = 3
    floor = 1e-4


class TestPrototypes(MethodContract):
    name = "prototypes"


class TestProtoKD(MethodContract):
    name = "protokd"
    numbers = 3


def mean_of(x: Array, inside: Array) -> Array:
    """(C,) mean over the positions inside."""
    return np.mean([x[:, i, j] for i, j in every(inside.shape) if inside[i, j]], axis=0)


def own_class_maps(x: Array, mask: Array) -> Array:
    """IFVD: (B, 1, h, w)."""
    found = np.zeros((len(x), 1, *x.shape[2:]))
    for b, y in enumerate(nearest(mask, x.shape[2:])):  # type: ignore[arg-type]
        for i, j in every(y.shape):
            found[b, 0, i, j] = cosine(x[b, :, i, j], mean_of(x[b], y == y[i, j]))
    return found


def class_maps(x: Array, mask: Array, classes: int) -> tuple[Array, Array]:
    """ProtoKD: (B, K, h, w), and which classes are there (B, K)."""
    found, known = np.zeros((len(x), classes, *x.shape[2:])), np.zeros((len(x), classes), bool)
    for b, y in enumerate(nearest(mask, x.shape[2:])):  # type: ignore[arg-type]
        for c in range(classes):
            known[b, c] = (y == c).any()
            if known[b, c]:
                mean = mean_of(x[b], y == c)
                for i, j in every(y.shape):
                    found[b, c, i, j] = cosine(x[b, :, i, j], mean)
    return found, known


def case(classes: int, sizes: tuple[int, int]) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Student and teacher of other width; the second image has no lesion."""
    rng = np.random.default_rng(0)
    own, other = (
        {"logits": rng.normal(size=(2, classes, 8, 8)), "decoder": rng.normal(size=(2, c, n, n))}
        for c, n in zip((3, 5), sizes, strict=True)
    )
    mask = np.repeat(np.repeat(rng.integers(0, classes, (2, 4, 4)), 2, 1), 2, 2)
    mask[1] = 0
    return own, other, mask


def prediction(own: Arrays, other: Arrays, temperature: float) -> Array:
    """The mean over positions and classes, without T^2."""
    return (
        kl(other["logits"] / temperature, own["logits"] / temperature, 1).mean((1, 2))
        / own["logits"].shape[1]
    )


@pytest.mark.parametrize(("classes", "sizes"), [(2, (4, 4)), (3, (4, 4)), (3, (2, 4))])
def test_ifvd_equals_numpy(classes: int, sizes: tuple[int, int]) -> None:
    own, other, mask = case(classes, sizes)
    theirs = own_class_maps(other["decoder"], mask)

    def reference(arrays: Arrays) -> Array:
        maps = resized(own_class_maps(arrays["decoder"], mask), theirs.shape[2:])  # type: ignore[arg-type]
        return 200 * ((maps - theirs) ** 2).mean((1, 2, 3)) + 0.53 * classes * prediction(arrays, other, 1)

    hold_against(IFVD(classes=classes), reference, own, other, mask)


@pytest.mark.parametrize(("classes", "sizes"), [(2, (4, 4)), (3, (4, 4)), (3, (2, 4))])
def test_protokd_equals_numpy(classes: int, sizes: tuple[int, int]) -> None:
    own, other, mask = case(classes, sizes)
    theirs, known = class_maps(other["decoder"], mask, classes)

    def reference(arrays: Arrays) -> Array:
        maps, mine = class_maps(arrays["decoder"], mask, classes)
        squares = ((resized(maps, theirs.shape[2:]) - theirs) ** 2).mean((2, 3))  # type: ignore[arg-type]
        both = known & mine
        proto = (squares * both).sum(1) / both.sum(1)
        return 10 * prediction(arrays, other, 10) + 0.1 * proto

    hold_against(ProtoKD(classes=classes), reference, own, other, mask)


def test_a_signed_map_is_warned_about_once() -> None:
    method, mask = IntraClass(), torch.zeros(1, 4, 4, dtype=torch.long)
    signed, rectified = torch.randn(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    method.targets(Output(None, {"decoder": rectified}), mask)  # of the student; the teacher's comes second
    with pytest.warns(MethodWarning, match="decoder has negative values: take one after an activation"):
        method.targets(Output(None, {"decoder": signed}), mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.targets(Output(None, {"decoder": signed}), mask)
        IntraClass().targets(Output(None, {"decoder": rectified}), mask)


@pytest.mark.parametrize("make", [IntraClass, Prototypes])
@pytest.mark.parametrize("value", [0, 1])
def test_one_class_alone_is_defined(make: type[DistillationMethod], value: int) -> None:
    """A mask without lesion, or with nothing else; and a teacher whose features are all zero."""
    method = make()
    target = torch.full((2, 8, 8), value)
    feature = torch.randn(2, 3, 4, 4, requires_grad=True)
    for teacher in (torch.randn(2, 5, 4, 4), torch.zeros(2, 5, 4, 4)):
        targets = method.targets(Output(None, {"decoder": teacher}), target, "t")
        loss = method(method.targets(Output(None, {"decoder": feature}), target), targets, "t")
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert feature.grad is not None
        assert torch.isfinite(feature.grad).all()


def test_a_class_counts_for_the_images_that_have_it() -> None:
    """The official ProtoKD leaves a class out of the whole batch; here each image stands for itself."""
    method = create_method("prototypes")
    both, none = torch.tensor([[0, 1], [0, 1]]), torch.zeros(2, 2, dtype=torch.long)
    features = [torch.rand(2, 3, 2, 2) for _ in range(2)]

    def loss(target: torch.Tensor, rows: slice) -> torch.Tensor:
        outputs = [Output(None, {"decoder": x[rows]}) for x in features]
        return method(*(method.targets(output, target) for output in outputs))

    mixed = loss(torch.stack([both, none]), slice(None))
    torch.testing.assert_close(mixed[:1], loss(both[None], slice(0, 1)))
    torch.testing.assert_close(mixed[1:], loss(none[None], slice(1, 2)))


def test_a_lesion_that_is_lost_at_the_features_size_is_absent() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[0, 1, 1] = 1  # between the positions that are kept
    targets = Prototypes().targets(Output(None, {"decoder": torch.rand(1, 3, 2, 2)}), target)
    assert targets["decoder/known"].tolist() == [[True, False]]


@pytest.mark.parametrize("make", [IntraClass, Prototypes])
def test_volumes_are_images_with_one_more_axis(make: type[DistillationMethod]) -> None:
    method, target = make(), torch.randint(0, 2, (2, 4, 4))
    pair = [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)]

    def loss(xs: list[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        return method(*(method.targets(Output(None, {"decoder": x}), y) for x in xs))

    thick = [x[:, :, None].expand(-1, -1, 3, -1, -1) for x in pair]
    torch.testing.assert_close(loss(thick, target[:, None].expand(-1, 3, -1, -1)), loss(pair, target))
