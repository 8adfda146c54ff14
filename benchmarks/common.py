"""Shared by the benchmarks: arguments, timing, the machine, and the object that each of them prints."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOAD_AT_START = os.getloadavg()[0]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    first_line = (description or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=first_line)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def report(
    name: str, figure: float, bar: float, holds: bool, details: dict[str, Any], as_json: bool
) -> dict[str, Any]:
    """Prints the result, as one JSON object or for people."""
    result = {
        "name": name,
        "figure": round(figure, 4),
        "bar": bar,
        "holds": bool(holds),
        "details": details,
    }
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(f"{name}: {figure:.4g} (bar {bar:g}): {'holds' if holds else 'DOES NOT HOLD'}")
        print(json.dumps(details, indent=2, ensure_ascii=False))
    return result


def log(text: str) -> None:
    """Prints progress on stderr: stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def machine(precision: str = "32-true") -> dict[str, str]:
    """The processor, the versions, and the load of the machine before the benchmark began."""
    import torch

    from segdistill.experiment.environment import environment

    found = environment(torch.device("cpu"), precision)
    return found | {"load_at_start": f"{LOAD_AT_START:.2f}"}


def two_cores() -> None:
    """Restricts this process and its threads to two cores; call before the first computation."""
    import torch

    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(min(torch.get_num_threads(), len(cores)))


def alternate(
    parts: Sequence[Callable[[], object]],
    rounds: int,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Seconds of each part in every round; the order is reversed after each, so that no part is always first."""
    times: list[list[float]] = [[] for _ in parts]
    order = list(range(len(parts)))
    for number in range(warm_up + rounds):
        for i in order:
            began = clock()
            parts[i]()
            if number >= warm_up:
                times[i].append(clock() - began)
        order.reverse()
    return times


def milliseconds(times: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, in milliseconds."""
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    return {"median": round(1e3 * middle, 3), "low": round(1e3 * low, 3), "high": round(1e3 * high, 3)}


@contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """A folder that is removed at the end."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=folder) as name:
        yield Path(name)
