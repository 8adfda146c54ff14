"""Predicted maps beside the masks of a prepared store: one per row, as log-odds in 8 bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.store import Ragged, Store, checksum, write_header
from segdistill.files import atomic_write, write_json

LARGEST = 12.0
"""Log-odds are kept from -LARGEST to LARGEST: probabilities from 6e-6 to 1 - 6e-6."""


def encode(probability: NDArray[np.floating[Any]], axis: int | None = None) -> NDArray[np.uint8]:
    """Probabilities as log-odds in 256 steps; each is at most 0.047 from the true log-odds within the limits.

    Args:
        probability: of foreground.
        axis: of the K foreground classes; their log-odds are against the background, whose probability is what is left
            of 1. None: one class.

    >>> encode(np.array([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    >>> encode(np.array([0.25, 0.5]), axis=0).tolist()  # the background has 0.25
    [128, 135]
    """
    known = np.clip(np.asarray(probability, np.float64), 1e-9, 1 - 1e-9)
    rest = 1 - known
    if axis is not None and known.shape[axis] > 1:
        rest = np.clip(1 - known.sum(axis=axis, keepdims=True), 1e-9, 1)
    odds = np.clip(np.log(known / rest), -LARGEST, LARGEST)
    return np.round((odds + LARGEST) * (255 / (2 * LARGEST))).astype(np.uint8)


def labels_of(probability: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """The most probable class: (K, ...) of K foreground classes -> (...), 0 for background.

    >>> labels_of(np.array([[0.2, 0.1, 0.7], [0.3, 0.6, 0.1]])).tolist()
    [0, 2, 1]
    """
    whole = probability
    if len(probability) > 1:
        whole = np.concatenate([1 - probability.sum(axis=0, keepdims=True), probability])
    labels: NDArray[np.intp] = whole.argmax(axis=0) if len(whole) > 1 else (whole[0] > 0.5).astype(np.intp)
    return labels.astype(np.uint8)


@dataclass(frozen=True)
class StoredMaps:
    """Maps of a teacher.

    Attributes:
        values: row -> uint8 (K, H, W), or of volumes (K, D, H, W), of K foreground classes, mapped into memory; rows
            without a prediction are 0.
        facts: what was found while they were made, such as the confidence of each case.
    """

    values: NDArray[np.uint8] | Ragged
    facts: dict[str, Any]


def open_maps(store: Store, key: str) -> StoredMaps | None:
    """The maps that were stored under a key; None where there are none, or damaged ones.

    Args:
        store: whose rows they belong to.
        key: a hash of everything that decides them.
    """
    path = store.folder / f"maps-{key}.npy"
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        values: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        if checksum(path) != about["crc32"]:
            return None
        if values.ndim == 1:
            shapes = [(about["classes"], *store.shape(row)) for row in range(len(store))]
            return StoredMaps(Ragged(values, shapes), about["facts"])
        if values.shape == (len(store), about["classes"], *store.size):
            return StoredMaps(values, about["facts"])
    return None


@contextmanager
def writing_maps(
    store: Store, key: str, facts: Mapping[str, Any], classes: int = 1
) -> Iterator[Callable[[int, NDArray[np.uint8]], None]]:
    """Gives a function that stores the maps (K, H, W) of a row; rows come in rising order, and may leave some out.

    The maps appear under their key only when the block ends without an error.

    Args:
        store: whose rows they belong to.
        key: a hash of everything that decides them.
        facts: written at the end, so that the block may fill them in.
        classes: K, of foreground.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    path = store.folder / f"maps-{key}.npy"
    shapes = [(classes, *store.shape(row)) for row in range(len(store))]
    done = 0
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        alike = not store.holds_volumes
        write_header(file, (len(store), *shapes[0]) if alike else (sum(map(math.prod, shapes)),))

        def leave_out(before: int) -> None:
            for shape in shapes[done:before]:
                file.write(bytes(math.prod(shape)))

        def write(row: int, found: NDArray[np.uint8]) -> None:
            nonlocal done  # plain writes: with a memory map a full disk would end the process
            leave_out(row)
            file.write(np.ascontiguousarray(found, np.uint8).tobytes())
            done = row + 1

        yield write
        leave_out(len(store))
    write_json(path.with_suffix(".json"), {"crc32": checksum(path), "classes": classes, "facts": facts})
