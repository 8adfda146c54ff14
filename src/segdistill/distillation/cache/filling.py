"""Filling the teacher cache: each teacher runs once on each view, and no valid record is ever lost."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import BaseFileLock
from numpy.typing import NDArray
from torch import Tensor

from segdistill.data.views import Batch, Views, ahead, references
from segdistill.distillation.base import Targets
from segdistill.distillation.cache.entry import RECORDS, Appender, Layout, try_lock
from segdistill.distillation.cache.reading import Slot, TargetCache
from segdistill.distillation.teacher import Teacher
from segdistill.errors import InputError
from segdistill.models.network import Output

SAVE_SECONDS = 10.0
WAIT_SECONDS = 0.5
GB = 1e9


@dataclass(frozen=True)
class Filling:
    """Progress of the filling; with `total` 0 it is only a message."""

    text: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class FillOptions:
    """Device and batches for the teachers."""

    device: torch.device
    batch_size: int = 8
    channels_last: bool = False
    workers: int = 0

    def to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and masks on the device; -1 in masks of rows without one."""
        image, mask = batch["image"].to(self.device), references(batch).to(self.device)
        return image.contiguous(memory_format=torch.channels_last) if self.channels_last else image, mask


def fill(
    cache: TargetCache, teachers: Sequence[Teacher], options: FillOptions, limit: float
) -> Iterator[Filling]:
    """Computes the missing targets; works as it is consumed, and continues where it was stopped.

    Several processes may fill one cache: the second waits for the records of the first.

    Args:
        cache: to complete.
        teachers: in the order of `Wanted.teacher`.
        options: device and batches.
        limit: the largest size in bytes of the cache's folder.

    Raises:
        InputError: more than the limit or the disk allows, the disk is full, or a method cannot be cached.
    """
    try:
        if cache.is_filled:
            return
        layouts = _layouts(cache, teachers, options)
        yield Filling(_estimate(cache, layouts, limit))
        for j, teacher in enumerate(teachers):
            own = {slot.entry.folder: slot for slot in cache.slots if slot.wanted.teacher == j}
            with ExitStack() as locks:
                for folder in sorted(own):  # in order: two processes never wait for each other
                    if cache.missing(own[folder]):
                        locks.callback((yield from _lock(folder)).release)
                        own[folder].entry.refresh()
                slots = [slot for slot in own.values() if cache.missing(slot)]
                if slots:
                    yield from _fill(cache, slots, layouts, teacher, options)
    except OSError as error:
        raise InputError(
            f"cannot write the teacher cache {cache.folder}: {error.strerror or error}: free some space, lower "
            "fit.views, or set cache: false; its records stay, and the same command continues from there"
        ) from error


def _layouts(cache: TargetCache, teachers: Sequence[Teacher], options: FillOptions) -> dict[Path, Layout]:
    """The layout of every entry that is not complete, from the targets of two rows."""
    layouts: dict[Path, Layout] = {}
    for slot in cache.slots:
        if cache.missing(slot) and slot.entry.folder not in layouts:
            image, mask = options.to_device(_views(cache.views, slot.wanted.rows[:2], 0))
            teacher = teachers[slot.wanted.teacher]
            output = teacher(image, slot.wanted.method.features)
            with _naming(slot):
                layouts[slot.entry.folder] = Layout.of(_targets(slot, output, mask, teacher))
    return layouts


def _estimate(cache: TargetCache, layouts: dict[Path, Layout], limit: float) -> str:
    """A message on what is missing.

    Raises:
        InputError: more than the limit or the disk allows; nothing has been written then.
    """
    sizes = {
        slot.entry.folder: cache.missing(slot) * layouts[slot.entry.folder].length
        for slot in cache.slots
        if cache.missing(slot)
    }
    need = sum(sizes.values())
    cache.folder.mkdir(parents=True, exist_ok=True)
    used = sum(path.stat().st_size for path in cache.folder.glob(f"*/{RECORDS}"))
    needs = f"{_size(need)} for {cache.count} views of each image"
    if used + need > limit:
        raise InputError(
            f"the teacher cache needs {needs}: {cache.folder} would grow to {_size(used + need)}, its limit is "
            f"{_size(limit)}: set cache_limit_gb to {math.ceil((used + need) / GB)}, lower fit.views or the size, "
            "or delete that folder if no other run needs it"
        )
    free = shutil.disk_usage(cache.folder).free
    if need > free:
        raise InputError(
            f"the teacher cache needs {needs}, but the disk of {cache.folder} has {_size(free)} left: free some space, "
            "lower fit.views or the size, or set cache: false"
        )
    return f"teacher cache: {needs} to fill in {cache.folder}"


def _size(count: float) -> str:
    return f"{count / GB:.2f} GB" if count >= GB else f"{count / 1e6:.1f} MB"


def _lock(folder: Path) -> Generator[Filling, None, BaseFileLock]:
    waits = False
    while (lock := try_lock(folder)) is None:
        if not waits:
            yield Filling("another run fills the same teacher cache: waiting for it")
        waits = True
        time.sleep(WAIT_SECONDS)
    return lock


def _fill(
    cache: TargetCache,
    slots: list[Slot],
    layouts: dict[Path, Layout],
    teacher: Teacher,
    options: FillOptions,
) -> Iterator[Filling]:
    """Fills entries of one teacher, all of the same rows."""
    rows = slots[0].wanted.rows
    for slot in slots:
        slot.entry.begin(layouts[slot.entry.folder])
    start = min(slot.entry.count for slot in slots)
    parts = list(_parts(start, len(rows), cache.count, options.batch_size))
    features = sorted({layer for slot in slots for layer in slot.wanted.method.features})

    def make(part: NDArray[np.int64]) -> Batch:
        return _views(cache.views, rows[part % len(rows)], int(part[0]) // len(rows))

    with ExitStack() as stack:
        appending = [(slot, stack.enter_context(closing(Appender(slot.entry)))) for slot in slots]
        saved = time.monotonic()
        made = ahead(make, parts, options.workers) if options.workers else map(make, parts)
        for part, batch in zip(parts, made, strict=True):
            image, mask = options.to_device(batch)
            output = teacher(image, features)
            for slot, appender in appending:
                _append(slot, appender, output, mask, teacher, int(part[0]))
            if time.monotonic() - saved > SAVE_SECONDS:
                for _, appender in appending:
                    appender.save()
                saved = time.monotonic()
            yield Filling(f"caching targets of {teacher.name}", int(part[-1]) + 1, cache.count * len(rows))
        for _, appender in appending:
            appender.save()


def _parts(start: int, rows: int, count: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Positions (number of the view x rows + row) from `start` on, in batches of one view each.

    >>> [part.tolist() for part in _parts(1, 3, 2, 2)]
    [[1, 2], [3, 4], [5]]
    """
    while start < rows * count:
        end = min(start + batch_size, (start // rows + 1) * rows)
        yield np.arange(start, end)
        start = end


def _append(
    slot: Slot, appender: Appender, output: Output, mask: Tensor, teacher: Teacher, position: int
) -> None:
    known = max(0, appender.count - position)  # of an entry that has more records than the others
    if known < len(mask):
        assert slot.entry.layout is not None
        with _naming(slot):
            appender.append(slot.entry.layout.pack(_targets(slot, output, mask, teacher))[known:])


def _views(views: Views, rows: NDArray[np.int64], number: int) -> Batch:
    images, masks = views.arrays(rows, number)
    shown = torch.tensor([views.has_mask(int(k)) for k in rows])
    return {"image": torch.from_numpy(images), "mask": torch.from_numpy(masks), "has_mask": shown}


@torch.no_grad()
def _targets(slot: Slot, output: Output, mask: Tensor, teacher: Teacher) -> Targets:
    return slot.wanted.method.to_cache(output, mask, teacher.name)


@contextmanager
def _naming(slot: Slot) -> Iterator[None]:
    """Names the method in errors of its targets."""
    try:
        yield
    except InputError as error:
        name = slot.wanted.name or "soft_prediction"
        raise InputError(f"method {name} cannot be cached: {error}: set cache: false") from error
