"""A vision transformer at another image size than its position embeddings were made for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.models.classifiers import VisionTransformer


def tiny(image_size: int) -> VisionTransformer:
    return VisionTransformer(1, 2, image_size=image_size, width=8, layers=1, heads=2).eval()


def cubic(count: int, wanted: int, a: float = -0.75) -> np.ndarray:
    """Keys' cubic convolution as a matrix (wanted, count): the border repeated, centres at half pixels."""
    matrix = np.zeros((wanted, count))
    for row in range(wanted):
        place = (row + 0.5) * count / wanted - 0.5
        for node in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            d = abs(place - node)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            matrix[row, min(max(node, 0), count - 1)] += near if d <= 1 else far if d < 2 else 0
    return matrix


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 6), (3, 4)])
def test_positions_are_stretched_by_cubic_convolution(height: int, width: int) -> None:
    model = tiny(64)
    stored = np.random.default_rng(0).normal(size=(8, 4, 4))
    with torch.no_grad():
        model.positions.copy_(torch.from_numpy(stored)[None])
        found = model._resized(height, width)[0].numpy()
    expected = cubic(4, height) @ stored @ cubic(4, width).T
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_where_all_positions_are_alike_the_size_it_was_made_for_does_not_matter(size: int) -> None:
    torch.manual_seed(0)
    one, other = tiny(64), tiny(size)
    other.load_state_dict({**one.state_dict(), "positions": other.positions})
    for model in (one, other):
        torch.nn.init.constant_(model.positions, 0.3)
    image = torch.rand(1, 1, 128, 96)
    with torch.no_grad():
        first, second = one(image), other(image)
    assert first.label is not None
    assert second.label is not None
    torch.testing.assert_close(first.label, second.label, rtol=0, atol=1e-5)


def test_the_interpolated_positions_learn() -> None:
    model = tiny(32)
    output = model.train()(torch.rand(1, 1, 64, 64))
    assert output.label is not None
    output.label.sum().backward()
    assert model.positions.grad is not None
    assert model.positions.grad.abs().min() > 0
