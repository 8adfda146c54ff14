"""Copies of one picture within a table: identical pixels, and near-duplicates (another crop, size or
brightness).

Every picture becomes a thumbnail of its local contrast, in which brightness and slow shading do not count.
Pairs whose coarse thumbnails correlate are compared in small blocks: in true copies nearly every block with
texture is found again within a few pixels of its place, however the copy was cropped or scaled; in merely
similar pictures it is not. Mirrored and rotated copies are not looked for. Volumes are looked at through their
middle slice; identical ones must agree in every voxel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.data.case import Case, file_hash
from segdistill.imaging.intensity import stretch
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import read_volume
from segdistill.imaging.volume import Volume

_SIDE = 128  # pixels of a thumbnail
_COARSE = 32  # pixels of the thumbnail that chooses candidates
_CANDIDATE = 0.30  # coarse correlation that makes a pair worth a closer look
_NEIGHBOURS = 4  # every picture's nearest are looked at in any case
_BLOCK, _REACH = 32, 8  # blocks of the close look, and how far each is searched, in thumbnail pixels
NEAR = 0.40  # on BUSI chance ends at 0.28, and every pair above 0.30 shows the same patient

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Fingerprint:
    """What is remembered of a picture: a hash of its grey pixels and its thumbnail, uint8 (128, 128)."""

    pixels: str
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """Two cases that show one picture: `kind` is "identical" or "near", `similarity` at most 1.

    >>> print(Pair("a", "b", "near", 0.4567))
    a and b: near-duplicates (0.46)
    """

    first: str
    second: str
    kind: str
    similarity: float

    @property
    def what(self) -> str:
        """The kind in words."""
        return "identical pixels" if self.kind == "identical" else f"near-duplicates ({self.similarity:.2f})"

    def __str__(self) -> str:
        return f"{self.first} and {self.second}: {self.what}"


def fingerprint(pixels: NDArray[np.uint8]) -> Fingerprint:
    """The fingerprint of a picture, uint8 (H, W) or (H, W, 3); a grey picture stored as RGB has that of the
    grey one.

    >>> grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    >>> fingerprint(grey).pixels == fingerprint(np.stack([grey] * 3, axis=-1)).pixels
    True
    """
    content = pixels
    if pixels.ndim == 3 and bool((pixels[..., :1] == pixels).all()):
        content = pixels[..., 0]
    digest = hashlib.sha256(repr(content.shape).encode() + np.ascontiguousarray(content).tobytes())
    picture = Image.fromarray(np.ascontiguousarray(content)).convert("L")
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return Fingerprint(digest.hexdigest(), np.asarray(small))


def volume_fingerprint(volume: Volume) -> Fingerprint:
    """The fingerprint of a volume: a hash of all its voxels, and the thumbnail of its middle slice."""
    voxels = volume.voxels
    digest = hashlib.sha256(repr(voxels.shape).encode())
    with np.errstate(over="ignore"):  # whole numbers compare alike in whatever type they were stored
        for values in voxels:
            digest.update(np.ascontiguousarray(values, dtype=np.float32).tobytes())
    middle = np.asarray(voxels[len(voxels) // 2])
    low, high = np.percentile(middle, [0.5, 99.5])
    shown = stretch(middle, float(low), float(high))
    return Fingerprint(digest.hexdigest(), fingerprint(shown).thumbnail)


def find_pairs(names: Sequence[str], prints: Sequence[Fingerprint]) -> list[Pair]:
    """Identical and near-duplicate pairs among fingerprints, most alike first.

    Args:
        names: a name per fingerprint, such as the case's id.
        prints: the fingerprints.
    """
    if len(names) < 2:
        return []
    pairs = _identical(names, prints)
    known = {(pair.first, pair.second) for pair in pairs}
    thumbnails = np.stack([item.thumbnail for item in prints])
    fine = [_local_contrast(thumbnail.astype(np.float32)) for thumbnail in thumbnails]
    for i, j in _candidates(thumbnails):
        if (names[i], names[j]) in known:
            continue
        score = _block_similarity(fine[i], fine[j])
        if score >= NEAR:
            pairs.append(Pair(names[i], names[j], "near", round(score, 4)))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def find_duplicates(
    cases: Sequence[Case], progress: Callable[[int, int], None] | None = None, workers: int = 4
) -> list[Pair]:
    """Identical and near-duplicate pairs of a table; every image is decoded once per process.

    Raises:
        InputError: an image cannot be read.
    """
    prints: list[Fingerprint] = []
    with ThreadPoolExecutor(workers) as pool:
        for done, item in enumerate(pool.map(_case_fingerprint, cases), start=1):
            prints.append(item)
            if progress is not None:
                progress(done, len(cases))
    return find_pairs([case.id for case in cases], prints)


def group_duplicates(cases: Sequence[Case], pairs: Sequence[Pair]) -> list[Case]:
    """Puts cases that show one picture, and the groups that they belong to, into one group.

    >>> from pathlib import Path
    >>> table = [Case(name, Path(name)) for name in "abcd"]
    >>> [case.group for case in group_duplicates(table, [Pair("a", "c", "near", 0.9)])]
    ['a', '', 'a', '']
    """
    parent = {case.group_key: case.group_key for case in cases}
    keys = {case.id: case.group_key for case in cases}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for pair in pairs:
        if pair.first in keys and pair.second in keys:
            first, second = sorted((root(keys[pair.first]), root(keys[pair.second])))
            parent[second] = first
    members: dict[str, int] = {}
    for case in cases:
        members[root(case.group_key)] = members.get(root(case.group_key), 0) + 1
    return [
        replace(case, group=root(case.group_key)) if members[root(case.group_key)] > 1 else case
        for case in cases
    ]


_PRINTS: dict[str, Fingerprint] = {}


def _case_fingerprint(case: Case) -> Fingerprint:
    key = file_hash(case.image)
    if key not in _PRINTS:
        volume = case.is_volume
        _PRINTS[key] = (
            volume_fingerprint(read_volume(case.image))
            if volume
            else fingerprint(read_picture(case.image).pixels)
        )
    return _PRINTS[key]


def _identical(names: Sequence[str], prints: Sequence[Fingerprint]) -> list[Pair]:
    same: dict[str, list[int]] = {}
    for index, item in enumerate(prints):
        same.setdefault(item.pixels, []).append(index)
    return [
        Pair(names[i], names[j], "identical", 1.0)
        for members in same.values()
        for position, i in enumerate(members)
        for j in members[position + 1 :]
    ]


def _candidates(thumbnails: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Pairs whose coarse thumbnails correlate, and every picture's nearest neighbours."""
    factor = _SIDE // _COARSE
    count = len(thumbnails)
    coarse = thumbnails.reshape(count, _COARSE, factor, _COARSE, factor).mean((2, 4), dtype=np.float32)
    vectors = _local_contrast(coarse).reshape(count, -1)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    nearest = min(_NEIGHBOURS, count - 1)
    found: set[tuple[int, int]] = set()
    for start in range(0, count, 1024):  # in strips: large tables need no square matrix
        similarity = vectors[start : start + 1024] @ vectors.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -1
        near = np.argpartition(-similarity, nearest - 1, axis=1)[:, :nearest]
        pairs = np.argwhere(similarity >= _CANDIDATE)
        pairs = np.concatenate([pairs, np.stack([np.repeat(rows, nearest), near.ravel()], axis=1)])
        found.update((min(start + i, j), max(start + i, j)) for i, j in pairs.tolist())
    return sorted(found)


def _local_contrast(images: Field, window: int = 9) -> Field:
    """(..., H, W) minus the mean around every pixel, over the deviation around it."""
    detail = images - _box_mean(images, window)
    contrast: Field = detail / (np.sqrt(np.maximum(_box_mean(detail * detail, window), 0)) + 4)
    return contrast


def _box_mean(images: Field, window: int) -> Field:
    reach = window // 2
    pad = [(0, 0)] * (images.ndim - 2) + [(reach + 1, reach)] * 2
    sums = np.pad(images, pad, mode="edge").cumsum(-1, dtype=np.float64).cumsum(-2)
    low, high = slice(None, -window), slice(window, None)
    total = sums[..., high, high] - sums[..., low, high] - sums[..., high, low] + sums[..., low, low]
    mean: Field = (total / window**2).astype(np.float32)
    return mean


def _block_similarity(first: Field, second: Field) -> float:
    """Mean, weighted by texture, of how well every block of `first` is found again near its place in
    `second`.
    """
    blocks = _SIDE // _BLOCK
    window = _BLOCK + 2 * _REACH
    template = first.reshape(blocks, _BLOCK, blocks, _BLOCK).swapaxes(1, 2).reshape(-1, _BLOCK, _BLOCK)
    template = template - template.mean((1, 2), keepdims=True)
    energy = np.square(template).sum((1, 2))
    views = np.lib.stride_tricks.sliding_window_view(np.pad(second, _REACH), (window, window))
    search = views[::_BLOCK, ::_BLOCK].reshape(-1, window, window)
    spectrum = np.fft.rfft2(search) * np.conj(np.fft.rfft2(template, (window, window)))
    steps = 2 * _REACH + 1
    product = np.fft.irfft2(spectrum, (window, window))[:, :steps, :steps]
    total = _window_sums(search)
    variance = np.maximum(_window_sums(search * search) - total * total / _BLOCK**2, 1e-3)
    correlation = product / (np.sqrt(variance * energy[:, None, None]) + 1e-3)
    best = correlation.reshape(len(correlation), -1).max(axis=1)
    return float((best * energy).sum() / max(float(energy.sum()), 1e-6))


def _window_sums(images: Field) -> NDArray[np.float64]:
    sums = np.pad(images, ((0, 0), (1, 0), (1, 0))).cumsum(1, dtype=np.float64).cumsum(2)
    low, high = slice(None, -_BLOCK), slice(_BLOCK, None)
    total: NDArray[np.float64] = (
        sums[:, high, high] - sums[:, low, high] - sums[:, high, low] + sums[:, low, low]
    )
    return total
