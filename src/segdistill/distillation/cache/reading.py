"""The method cache: what teachers say of the V views of each row is computed once, and read by every epoch.

A view is fixed by (seed, number, row), and a teacher is frozen: what it says of a view never changes. It is kept in one
folder for all runs, stages, methods and seeds; the name of an entry is a hash of all that decides it, so that what
another teacher said, or said of other pixels, is never found.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segdistill.data.views import Batch, Views
from segdistill.distillation.base import Cacheable, DistillationMethod, Targets
from segdistill.distillation.cache.entry import Entry
from segdistill.errors import InputError
from segdistill.files import sha256_text

VERSION = 1
LOGITS = ""
"""The name under which a soft prediction is kept for `Recalled.logits`, beside the names of the method."""


@dataclass(frozen=True)
class Wanted:
    """One thing to keep of one teacher.

    Attributes:
        teacher: its position among the teachers.
        methods: the name under which it is asked for.
        term: of a composed method, by the name that `within` takes (composed.py); "" for one that is not.
        method: extracts it.
        facts: all that decides what is extracted, but for the rows.
        rows: positions in the views of which the teacher speaks.
    """

    teacher: int
    methods: str
    term: str
    method: DistillationMethod
    facts: Mapping[str, Any]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Slot:
    """Where something wanted lies; two slots may share an entry."""

    wanted: Wanted
    entry: Entry
    where: NDArray[np.int64]  # of each row of the views: its place among the teacher's rows, or -1

    @property
    def name(self) -> str:
        """Its name in a batch."""
        return f"cache/{self.entry.folder.name}"


class TargetCache:
    """What teachers say of views, in a folder. `cache_filling.fill` completes it; `attach` puts it into the batches.

    Args:
        folder: holds one folder per entry.
        views: of the training cases.
        count: how many views of each row are kept.
        wanted: what is kept of whom; equal facts share an entry.
    """

    def __init__(self, folder: Path, views: Views, count: int, wanted: Sequence[Wanted]) -> None:
        self.folder, self.views, self.count = folder, views, count
        names = views.names
        entries: dict[str, Entry] = {}
        self.slots: list[Slot] = []
        for part in wanted:
            rows = sha256_text(json.dumps([names[k] for k in part.rows]))
            facts = {"version": VERSION, **part.facts, "rows": rows}
            key = sha256_text(json.dumps(facts, sort_keys=True))[:16]
            if key not in entries:
                entries[key] = Entry(folder / key, facts)
            where = np.full(len(views), -1, np.int64)
            where[part.rows] = np.arange(len(part.rows))
            self.slots.append(Slot(part, entries[key], where))

    def missing(self, slot: Slot) -> int:
        """How many records a slot lacks, as far as this process knows (`Entry.refresh` looks again)."""
        return slot.entry.missing(self.count * len(slot.wanted.rows))

    @property
    def is_filled(self) -> bool:
        """Whether nothing is missing on disk."""
        for slot in self.slots:
            if self.missing(slot):
                slot.entry.refresh()
            if self.missing(slot):
                return False
        return True

    def attach(self) -> None:
        """From now on the batches of the views hold what their rows' teachers said.

        Raises:
            InputError: something is missing, or damaged.
        """
        if not self.is_filled:
            raise InputError(f"the method cache {self.folder} is not complete: run the recipe again")
        parts = {}
        for slot in self.slots:
            length = len(slot.wanted.rows)
            parts[slot.name] = (slot.where, slot.entry.records(self.count * length), length)

        def beside(rows: NDArray[np.int64], number: int) -> dict[str, NDArray[Any]]:
            found: dict[str, NDArray[Any]] = {}
            for name, (where, records, length) in parts.items():
                own = where[rows]
                own = own[own >= 0]
                if not len(own):  # the teacher is silent: any record, whose weight is 0
                    own = np.zeros(1, np.int64)
                found[name] = np.asarray(records[number * length + own])
            return found

        self.views.beside = beside

    def recall(self, batch: Batch) -> CachedBatch:
        """The answers that lie in a batch of the views."""
        return CachedBatch(self.slots, batch)


class CachedBatch:
    """Teachers' answers out of a batch, for training/distillation.py."""

    def __init__(self, slots: Sequence[Slot], batch: Batch) -> None:
        self._batch = batch
        self._slots: dict[tuple[int, str], list[Slot]] = {}
        for slot in slots:
            self._slots.setdefault((slot.wanted.teacher, slot.wanted.methods), []).append(slot)
        self._kept: dict[str, Targets] = {}

    def logits(self, teacher: int) -> Tensor | None:
        """(rows, C, ...) log-probabilities, which softmax leaves as they are; None where none are kept."""
        return self.targets(teacher, LOGITS)["log_probability"] if (teacher, LOGITS) in self._slots else None

    def targets(self, teacher: int, methods: str) -> Targets:
        """What the method would have extracted from the teacher's answer."""
        whole: Targets = {}
        for slot in self._slots[teacher, methods]:
            if slot.name not in self._kept:
                assert slot.entry.layout is not None
                self._kept[slot.name] = slot.entry.layout.unpack(self._batch[slot.name])
            kept, method = self._kept[slot.name], slot.wanted.method
            targets = method.recall(kept) if isinstance(method, Cacheable) else kept
            start = f"{slot.wanted.term}/" if slot.wanted.term else ""
            whole |= {start + name: value for name, value in targets.items()}
        return whole


def extraction(method: DistillationMethod) -> dict[str, Any]:
    """All that decides what a distillation method of one term extracts from a given answer, but for networks that it holds.

    These are its attributes of plain types, less those that only `loss` reads, and the hash of its source: what older
    code extracted is stale.

    >>> from segdistill.distillation import AttentionTransfer, SoftPrediction
    >>> extraction(SoftPrediction(4.0)) == extraction(SoftPrediction(1.0))  # kept at temperature 1
    True
    >>> extraction(AttentionTransfer(norm="l1")) == extraction(AttentionTransfer(exponent=1))
    True
    >>> extraction(AttentionTransfer(exponent=2)) == extraction(AttentionTransfer(exponent=1))
    False

    Raises:
        InputError: it cannot be cached.
    """
    kind = type(method)
    if not method.cacheable:
        raise InputError(
            f"method {kind.__name__} cannot be cached, since what it takes from a teacher changes in training: set "
            "cache: false"
        )
    if isinstance(method, Cacheable):
        return {"kept": method.keeps, "source": _source(kind.keep)}  # type: ignore[attr-defined]
    read = {
        name: value
        for name, value in vars(method).items()
        if name not in method.compares and _is_plain(value)
    }
    return {"methods": kind.__qualname__, "reads": read, "source": _source(kind)}


def _source(part: Any) -> str:
    return sha256_text(inspect.getsource(sys.modules[part.__module__]))


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, str | int | float | bool)
