from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from segdistill.imaging.preprocess import prepare_mask
from segdistill.imaging.small import SMALLEST, SmallComponents, count_small, find_small

EIGHT = np.ones((3, 3))
sides = st.integers(1, 40)
masks = hnp.arrays(bool, st.tuples(st.integers(1, 70), st.integers(1, 70)), elements=st.booleans())


def sparse(seed: int, height: int, width: int, share: float = 0.05) -> np.ndarray:
    """Small blobs, lines and single pixels."""
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < share / 10
    for _ in range(int(share * 100)):
        y, x, h, w = rng.integers(0, [height, width, 6, 12])
        mask[y : y + h, x : x + w] = True
    return mask


@cache
def overlap(length: int, size: int) -> np.ndarray:
    """Of every resized pixel and every source pixel of a side, by both cut into length x size parts: (size, length)."""
    return np.eye(length).repeat(size, 0).reshape(size, length, length).sum(1)


def coverage(part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Area of each resized pixel that a component covers."""
    return overlap(part.shape[0], size[0]) @ part @ overlap(part.shape[1], size[1]).T


def vanishing(mask: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """Pixels and coverage of every component none of whose pixels is foreground in the resized mask."""
    resized = prepare_mask(mask, size)
    labels, count = ndimage.label(mask, EIGHT)
    for n in range(1, count + 1):
        covered = coverage(labels == n, size)
        if not resized[covered > 0].any():
            yield int((labels == n).sum()), covered


@pytest.mark.parametrize("seed", range(12))
def test_what_vanishes_is_found_and_gets_its_most_covered_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, small, narrow = rng.integers([20, 20, 4, 4], [60, 60, 40, 40])
    mask = sparse(seed, int(height), int(width))
    size = int(small), int(narrow)
    found = find_small(mask, prepare_mask(mask, size))
    lost = list(vanishing(mask, size))
    counted = [covered for area, covered in lost if area >= SMALLEST]
    assert found.vanished == len(counted) == len(found.places)
    assert found.exempt == len(lost) - len(counted)
    labels, count = ndimage.label(mask, EIGHT)
    assert found.total == sum((labels == n).sum() >= SMALLEST for n in range(1, count + 1))
    for covered, place in zip(counted, found.places, strict=True):
        assert covered[place] == covered.max()


@pytest.mark.parametrize("seed", range(4))
def test_sizes_that_lose_are_those_at_which_a_component_vanishes(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    height, width = (int(side) for side in rng.integers(90, 170, 2))
    mask = sparse(seed, height, width, 0.08)
    found = find_small(mask, prepare_mask(mask, (40, 50)))
    sizes = range(64, max(height, width) + 64, 32)
    losing = {size for size in sizes if any(area >= SMALLEST for area, _ in vanishing(mask, (size, size)))}
    assert found.losing == losing
    assert found.keeping_size(40) == min(set(sizes) - losing)


def test_large_structures_are_not_looked_at_and_enlargement_loses_nothing() -> None:
    mask = np.zeros((300, 400), bool)
    mask[100:200, 100:300] = True
    assert find_small(mask, prepare_mask(mask, (64, 64))) == SmallComponents(1)
    tiny = sparse(3, 30, 20)
    found = find_small(tiny, prepare_mask(tiny, (64, 32)))
    assert (found.vanished, found.exempt) == (0, 0)
    assert find_small(np.zeros((30, 20), bool), np.zeros((8, 8), np.uint8)) == SmallComponents()


@settings(max_examples=40, deadline=None)
@given(masks, sides, sides)
def test_nothing_counted_is_lost_once_places_are_set(mask: np.ndarray, height: int, width: int) -> None:
    resized = prepare_mask(mask, (height, width))
    found = find_small(mask, resized)
    for place in found.places:
        resized[place] = 1
    labels, count = ndimage.label(mask, EIGHT)
    for n in range(1, count + 1):
        part = labels == n
        if part.sum() >= SMALLEST:
            assert resized[coverage(part, (height, width)) > 0].any()


def test_counts_of_many_masks() -> None:
    mask = np.zeros((128, 128), bool)
    mask[5, 5:8] = mask[60, 60] = True
    found = find_small(mask, prepare_mask(mask, (32, 32)))
    assert (found.total, found.vanished, found.exempt) == (1, 1, 1)
    assert found.losing == frozenset()  # at 64 it is half of the two pixels above each other
    both = count_small([found, SmallComponents(4, 1, 0, frozenset({64, 96}))])
    assert (both.total, both.vanished, both.exempt) == (5, 2, 1)
    assert both.keeping_size(32) == 128
