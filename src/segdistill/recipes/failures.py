"""Trainings of which some may fail: they are listed, the others go on, and running again tries them once more."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Sequence

import torch

from segdistill.errors import CasesFailed
from segdistill.recipes.event import Event
from segdistill.recipes.machine import Machine
from segdistill.recipes.schema import Recipe
from segdistill.training.finite import TrainingStopped

TOO_LITTLE_MEMORY = "the device has too little memory: lower batch_size (and raise accumulate) or size"


def train_all(
    recipe: Recipe, names: Sequence[str], train: Callable[[str], Iterator[Event]], machine: Machine
) -> Generator[Event, None, dict[str, str]]:
    """Trains stages in order; those that may fail, and fail by their numbers or for want of memory, are passed over.

    So are those that need a failed one. On several devices nothing may fail, since the processes could not agree on it.

    Returns:
        Failed stage -> why.

    Raises:
        TrainingStopped: a stage that must not fail has.
    """
    failed: dict[str, str] = {}
    for name in names:
        lost = [other for other in recipe.needs(name) if other in failed]
        if lost:
            failed[name] = f"it needs {', '.join(lost)}"
            yield Event(f"stage {name}: passed over, since {failed[name]}")
            continue
        try:
            yield from train(name)
        except (TrainingStopped, RuntimeError) as error:
            why = str(error) if isinstance(error, TrainingStopped) else memory_error(error)
            if why is None or not recipe.stages[name].may_fail or machine.processes > 1:
                raise
            failed[name] = why
            yield Event(f"stage {name}: failed: {why}")
        if name in failed:  # outside the handler, which keeps the frames and all their tensors alive
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return failed


def memory_error(error: RuntimeError) -> str | None:
    """What to do about an error for want of memory; None for any other.

    >>> memory_error(RuntimeError("shapes do not fit")) is None
    True
    """
    words = str(error)
    is_one = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in words
    return TOO_LITTLE_MEMORY if is_one or "not enough memory" in words else None


def tell_failed(failed: dict[str, str]) -> None:
    """Ends a run of which some trainings failed.

    Raises:
        CasesFailed: names them.
    """
    if failed:
        first, why = next(iter(failed.items()))
        raise CasesFailed(
            f"{len(failed)} trainings failed ({', '.join(failed)}): {first}: {why}; the others are done: run the same "
            "command again to try these once more"
        )
