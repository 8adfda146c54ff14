"""SKD's pair-wise term against NumPy, and its composition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.distillation import create_method
from segdistill.distillation.methods.skd import SKD, PairWise
from segdistill.errors import InputError
from segdistill.models.network import Output
from tests.distillation.contract import Array, MethodContract
from tests.distillation.numbers import Arrays, blocks, hold_against, softmax


class TestPairWise(MethodContract):
    name = "pair_wise"


class TestFineGraph(MethodContract):
    name = "pair_wise"
    options = {"window": 2, "constant_norm": False}  # noqa: RUF012

    def test_the_same_at_every_size(self) -> None:
        """It is not: windows of two positions are parts of one block on a large map, and of several on a small one."""


class TestSKD(MethodContract):
    name = "skd"
    numbers = 3


def nodes_of(x: Array) -> Array:
    return blocks(x, 2, np.max).reshape(*x.shape[:2], 4)


def similar(nodes: Array, lengths: Array) -> Array:
    directions = nodes / lengths
    return np.einsum("bci,bcj->bij", directions, directions)


def lengths_of(nodes: Array) -> Array:
    return np.sqrt((nodes * nodes).sum(1, keepdims=True))


@pytest.mark.parametrize("constant_norm", [True, False])
def test_equals_numpy(constant_norm: bool) -> None:
    """Widths and sizes differ; as published, a node's length is a constant for the gradient."""
    rng = np.random.default_rng(0)
    own, other = {"decoder": rng.normal(size=(2, 3, 8, 4))}, {"decoder": rng.normal(size=(2, 5, 6, 6))}
    theirs = nodes_of(other["decoder"])

    def distance(nodes: Array, lengths: Array) -> Array:
        return ((similar(nodes, lengths) - similar(theirs, lengths_of(theirs))) ** 2).mean((1, 2))

    def reference(arrays: Arrays) -> Array:
        nodes = nodes_of(arrays["decoder"])
        return distance(nodes, lengths_of(nodes))

    held = lengths_of(nodes_of(own["decoder"]))
    hold_against(
        PairWise(constant_norm=constant_norm),
        reference,
        own,
        other,
        fixed=(lambda arrays: distance(nodes_of(arrays["decoder"]), held)) if constant_norm else None,
    )


def test_windows_as_in_cirkds_copy() -> None:
    """A node per window of 2 x 2 positions: (h w / 4)^2 pairs."""
    rng = np.random.default_rng(0)
    own, other = (rng.normal(size=(1, c, 4, 4)) for c in (3, 5))
    method = PairWise(window=2)
    targets = [method.targets(Output(None, {"decoder": torch.tensor(x)})) for x in (own, other)]
    assert targets[0]["decoder"].shape == (1, 3, 2, 2)
    maps = [similar(nodes_of(x), lengths_of(nodes_of(x))) for x in (own, other)]
    expected = ((maps[0] - maps[1]) ** 2).mean((1, 2))
    np.testing.assert_allclose(method(*targets).numpy(), expected, rtol=1e-5)
    odd = method.targets(Output(None, {"decoder": torch.rand(1, 3, 5, 7)}))
    assert odd["decoder"].shape == (1, 3, 3, 4)
    assert torch.isfinite(method(odd, targets[1])).all()  # brought to the teacher's nodes


def test_odd_maps_have_a_part_more() -> None:
    """The official window is int(side / 2) with ceil_mode: 65 gives three nodes along each side."""
    for side, nodes in ((64, 2), (65, 3), (2, 2), (1, 1)):
        found = PairWise().targets(Output(None, {"decoder": torch.rand(1, 3, side, side)}))["decoder"]
        assert found.shape[2:] == (nodes, nodes)


def test_skd_is_the_sum_of_its_terms() -> None:
    rng = np.random.default_rng(1)
    own = {"logits": rng.normal(size=(2, 3, 4, 4)), "decoder": rng.normal(size=(2, 3, 4, 4))}
    other = {"logits": rng.normal(size=(2, 3, 4, 4)), "decoder": rng.normal(size=(2, 5, 4, 4))}
    theirs = nodes_of(other["decoder"])
    held = lengths_of(nodes_of(own["decoder"]))

    def loss(arrays: Arrays, lengths: Array | None) -> Array:
        t, s = softmax(other["logits"], 1), softmax(arrays["logits"], 1)
        nodes = nodes_of(arrays["decoder"])
        lengths = lengths_of(nodes) if lengths is None else lengths
        pair = ((similar(nodes, lengths) - similar(theirs, lengths_of(theirs))) ** 2).mean((1, 2))
        # the official cross-entropy, less the teacher's entropy
        pixel = (-t * np.log(s)).sum(1).mean((1, 2)) - (-t * np.log(t)).sum(1).mean((1, 2))
        return 10 * pixel + 0.5 * pair

    hold_against(
        SKD(),
        lambda arrays: loss(arrays, None),
        own,
        other,
        fixed=lambda arrays: loss(arrays, held),
    )


def test_dead_features_have_no_direction_and_no_gradient() -> None:
    feature = torch.zeros(1, 4, 4, 4, requires_grad=True)
    method = PairWise(constant_norm=False)
    loss = method(
        method.targets(Output(None, {"decoder": feature})),
        method.targets(Output(None, {"decoder": torch.rand(1, 4, 4, 4)})),
    )
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert feature.grad is not None
    assert not feature.grad.any()


def test_volumes_are_images_with_one_more_axis() -> None:
    pair = [torch.rand(1, 3, 4, 4), torch.rand(1, 5, 8, 8)]
    thick = [x[:, :, None].expand(-1, -1, 4, -1, -1) for x in pair]
    for method in (PairWise(), PairWise(window=2)):

        def loss(xs: list[torch.Tensor], method: PairWise = method) -> torch.Tensor:
            return method(*(method.targets(Output(None, {"decoder": x})) for x in xs))

        torch.testing.assert_close(loss(thick), loss(pair))


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="nodes must be at least 2"):
        create_method("pair_wise", nodes=1)
    with pytest.raises(InputError, match="skd: pixel must not be negative"):
        create_method("skd", pixel=-1.0)
    with pytest.raises(InputError, match="skd: the weights pixel, pair, holistic are all 0"):
        create_method("skd", pixel=0.0, pair=0.0)
