"""Views: one seeded augmentation of one image, the same in every thread, process and order."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from segdistill.data.augment import Augment, make_augment
from segdistill.data.store import Ragged, Store
from segdistill.errors import InputError, MissingExtra
from segdistill.imaging.grid import AnyPreprocess

MAP = "map/"
"""Begins the name of a warped map in a batch."""

Beside = Callable[[NDArray[np.int64], int], dict[str, NDArray[Any]]]


class Views:
    """Augmented rows of a store: pictures, slices of volumes, or patches of either.

    Args:
        store: prepared cases.
        case_ids: which of them, in this order; each brings all its rows.
        preprocess: its `normalise` makes the network's input; size and colour are the store's.
        augment: settings or the name of a preset.
        seed: with the number and the row's name (of a picture: the case's id) it fixes every view.
        count: how many different views a row has; epoch e shows number e % count. 0: a new one every epoch.
        skip_empty: leave out rows without foreground, such as the slices of a volume beyond the organ.
        order_seed: of the order of an epoch's batches; None for `seed`.
        without_mask: cases whose mask is not shown, whatever the store holds.
        masks_share: share of each batch that has a mask; None for the rows as they come.

    Attributes:
        maps: predicted maps that are warped with every view (data/maps.py), name -> uint8 (rows of the store, K, H, W).
        beside: what else a batch holds of its rows, (positions, number of the view) -> name -> array; None for nothing.
            It is called in the threads that make batches: NumPy only.

    Raises:
        InputError: no case, a case that is not in the store, or nothing left.
    """

    beside: Beside | None = None

    def __init__(
        self,
        store: Store,
        case_ids: Sequence[str],
        preprocess: AnyPreprocess,
        augment: Augment | str = "none",
        seed: int = 0,
        count: int = 0,
        skip_empty: bool = False,
        order_seed: int | None = None,
        without_mask: Collection[str] = (),
        masks_share: float | None = None,
    ) -> None:
        if not case_ids:
            raise InputError("no cases to view: check the split and labels that were chosen")
        if tuple(preprocess.size) != store.size:
            raise InputError(
                f"the store holds {store.size} pixels, not {tuple(preprocess.size)}: prepare it again"
            )
        self.store = store
        self.case_ids = list(case_ids)
        self.preprocess = preprocess
        self.augment = make_augment(augment)
        self.seed = seed
        self.order_seed = seed if order_seed is None else order_seed
        self.count = count
        pairs = [(k, row) for k, name in enumerate(self.case_ids) for row in store.rows(name)]
        if skip_empty:
            hidden = set(without_mask)
            pairs = [(k, row) for k, row in pairs if self.case_ids[k] in hidden or store.has_foreground(row)]
        if not pairs:
            raise InputError("no image has any foreground to learn from: check the masks of these cases")
        self._case_of = np.array([k for k, _ in pairs], dtype=np.int64)
        self._rows = [row for _, row in pairs]
        shown = {k for k, name in enumerate(self.case_ids) if name not in set(without_mask)}
        self._has_mask = np.array([k in shown and store.has_mask(row) for k, row in pairs], dtype=bool)
        self.maps: dict[str, NDArray[np.uint8] | Ragged] = {}
        self.masks_share = masks_share if 0 < self._has_mask.sum() < len(pairs) else None
        self._local = threading.local()

    def __len__(self) -> int:
        return len(self._rows)

    def case_index(self, k: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in `case_ids` of the cases that rows `k` belong to."""
        return self._case_of[k]

    @property
    def names(self) -> list[str]:
        """The names of the rows."""
        return [self.store.ids[row] for row in self._rows]

    def number(self, epoch: int) -> int:
        """The number of the view that an epoch shows."""
        return epoch % self.count if self.count else epoch

    def has_mask(self, k: int) -> bool:
        """Whether row `k` has a reference that is shown."""
        return bool(self._has_mask[k])

    def pixels(self, k: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """View `number` of row `k` before normalisation: image uint8 (H, W, 1 or 3), or (H, W, C) of several channels,
        and mask uint8 (H, W).
        """
        image, mask = self.store.image(self._rows[k]), self.store.mask(self._rows[k])
        mask = mask if self._has_mask[k] else np.zeros_like(mask)
        if self.augment.is_identity:
            return image, mask
        compose = self._compose(k, number, self.augment)
        result = compose(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
        changed: NDArray[np.uint8] = result["image"]
        return changed if changed.ndim == 3 else changed[..., np.newaxis], result["mask"]

    def warped(self, k: int, number: int) -> NDArray[np.uint8]:
        """All maps of row `k`, uint8 (K of all together, H, W), moved as view `number` moves its image; beyond it 0."""
        stacked = np.concatenate([values[self._rows[k]] for values in self.maps.values()])
        geometry = self.augment.geometry
        if geometry.is_identity:
            return stacked
        compose = self._compose(k, number, geometry)
        moved: NDArray[np.uint8] = compose(image=np.ascontiguousarray(stacked.transpose(1, 2, 0)))["image"]
        return (moved if moved.ndim == 3 else moved[..., np.newaxis]).transpose(2, 0, 1)

    def _compose(self, k: int, number: int, augment: Augment) -> Any:
        """The changes of view `number` of row `k`. Geometry draws its random numbers first: alone it draws the same."""
        made = self._local.__dict__.setdefault("made", {})
        if augment not in made:
            made[augment] = _compose(augment, (self.store.size[0], self.store.size[1]))
        state = _state(f"{self.seed}\0{number}\0{self.store.ids[self._rows[k]]}")
        made[augment].set_random_state(np.random.Generator(np.random.PCG64(state)), random.Random(state))
        return made[augment]

    def order(
        self, batch_size: int, epoch: int, shuffle: bool = True, drop_last: bool = False, world: int = 1
    ) -> list[NDArray[np.int64]]:
        """The rows of every batch of an epoch: as `batch_indices`, with the wanted share of rows with masks."""
        parts = batch_indices(len(self), batch_size, self.order_seed, epoch, shuffle, drop_last, world)
        if self.masks_share is None or not shuffle:
            return parts
        sizes = [len(part) for part in parts]
        masked = [min(max(1, round(size * self.masks_share)), size) for size in sizes]
        with_mask, without = np.flatnonzero(self._has_mask), np.flatnonzero(~self._has_mask)
        draws = (
            _cycled(rows, total, f"order\0{self.order_seed}\0{epoch}\0{kind}")
            for kind, rows, total in (
                ("masks", with_mask, sum(masked)),
                ("none", without, sum(sizes) - sum(masked)),
            )
        )
        first, second = (
            np.split(rows, np.cumsum(counts)[:-1])
            for rows, counts in zip(
                draws, (masked, [size - own for size, own in zip(sizes, masked, strict=True)]), strict=True
            )
        )
        mixed = np.random.Generator(np.random.PCG64(_state(f"mix\0{self.order_seed}\0{epoch}")))
        return [mixed.permutation(np.concatenate(pair)) for pair in zip(first, second, strict=True)]

    def arrays(
        self, rows: Sequence[int] | NDArray[np.int64], number: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """View `number` of each row: images float32 (B, C, H, W) and masks int64 (B, H, W) of classes."""
        images, masks = zip(*(self.pixels(int(k), number) for k in rows), strict=True)
        return self.preprocess.normalise(np.stack(images)), np.stack(masks).astype(np.int64)

    def view(self, k: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """View `number` of row `k` as tensors: image float32 (C, H, W) and mask int64 (H, W)."""
        image, mask = self.arrays([k], number)
        return torch.from_numpy(image[0]), torch.from_numpy(mask[0])


FOREGROUND = 1 / 3
"""Share of the views of a volume whose patch lies around a voxel of some class, each class alike (Isensee et al.)."""


class VolumeViews(Views):
    """Views of volumes: a patch of each, turned, scaled and mirrored as one, at a place that the view's number draws.

    Of `Augment` it takes flip_horizontal, flip_vertical (and depth alike), rotate (about all three axes), scale,
    affine_p, brightness, contrast, colour_p and noise; each channel of several draws the last four for itself.
    """

    def pixels(self, k: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """View `number` of row `k` before normalisation: voxels uint8 (D, H, W), or (D, H, W, C) of several channels,
        and mask uint8 (D, H, W).
        """
        image, mask = self.store.image(self._rows[k]), self.store.mask(self._rows[k])
        shown = mask if self._has_mask[k] else np.zeros_like(mask)
        place, generator = self._place(k, number)
        moved = place.take(shown, 0, "constant")
        channels = [image] if image.ndim == 3 else [image[..., c] for c in range(image.shape[-1])]
        found = [_recoloured(place.take(each, 1, "nearest"), self.augment, generator) for each in channels]
        return found[0] if image.ndim == 3 else np.stack(found, axis=-1), moved

    def warped(self, k: int, number: int) -> NDArray[np.uint8]:
        """All maps of row `k`, uint8 (K of all together, D, H, W), of the patch of view `number`; beyond it 0."""
        place, _ = self._place(k, number)
        stacked = np.concatenate([values[self._rows[k]] for values in self.maps.values()])
        return np.stack([place.take(each, 1, "constant") for each in stacked])

    def _place(self, k: int, number: int) -> tuple[_Place, np.random.Generator]:
        row = self._rows[k]
        generator = np.random.Generator(
            np.random.PCG64(_state(f"{self.seed}\0{number}\0{self.store.ids[row]}"))
        )
        shape, size = self.store.shape(row), self.store.size
        middle = generator.uniform(size=3) * (np.asarray(shape) - 1)
        around, which, voxel = generator.uniform(size=3)
        if around < FOREGROUND and self._has_mask[k] and self.store.has_foreground(row):
            mask = self.store.mask(row).reshape(-1)
            classes = [c for c in np.flatnonzero(np.bincount(mask)) if c]
            chosen = np.flatnonzero(mask == classes[int(which * len(classes))])
            middle = np.asarray(np.unravel_index(chosen[int(voxel * len(chosen))], shape), float)
        low = np.minimum((np.asarray(size) - 1) / 2, (np.asarray(shape) - 1) / 2)
        middle = np.clip(middle, low, np.asarray(shape) - 1 - low)
        return _Place(middle, _turn(self.augment, generator), (size[0], size[1], size[2])), generator


class _Place(NamedTuple):
    """Which voxels a patch shows: around `middle`, seen through a matrix (3, 3) from the patch to the volume."""

    middle: NDArray[np.float64]
    matrix: NDArray[np.float64]
    size: tuple[int, int, int]

    def take(self, volume: NDArray[np.uint8], order: int, beyond: str) -> NDArray[np.uint8]:
        """The patch of a volume (D, H, W): linear (1) or nearest (0); beyond its edge 0 or the nearest voxel."""
        half = (np.asarray(self.size) - 1) / 2
        offset = self.middle - self.matrix @ half
        if (self.matrix == np.eye(3)).all():
            return _cut(volume, np.rint(offset).astype(int), self.size, beyond)
        from scipy.ndimage import affine_transform

        found: NDArray[np.uint8] = affine_transform(
            volume, self.matrix, offset, self.size, np.uint8, order, mode=beyond, prefilter=False
        )
        return found


def _cut(
    volume: NDArray[np.uint8], start: NDArray[np.int64], size: tuple[int, int, int], beyond: str
) -> NDArray[np.uint8]:
    """A patch whose first voxel is `start`, which may lie outside of the volume."""
    stop = start + size
    before, after = np.maximum(-start, 0), np.maximum(stop - volume.shape, 0)
    inner = tuple(slice(max(0, a), min(n, b)) for a, b, n in zip(start, stop, volume.shape, strict=True))
    margins = list(zip(before.tolist(), after.tolist(), strict=True))
    mode: Any = "edge" if beyond == "nearest" else "constant"
    return np.pad(volume[inner], margins, mode=mode)


def _turn(augment: Augment, generator: np.random.Generator) -> NDArray[np.float64]:
    """The matrix of a view's rotation, scale and mirrors; always as many random numbers."""
    angles = generator.uniform(-1, 1, 3) * np.deg2rad(augment.rotate)
    scale = 1 + generator.uniform(-1, 1) * augment.scale
    is_moved = generator.uniform() < augment.affine_p
    chances = (augment.flip_vertical, augment.flip_vertical, augment.flip_horizontal)
    mirrors = np.where(generator.uniform(size=3) < chances, -1.0, 1.0)
    matrix = np.eye(3)
    if is_moved and (augment.rotate or augment.scale):
        for axis, angle in enumerate(angles):
            first, second = (a for a in range(3) if a != axis)
            turn = np.eye(3)
            turn[first, first] = turn[second, second] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ turn
        matrix = matrix / scale
    return matrix * mirrors


def _recoloured(
    image: NDArray[np.uint8], augment: Augment, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Brightness, contrast and noise of a view."""
    bright, contrast = generator.uniform(-1, 1, 2) * (augment.brightness, augment.contrast)
    is_changed, strength = generator.uniform() < augment.colour_p, generator.uniform() * augment.noise
    if not (augment.brightness or augment.contrast or augment.noise):
        return image
    values = image.astype(np.float32)
    if is_changed:
        middle = np.float32(values.mean())
        values = (values - middle) * np.float32(1 + contrast) + middle + np.float32(255 * bright)
    if strength:
        values += generator.standard_normal(values.shape, np.float32) * np.float32(255 * strength)
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _cycled(rows: NDArray[np.int64], total: int, seed: str) -> NDArray[np.int64]:
    """`total` of the rows in random order: all of them once, then all of them again."""
    rounds = -(-total // len(rows))
    orders = [
        np.random.Generator(np.random.PCG64(_state(f"{seed}\0{number}"))).permutation(rows)
        for number in range(rounds)
    ]
    return np.concatenate([*orders, rows[:0]])[:total]


def _state(text: str) -> int:
    """128 bits that start a random generator, from what fixes it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def _compose(augment: Augment, size: tuple[int, int]) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        import albumentations as A
        import cv2
    except ImportError as error:
        raise MissingExtra("augmentation", "train") from error
    cv2.setNumThreads(0)  # our threads are the parallelism
    a, side = augment, min(size)
    shift = (-a.shift, a.shift)
    # (whether it is wanted, how it is made), in the order of application
    parts: tuple[tuple[object, Callable[[], Any]], ...] = (
        (a.crop, lambda: A.RandomResizedCrop(size, scale=(a.crop, 1.0), ratio=(0.75, 4 / 3), p=1.0)),
        (a.flip_horizontal, lambda: A.HorizontalFlip(p=a.flip_horizontal)),
        (a.flip_vertical, lambda: A.VerticalFlip(p=a.flip_vertical)),
        (a.rotate_90, lambda: A.RandomRotate90(p=a.rotate_90)),
        # a quarter turn of an oblong picture is stretched to fit
        (a.rotate_90 and size[0] != size[1], lambda: A.Resize(*size)),
        (
            a.rotate or a.shift or a.scale,
            lambda: A.Affine(
                rotate=(-a.rotate, a.rotate),
                translate_percent={"x": shift, "y": shift},
                scale=(1 - a.scale, 1 + a.scale),
                p=a.affine_p,
            ),
        ),
        (a.elastic, lambda: A.ElasticTransform(alpha=0.5 * side, sigma=0.07 * side, p=a.elastic)),
        (a.grid, lambda: A.GridDistortion(p=a.grid)),
        (a.optical, lambda: A.OpticalDistortion(p=a.optical)),
        (
            a.brightness or a.contrast,
            lambda: A.RandomBrightnessContrast(
                brightness_limit=a.brightness, contrast_limit=a.contrast, p=a.colour_p
            ),
        ),
        (a.noise, lambda: A.GaussNoise(std_range=(0.0, a.noise), p=1.0)),
        (a.coarse_dropout, lambda: A.CoarseDropout(num_holes_range=(1, 8), fill=0, p=a.coarse_dropout)),
    )
    return A.Compose([make() for wanted, make in parts if wanted])


Batch = dict[str, torch.Tensor]


def have_masks(batch: Batch) -> torch.Tensor:
    """(B,) whether each row has a mask; all of them where the batch does not tell.

    >>> have_masks({"image": torch.zeros(2, 3, 4, 4)})
    tensor([True, True])
    """
    image = batch["image"]
    return batch.get("has_mask", torch.ones(len(image), dtype=torch.bool, device=image.device))


def references(batch: Batch) -> torch.Tensor:
    """The masks (B, ...) of a batch, -1 throughout in rows without one.

    >>> shown = torch.tensor([True, False])
    >>> image, mask = torch.zeros(2, 3, 2), torch.tensor([[0, 1], [0, 0]])
    >>> references({"image": image, "mask": mask, "has_mask": shown}).tolist()
    [[0, 1], [-1, -1]]
    """
    shown = have_masks(batch).reshape(-1, *[1] * (batch["mask"].ndim - 1))
    return torch.where(shown, batch["mask"], -1)


def batch_indices(
    length: int,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    drop_last: bool = False,
    world: int = 1,
) -> list[NDArray[np.int64]]:
    """The order of an epoch, cut into batches; fixed by (seed, epoch).

    A rest too small to give every process two cases (batch normalisation needs them) joins the batch before
    it; with `drop_last` an incomplete batch is dropped.

    >>> [len(batch) for batch in batch_indices(9, 4, seed=0, epoch=0)]
    [4, 5]
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size} is too small: use at least 1")
    order = np.arange(length, dtype=np.int64)
    if shuffle:
        order = np.random.Generator(np.random.PCG64(_state(f"order\0{seed}\0{epoch}"))).permutation(order)
    parts = [order[start : start + batch_size] for start in range(0, length, batch_size)]
    if len(parts) > 1 and len(parts[-1]) < batch_size:
        if drop_last:
            parts.pop()
        elif len(parts[-1]) < 2 * world and batch_size > 1:
            rest = parts.pop()
            parts[-1] = np.concatenate([parts[-1], rest])
    return parts


def batches(
    views: Views,
    batch_size: int,
    epoch: int,
    start: int = 0,
    shuffle: bool = True,
    workers: int = 1,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> Generator[Batch, None, None]:
    """The batches of an epoch, made ahead in background threads.

    Args:
        views: what is shown.
        batch_size: rows per batch over all processes.
        epoch: fixes the order and, through `views.number`, the augmentation.
        start: index of the first batch to give, to go on in the middle of an epoch.
        shuffle: False keeps the order of `views`.
        workers: threads; 0 makes batches in the caller's thread. At most `workers + 1` batches are ahead.
        rank: this process takes every `world`-th case of each batch, beginning with its `rank`.
        world: how many processes share each batch.
        drop_last: leave out a last batch that is not full (see `batch_indices`).
        pin_memory: page-locked tensors for faster copies to a GPU.

    Yields:
        image float32 (B, C, H, W), mask int64 (B, H, W), index int64 (B,) into `views.case_ids`, has_mask
            bool (B,), the warped maps as uint8 (B, K, H, W), and what `views.beside` gives.

    Closing the generator early stops the threads; an error in one of them is raised here.
    """
    parts = views.order(batch_size, epoch, shuffle, drop_last, world)[start:]
    if parts and min(len(part) for part in parts) < world:
        raise InputError(
            f"a batch has fewer cases than the {world} processes: use a larger batch or fewer processes"
        )
    number = views.number(epoch)

    def make(part: NDArray[np.int64]) -> Batch:
        # NumPy only: a torch operator in this thread would start a second team of OpenMP threads, which spins
        # beside the one that trains and makes it several times slower
        mine = part[rank::world]
        images, masks = views.arrays(mine, number)
        arrays = {
            "image": images,
            "mask": masks,
            "index": np.ascontiguousarray(views.case_index(mine)),
            "has_mask": np.array([views.has_mask(int(k)) for k in mine]),
        }
        if views.maps:
            stacked = np.stack([views.warped(int(k), number) for k in mine])
            ends = np.cumsum([len(values[0]) for values in views.maps.values()])[:-1]
            parts_of = zip(views.maps, np.split(stacked, ends, axis=1), strict=True)
            arrays |= {f"{MAP}{name}": np.ascontiguousarray(part) for name, part in parts_of}
        if views.beside is not None:
            arrays |= views.beside(mine, number)
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {name: tensor.pin_memory() for name, tensor in batch.items()} if pin_memory else batch

    if workers < 1:
        yield from map(make, parts)
        return
    yield from ahead(make, parts, workers)


def ahead(
    make: Callable[[NDArray[np.int64]], Batch], parts: Sequence[NDArray[np.int64]], workers: int
) -> Iterator[Batch]:
    """`make` of each part, in order, by so many threads of which at most `workers + 1` results are ahead."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="views")
    waiting: deque[Future[Batch]] = deque()
    left = iter(parts)
    try:
        waiting.extend(pool.submit(make, part) for part in islice(left, workers + 1))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(make, part) for part in islice(left, 1))
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
