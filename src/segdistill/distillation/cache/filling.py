"""Filling the method cache: each teacher answers each view once, and nothing that is good is ever lost."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segdistill.data.views import Batch, Views, ahead
from segdistill.distillation.base import Cacheable, Targets
from segdistill.distillation.cache.entry import RECORDS, Appender, Layout, try_lock
from segdistill.distillation.cache.reading import Slot, TargetCache
from segdistill.distillation.teacher import Teacher
from segdistill.errors import InputError
from segdistill.models.network import Output

SAVE_SECONDS = 10.0
WAIT_SECONDS = 0.5
GB = 1e9
T = TypeVar("T")


@dataclass(frozen=True)
class Filling:
    """How far the filling is; `total` 0 is a message."""

    text: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class How:
    """How the teachers are asked."""

    device: torch.device
    batch_size: int = 8
    channels_last: bool = False
    workers: int = 0

    def moved(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and masks on the device."""
        image, target = batch["image"].to(self.device), batch["mask"].to(self.device)
        return image.contiguous(memory_format=torch.channels_last) if self.channels_last else image, target


def fill(cache: TargetCache, teachers: Sequence[Teacher], how: How, limit: float) -> Iterator[Filling]:
    """Asks the teachers for what is missing; works as it is consumed, and goes on where it was stopped.

    Several processes may fill one cache: the second waits for what the first one is about to write.

    Args:
        cache: what is wanted.
        teachers: in the order of what is wanted.
        how: device and batches.
        limit: the size in bytes that the cache's folder may grow to.

    Raises:
        InputError: more than the limit or the disk allows, the disk is full, or a distillation method cannot be kept.
    """
    try:
        if cache.is_filled:
            return
        layouts = _layouts(cache, teachers, how)
        yield Filling(_estimate(cache, layouts, limit))
        for j, teacher in enumerate(teachers):
            mine = {slot.entry.folder: slot for slot in cache.slots if slot.wanted.teacher == j}
            with ExitStack() as locks:
                for folder in sorted(mine):  # in order: two processes never wait for each other
                    if cache.missing(mine[folder]):
                        locks.enter_context((yield from _lock(folder)))
                        mine[folder].entry.refresh()
                slots = [slot for slot in mine.values() if cache.missing(slot)]
                if slots:
                    yield from _fill(cache, slots, layouts, teacher, how)
    except OSError as error:
        raise InputError(
            f"cannot write the method cache {cache.folder}: {error.strerror or error}: free some space, lower "
            "fit.views, or set cache: false; what it holds stays, and the same command goes on from there"
        ) from error


def _layouts(cache: TargetCache, teachers: Sequence[Teacher], how: How) -> dict[Path, Layout]:
    """The layout of every entry that is not complete, from what is said of two rows."""
    layouts: dict[Path, Layout] = {}
    for slot in cache.slots:
        if cache.missing(slot) and slot.entry.folder not in layouts:
            image, target = how.moved(_views(cache.views, slot.wanted.rows[:2], 0))
            teacher = teachers[slot.wanted.teacher]
            output = teacher.ask(image, slot.wanted.method.features)
            layouts[slot.entry.folder] = _named(slot, lambda: Layout.of(_said(slot, output, target, teacher)))  # noqa: B023
    return layouts


def _estimate(cache: TargetCache, layouts: dict[Path, Layout], limit: float) -> str:
    """Words on what is missing.

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
    there = sum(path.stat().st_size for path in cache.folder.glob(f"*/{RECORDS}"))
    words = f"{_size(need)} for {cache.count} views of each image"
    if there + need > limit:
        raise InputError(
            f"the method cache needs {words}: {cache.folder} would grow to {_size(there + need)}, its limit is "
            f"{_size(limit)}: set cache_limit_gb to {math.ceil((there + need) / GB)}, lower fit.views or the size, "
            "or delete that folder if no other run needs it"
        )
    free = shutil.disk_usage(cache.folder).free
    if need > free:
        raise InputError(
            f"the method cache needs {words}, the disk of {cache.folder} has {_size(free)} left: free some space, "
            "lower fit.views or the size, or set cache: false"
        )
    return f"method cache: {words} to fill in {cache.folder}"


def _size(count: float) -> str:
    return f"{count / GB:.2f} GB" if count >= GB else f"{count / 1e6:.1f} MB"


def _lock(folder: Path) -> Generator[Filling, None, IO[str]]:
    told = False
    while (lock := try_lock(folder)) is None:
        if not told:
            yield Filling("another run fills the same method cache: waiting for it")
        told = True
        time.sleep(WAIT_SECONDS)
    return lock


def _fill(
    cache: TargetCache, slots: list[Slot], layouts: dict[Path, Layout], teacher: Teacher, how: How
) -> Iterator[Filling]:
    """Fills entries of one teacher, which all are of the same rows."""
    rows = slots[0].wanted.rows
    for slot in slots:
        slot.entry.begin(layouts[slot.entry.folder])
    start = min(slot.entry.count for slot in slots)
    parts = list(_parts(start, len(rows), cache.count, how.batch_size))
    features = sorted({layer for slot in slots for layer in slot.wanted.method.features})

    def make(part: NDArray[np.int64]) -> Batch:
        return _views(cache.views, rows[part % len(rows)], int(part[0]) // len(rows))

    with ExitStack() as stack:
        appending = [(slot, stack.enter_context(slot.entry.appending())) for slot in slots]
        saved = time.monotonic()
        made = ahead(make, parts, how.workers) if how.workers else map(make, parts)
        for part, batch in zip(parts, made, strict=True):
            image, target = how.moved(batch)
            output = teacher.ask(image, features)
            for slot, appender in appending:
                _append(slot, appender, output, target, teacher, int(part[0]))
            if time.monotonic() - saved > SAVE_SECONDS:
                for _, appender in appending:
                    appender.save()
                saved = time.monotonic()
            yield Filling(f"asking {teacher.name}", int(part[-1]) + 1, cache.count * len(rows))
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
    slot: Slot, appender: Appender, output: Output, target: Tensor, teacher: Teacher, position: int
) -> None:
    known = max(0, appender.count - position)  # of an entry that had come further than its neighbours
    if known < len(target):
        targets = _said(slot, output, target, teacher)
        assert slot.entry.layout is not None
        appender.append(_named(slot, lambda: slot.entry.layout.pack(targets))[known:])  # type: ignore[union-attr]


def _views(views: Views, rows: NDArray[np.int64], number: int) -> Batch:
    images, masks = views.arrays(rows, number)
    return {"image": torch.from_numpy(images), "mask": torch.from_numpy(masks)}


@torch.no_grad()
def _said(slot: Slot, output: Output, target: Tensor, teacher: Teacher) -> Targets:
    method = slot.wanted.method
    if isinstance(method, Cacheable):
        return method.keep(output)
    return method.targets(output, target, teacher.name)


def _named(slot: Slot, work: Callable[[], T]) -> T:
    """Work on what a distillation method said, whose errors name it."""
    try:
        return work()
    except InputError as error:
        name = slot.wanted.methods or "soft_prediction"
        raise InputError(f"method {name} cannot be cached: {error}: set cache: false") from error
