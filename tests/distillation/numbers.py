"""NumPy in float64 to hold method against: values, and slopes by central differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.special import logsumexp

from segdistill.distillation import DistillationMethod
from segdistill.models.network import Output
from tests.distillation.contract import Array, slope_of

Arrays = Mapping[str, Array]


def softmax(z: Array, axis: int) -> Array:
    return np.exp(z - logsumexp(z, axis=axis, keepdims=True))


def kl(t: Array, s: Array, axis: int) -> Array:
    """KL(softmax t || softmax s) of logits along an axis."""
    log_t, log_s = (z - logsumexp(z, axis=axis, keepdims=True) for z in (t, s))
    return (np.exp(log_t) * (log_t - log_s)).sum(axis)


def linear(length: int, wanted: int) -> Array:
    """(wanted, length) weights of linear interpolation between centres of cells, the ends held."""
    weights = np.zeros((wanted, length))
    for i in range(wanted):
        at = min(max((i + 0.5) * length / wanted - 0.5, 0), length - 1)
        low = int(at)
        weights[i, low] += 1 - (at - low)
        weights[i, min(low + 1, length - 1)] += at - low
    return weights


def resized(x: Array, size: tuple[int, int]) -> Array:
    """(B, C, h, w) to another size, bilinearly."""
    return np.einsum("ih,jw,bchw->bcij", linear(x.shape[2], size[0]), linear(x.shape[3], size[1]), x)


def nearest(mask: Array, size: tuple[int, int]) -> Array:
    """(B, H, W) indices to another size: the position at or before."""
    rows, columns = (np.arange(n) * old // n for n, old in zip(size, mask.shape[1:], strict=True))
    return mask[:, rows][:, :, columns]


def band_of(mask: Array, width: int, classes: int) -> Array:
    """Positions of an index mask at which some class's mask, dilated, differs from the same mask, eroded."""
    square = np.ones((2 * width + 1,) * mask.ndim, bool)
    return np.any(
        [
            binary_dilation(mask == c, square) & ~binary_erosion(mask == c, square, border_value=1)
            for c in range(classes)
        ],
        axis=0,
    )


def blocks(x: Array, side: int, how: Callable[..., Array]) -> Array:
    """(B, C, h, w) pooled by equal blocks to side x side."""
    b, c, h, w = x.shape
    return how(x.reshape(b, c, side, h // side, side, w // side), axis=(3, 5))


def cosine(a: Array, b: Array) -> float:
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size else 0.0


def as_output(arrays: Arrays) -> Output:
    """`logits` and layers as an output, in float64: method makes float32 of it."""
    tensors = {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in arrays.items()}
    return Output(tensors.pop("logits", None), tensors)


def hold_against(
    method: DistillationMethod,
    reference: Callable[[Arrays], Array],
    own: Arrays,
    other: Arrays,
    mask: Array | None = None,
    network: str = "t",
    step: float = 1e-5,
    fixed: Callable[[Arrays], Array] | None = None,
) -> None:
    """The loss equals the reference, and its slopes those of the reference.

    Args:
        reference: the student's arrays -> (B,) losses.
        own, other: `logits` and layers of student and teacher.
        mask: (B, H, W).
        fixed: in place of `reference` for the slopes, where the method counts something as a constant.
    """
    target = None if mask is None else torch.tensor(mask)
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in own.items()}
    loss = method(
        method.targets(as_output(leaves), target),  # type: ignore[arg-type]
        method.targets(as_output(other), target, network),
        network,
    )
    expected = reference(own)
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=2e-4, atol=1e-6)
    assert expected.max() > 1e-4  # a reference of nothing shows nothing
    loss.sum().backward()
    rng = np.random.default_rng(3)
    for name, x in own.items():
        grad = leaves[name].grad
        assert grad is not None
        largest = float(grad.abs().max())
        assert largest > 0
        places = [tuple(int(rng.integers(n)) for n in x.shape) for _ in range(4)]
        places.append(tuple(int(i) for i in np.unravel_index(int(grad.abs().argmax()), x.shape)))

        def moved(value: Array, name: str = name) -> Array:
            return (fixed or reference)({**own, name: value})

        slopes = [slope_of(moved, x, place, step) for place in places]
        np.testing.assert_allclose(
            [grad[place].item() for place in places], slopes, rtol=5e-3, atol=2e-3 * largest
        )


def every(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All places of an array."""
    return list(product(*(range(n) for n in shape)))
