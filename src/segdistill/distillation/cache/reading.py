"""The teacher cache: targets computed once for V views of each row, then read in every epoch.

A view is fixed by (seed, number, row), and a teacher is frozen: its targets for a view never change. All runs, stages,
methods and seeds share one folder. The name of an entry is a hash of everything that decides its content, so targets
of another teacher, or for other pixels, are never used.
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
from torch import Tensor, nn

from segdistill.data.views import Batch, Views
from segdistill.distillation.base import DistillationMethod, Targets
from segdistill.distillation.cache.entry import Entry
from segdistill.errors import InputError
from segdistill.files import sha256_text

VERSION = 1
LOGITS = ""
"""The method name under which a soft prediction is kept for `CachedTargets.logits`."""
_NOT_READ = frozenset(vars(nn.Module())) | {"scale", "ratio"}


@dataclass(frozen=True)
class Wanted:
    """The targets of one method from one teacher.

    Attributes:
        teacher: its position among the teachers.
        name: of the method in the recipe.
        term: of a composed method, by the name that `term_targets` takes; "" for one that is not.
        method: computes the targets.
        facts: everything that decides the targets, but for the rows.
        rows: positions in the views on which the teacher is active.
    """

    teacher: int
    name: str
    term: str
    method: DistillationMethod
    facts: Mapping[str, Any]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Slot:
    """Wanted targets and their entry; two slots may share an entry."""

    wanted: Wanted
    entry: Entry
    where: NDArray[np.int64]  # of each row of the views: its place among the teacher's rows, or -1

    @property
    def name(self) -> str:
        """Its name in a batch."""
        return f"cache/{self.entry.folder.name}"


class TargetCache:
    """Teachers' targets for views, in a folder. `filling.fill` completes it; `attach` adds them to the batches.

    Args:
        folder: holds one folder per entry.
        views: of the training cases.
        count: number of views of each row.
        wanted: of all teachers; equal facts share an entry.
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
        """How many records a slot lacks, as far as this process knows (`Entry.refresh` reads again)."""
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
        """Adds the records of their rows to all further batches of the views.

        Raises:
            InputError: a record is missing, or damaged.
        """
        if not self.is_filled:
            raise InputError(f"the teacher cache {self.folder} is not complete: run the recipe again")
        parts = {}
        for slot in self.slots:
            length = len(slot.wanted.rows)
            parts[slot.name] = (slot.where, slot.entry.records(self.count * length), length)

        def beside(rows: NDArray[np.int64], number: int) -> dict[str, NDArray[Any]]:
            found: dict[str, NDArray[Any]] = {}
            for name, (where, records, length) in parts.items():
                own = where[rows]
                own = own[own >= 0]
                if not len(own):  # no active row: any record, with weight 0
                    own = np.zeros(1, np.int64)
                found[name] = np.asarray(records[number * length + own])
            return found

        self.views.beside = beside

    def read(self, batch: Batch) -> CachedTargets:
        """The targets in a batch of the views."""
        return CachedTargets(self.slots, batch)


class CachedTargets:
    """The teachers' targets that a batch holds: see `training.targets.TeacherTargets`."""

    def __init__(self, slots: Sequence[Slot], batch: Batch) -> None:
        self._batch = batch
        self._slots: dict[tuple[int, str], list[Slot]] = {}
        for slot in slots:
            self._slots.setdefault((slot.wanted.teacher, slot.wanted.name), []).append(slot)
        self._unpacked: dict[str, Targets] = {}

    def logits(self, teacher: int) -> Tensor | None:
        """(rows, C, ...) log-probabilities, which softmax leaves unchanged; None if they are not in the cache."""
        return self.targets(teacher, LOGITS)["log_probability"] if (teacher, LOGITS) in self._slots else None

    def targets(self, teacher: int, method: str) -> Targets:
        """The targets of a method, by its name."""
        whole: Targets = {}
        for slot in self._slots[teacher, method]:
            if slot.name not in self._unpacked:
                assert slot.entry.layout is not None
                self._unpacked[slot.name] = slot.entry.layout.unpack(self._batch[slot.name])
            start = f"{slot.wanted.term}/" if slot.wanted.term else ""
            targets = slot.wanted.method.from_cache(self._unpacked[slot.name])
            whole |= {start + name: value for name, value in targets.items()}
        return whole


def cache_facts(method: DistillationMethod) -> dict[str, Any]:
    """Everything that decides the targets of a method of one term for a given output, but for networks that it holds.

    These are its attributes of plain types, without its `loss_options`, and the hash of its source, so that targets
    of older code are not used.

    >>> from segdistill.distillation import create_method
    >>> def same(name, first, second):
    ...     return cache_facts(create_method(name, **first)) == cache_facts(create_method(name, **second))
    >>> same("soft_prediction", {"temperature": 4.0}, {"temperature": 1.0})  # kept at temperature 1
    True
    >>> same("attention_transfer", {"norm": "l1"}, {}), same("attention_transfer", {"exponent": 2}, {})
    (True, False)

    Raises:
        InputError: it cannot be cached.
    """
    kind = type(method)
    if not method.cacheable:
        raise InputError(
            f"method {kind.__name__} cannot be cached, since a teacher's targets change in training: set cache: false"
        )
    if method.cache_form:
        return {"form": method.cache_form, "source": _source(kind.to_cache)}
    read = {
        name: value
        for name, value in vars(method).items()
        if name not in _NOT_READ and name not in method.loss_options and _is_plain(value)
    }
    return {"method": kind.__qualname__, "reads": read, "source": _source(kind)}


def _source(part: Any) -> str:
    return sha256_text(inspect.getsource(sys.modules[part.__module__]))


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, str | int | float | bool)
