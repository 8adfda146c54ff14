"""Copies of one picture within a table: identical pixels, and near-duplicates (crop, size, brightness, mirrored).

Only content is compared. Flat background that touches the border (a black margin, what surrounds a round field of view,
air around a body) is cut off, and what remains of it is masked. Every picture becomes a thumbnail of its local
contrast, in which brightness and slow shading do not count. Each picture is compared with the few that a coarse
thumbnail finds nearest, so the time per picture does not depend on how many there are. In true copies nearly every
block with texture is found again within a few pixels of its place, however the copy was cropped or scaled; in merely
similar pictures it is not.
Copies that are turned by 90 degrees or by a small angle are not searched. Volumes are compared by their middle slice;
identical ones must agree in every voxel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from segdistill.data.case import Case, file_hash
from segdistill.data.opened import first_volume
from segdistill.imaging.components import label_components
from segdistill.imaging.intensity import stretch
from segdistill.imaging.read import read_picture
from segdistill.imaging.volume import Volume

_SIDE = 128  # pixels of a thumbnail
_COARSE = 16  # pixels of the thumbnail that chooses candidates
_FINE_WINDOW, _COARSE_WINDOW = 9, 65  # thumbnail pixels that are local for the close look, and for candidates
_NEIGHBOURS = 4  # every picture is compared with its nearest
_WHOLE = 32  # pictures that show one thing are compared all with all, up to so many
_BLOCK, _REACH = 32, 8  # blocks of the close look, and how far each is searched, in thumbnail pixels
_IGNORED = (
    0.25  # share of the common field that agrees best: logos, scales and bars are the same in all pictures
)
_COMMON = 0.2  # share of the thumbnail that two pictures must have in common to be compared
_FLAT, _NEAR_MODE, _NOISE = 0, 8, 3.0  # grey levels: range of what is flat; of a margin: reach, deviation
_MARGIN = 0.3  # share of the border pixels that makes a grey level that of a margin
_PROMISING, _ZOOM = (
    0.22,
    0.05,
)  # a score that makes a second look worth while: one cropped by 5 % on each side
NEAR = 0.36  # on BUSI 97 % of the known pairs are above, and no other pair

Field = NDArray[np.float32]
Contrast = tuple[Field, NDArray[np.bool_]]


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a picture.

    Attributes:
        pixels: hash of its grey pixels.
        thumbnail: its content, cropped from black margins and the like, uint8 (128, 128).
        field: True where the thumbnail shows content; False on background that touches the border, bool (128, 128).
    """

    pixels: str
    thumbnail: NDArray[np.uint8]
    field: NDArray[np.bool_]


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
    field = _content(picture)
    box = _extent(field, picture.size)
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX, box)
    scale = (field.shape[1] / picture.width, field.shape[0] / picture.height)
    inside = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
    share = Image.fromarray(field.astype(np.uint8) * np.uint8(255)).resize(
        (_SIDE, _SIDE), Image.Resampling.BOX, inside
    )
    return Fingerprint(digest.hexdigest(), np.asarray(small), np.asarray(share) > 250)


def _content(picture: Image.Image) -> NDArray[np.bool_]:
    """Where a picture shows something, at 128 to 255 pixels: all but flat background that touches its border."""
    factor = max(1, max(picture.size) // 128)
    grey = picture.reduce(factor)
    values = np.asarray(grey)
    span = np.asarray(grey.filter(ImageFilter.MaxFilter(3))).astype(np.int16)
    span -= np.asarray(grey.filter(ImageFilter.MinFilter(3)))
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    near = np.convolve(np.bincount(border, minlength=256), np.ones(2 * _NEAR_MODE + 1), "same")
    mode = int(near.argmax())
    alike = np.abs(values.astype(np.int16) - mode) <= _NEAR_MODE
    is_margin = near[mode] > _MARGIN * len(border) and values[alike].std() <= _NOISE
    flat = (span <= _FLAT) | alike if is_margin else span <= _FLAT
    labels, _ = label_components(flat)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    background = np.isin(labels, edge[edge > 0])
    return ~background if background.mean() < 1 - _COMMON / 4 else np.ones_like(background)


def _extent(field: NDArray[np.bool_], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box of the content in pixels of the picture: rows and columns of which more than 2 % are content."""
    edges = []
    for axis, length in ((0, size[0]), (1, size[1])):
        filled = np.flatnonzero(field.mean(axis) > 0.02)
        count = field.shape[1 - axis]
        low, high = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, count)
        edges.append((low * length / count, high * length / count))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


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
    return replace(fingerprint(shown), pixels=digest.hexdigest())


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
    contrasts = [_local_contrast(item, _FINE_WINDOW) for item in prints]
    scores: dict[tuple[int, int], float] = {}

    def compare(i: int, j: int, turns: Iterable[int]) -> bool:
        if (i, j) not in scores:
            scores[i, j] = max(_similarity(contrasts[i], _turned(contrasts[j], turn)) for turn in turns)
        return scores[i, j] >= NEAR

    alike = [(i, j) for i, j, turn in _candidates(prints) if compare(i, j, (turn,))]
    for members in _components(len(prints), alike):
        if len(members) <= _WHOLE:
            for i, j in combinations(members, 2):
                compare(i, j, range(4))
    pairs += [
        Pair(names[i], names[j], "near", round(score, 4))
        for (i, j), score in scores.items()
        if score >= NEAR and (names[i], names[j]) not in known
    ]
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


def keep_apart(cases: Sequence[Case], pairs: Sequence[Pair]) -> list[Case]:
    """Gives every copy that has no group one of its own, so that a later run does not join it with the others.

    >>> from pathlib import Path
    >>> table = [Case(name, Path(name)) for name in "abc"]
    >>> [case.group for case in keep_apart(table, [Pair("a", "c", "near", 0.9)])]
    ['a', '', 'c']
    """
    copies = {name for pair in pairs for name in (pair.first, pair.second)}
    return [replace(case, group=case.group_key) if case.id in copies else case for case in cases]


_PRINTS: dict[str, Fingerprint] = {}


def _case_fingerprint(case: Case) -> Fingerprint:
    key = f"{file_hash(case.image)}{case.image_channels[0].part or ''}"
    if key not in _PRINTS:
        volume = case.is_volume
        _PRINTS[key] = (
            volume_fingerprint(first_volume(case)) if volume else fingerprint(read_picture(case.image).pixels)
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


def _turned(contrast: Contrast, turn: int) -> Contrast:
    """As it is, mirrored left to right, upside down, or both: turn 0 to 3."""
    rows, columns = slice(None, None, -1 if turn & 2 else 1), slice(None, None, -1 if turn & 1 else 1)
    return contrast[0][rows, columns], contrast[1][rows, columns]


def _candidates(prints: Sequence[Fingerprint]) -> list[tuple[int, int, int]]:
    """(i, j, turn) of the pairs worth a closer look: each picture with its nearest by coarse correlation."""
    factor, count = _SIDE // _COARSE, len(prints)

    def coarse(image: NDArray[Any]) -> Field:
        small: Field = image.reshape(_COARSE, factor, _COARSE, factor).mean((1, 3), dtype=np.float32)
        return small

    contrasts = [_local_contrast(item, _COARSE_WINDOW) for item in prints]
    maps = np.stack([[coarse(contrast), coarse(field)] for contrast, field in contrasts])
    turned = [maps, maps[..., ::-1], maps[..., ::-1, :], maps[..., ::-1, ::-1]]
    values, fields = maps.reshape(count, 2, -1).swapaxes(0, 1)
    squares = values * values
    most = min(_NEIGHBOURS, count - 1)
    found: dict[tuple[int, int], int] = {}
    for start in range(0, count, 512):  # in strips: large tables need no square matrix
        best = np.full((min(512, count - start), count), -1, np.float32)
        turns = np.zeros(best.shape, np.int8)
        for turn, each in enumerate(turned):
            own, field = each[start : start + 512].reshape(len(best), 2, -1).swapaxes(0, 1)
            similarity = (own @ values.T) / np.sqrt(
                np.maximum((own * own) @ fields.T * (field @ squares.T), 1e-6)
            )
            similarity[field @ fields.T < _COMMON * fields.shape[1]] = -1
            turns[similarity > best] = turn
            np.maximum(best, similarity, out=best)
        rows = np.arange(len(best))
        best[rows, start + rows] = -1
        nearest = np.argpartition(-best, most - 1, axis=1)[:, :most]
        for row, j in zip(np.repeat(rows, most).tolist(), nearest.ravel().tolist(), strict=True):
            if best[row, j] > 0:
                found.setdefault((min(start + row, j), max(start + row, j)), int(turns[row, j]))
    return sorted((i, j, turn) for (i, j), turn in found.items())


def _components(count: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The sets of two or more indices that edges connect, each sorted."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in edges:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    members: dict[int, list[int]] = {}
    for i in range(count):
        members.setdefault(root(i), []).append(i)
    return [each for each in members.values() if len(each) > 1]


def _local_contrast(item: Fingerprint, window: int) -> Contrast:
    """(contrast, field), both (128, 128): grey minus the mean around every pixel, over the deviation around it.

    Means are over the field alone. Contrast is 0 outside it, and the field is smaller by what its edge influences.
    """
    field = item.field.astype(np.float32)
    share = _box_mean(field, window)
    weight = np.maximum(share, 1e-6)
    values = item.thumbnail.astype(np.float32) * field
    detail = (values - _box_mean(values, window) / weight) * field
    spread = np.sqrt(np.maximum(_box_mean(detail * detail, window) / weight, 0))
    contrast = detail / (spread + 4)
    inner = (_box_mean(field, _FINE_WINDOW) > 0.6) & item.field  # near its edge the mean is of one side
    return (contrast * inner).astype(np.float32), inner


def _box_mean(image: NDArray[Any], window: int) -> Field:
    reach = window // 2
    sums = np.pad(image, ((reach + 1, reach),) * 2, mode="edge").cumsum(-1, dtype=np.float64).cumsum(-2)
    low, high = slice(None, -window), slice(window, None)
    total = sums[high, high] - sums[low, high] - sums[high, low] + sums[low, low]
    mean: Field = (total / window**2).astype(np.float32)
    return mean


def _similarity(first: Contrast, second: Contrast) -> float:
    score = _block_similarity(first, second)
    if _PROMISING <= score < NEAR:
        score = max(
            score, _block_similarity(_zoomed(first), second), _block_similarity(first, _zoomed(second))
        )
    return score


def _zoomed(contrast: Contrast) -> Contrast:
    margin = _ZOOM * _SIDE
    box = (margin, margin, _SIDE - margin, _SIDE - margin)
    values, field = (
        np.asarray(
            Image.fromarray(each.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, box)
        )
        for each in contrast
    )
    return values, field > 0.5


def _block_similarity(first: Contrast, second: Contrast) -> float:
    """How well the blocks of `first` are found again near their place in `second`: a mean weighted by texture.

    Only what lies in both fields counts, and the quarter of it that agrees best does not: a scale or a logo is the
    same in all pictures of a device.
    """
    blocks, window = _SIDE // _BLOCK, _BLOCK + 2 * _REACH
    common = first[1] & second[1]
    template = _blocks(np.where(common, first[0], 0))
    energy = np.square(template).sum((1, 2))
    if common.mean() < _COMMON or energy.sum() <= 0:
        return 0.0
    views = np.lib.stride_tricks.sliding_window_view(np.pad(second[0], _REACH), (window, window))
    search = views[::_BLOCK, ::_BLOCK].reshape(-1, window, window)
    spectrum = np.fft.rfft2(search) * np.conj(np.fft.rfft2(template, (window, window)))
    steps = 2 * _REACH + 1
    product = np.fft.irfft2(spectrum, (window, window))[:, :steps, :steps]
    found = np.maximum(_window_sums(search * search), 1e-3)
    correlation = product / (np.sqrt(found * energy[:, None, None]) + 1e-3)
    best = correlation.reshape(blocks * blocks, -1).max(axis=1)
    order = np.argsort(-best)
    weight = energy[order] / energy.sum()
    counted = np.clip(np.cumsum(weight) - _IGNORED, 0, weight)
    return float((best[order] * counted).sum() / max(float(counted.sum()), 1e-6))


def _blocks(image: Field) -> Field:
    count = _SIDE // _BLOCK
    cut: Field = image.reshape(count, _BLOCK, count, _BLOCK).swapaxes(1, 2).reshape(-1, _BLOCK, _BLOCK)
    return cut


def _window_sums(images: Field) -> NDArray[np.float64]:
    sums = np.pad(images, ((0, 0), (1, 0), (1, 0))).cumsum(1, dtype=np.float64).cumsum(2)
    low, high = slice(None, -_BLOCK), slice(_BLOCK, None)
    total: NDArray[np.float64] = (
        sums[:, high, high] - sums[:, low, high] - sums[:, high, low] + sums[:, low, low]
    )
    return total
