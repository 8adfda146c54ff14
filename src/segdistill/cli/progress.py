"""Shows how far a command is: a bar on a terminal; of a run, lines otherwise. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from segdistill.errors import MissingExtra

if TYPE_CHECKING:
    from segdistill.experiment.events import Event


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Turns a missing module inside the block into one line that names the extra to install.

    >>> with needs("training", "train"):
    ...     import nothing_of_this_name
    Traceback (most recent call last):
    segdistill.errors.MissingExtra: training needs the extra 'train': pip install 'segdistill[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("segdistill"):
            raise
        raise MissingExtra(what, extra) from error


SECONDS_BETWEEN_LINES = 10.0


def show(events: Iterable[Event]) -> None:
    """Consumes the events of a run and shows them."""
    if sys.stderr.isatty():
        _bars(events)
    else:
        _lines(events)


def _bars(events: Iterable[Event]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars: dict[str, int] = {}
        for event in events:
            if not event.total:
                progress.console.print(event.text, highlight=False, markup=False)
                continue
            if event.text not in bars:
                bars[event.text] = progress.add_task(
                    event.text, total=event.total, detail="", completed=event.done
                )
            fields = {"detail": event.detail} if event.detail else {}
            progress.update(bars[event.text], completed=event.done, **fields)  # type: ignore[arg-type]


def _lines(events: Iterable[Event]) -> None:
    began: dict[str, tuple[float, int]] = {}
    last = 0.0
    for event in events:
        now = time.monotonic()
        if not event.total:
            print(event.text, file=sys.stderr, flush=True)
            continue
        start, first = began.setdefault(event.text, (now, event.done))
        if not event.finished and now - last < SECONDS_BETWEEN_LINES:
            continue
        last = now
        line = f"{event.text}: {event.done}/{event.total}"
        if event.detail:
            line += f"  {event.detail}"
        if not event.finished and event.done > first:
            left = (now - start) / (event.done - first) * (event.total - event.done)
            line += f"  about {left / 60:.1f} min left"
        elif event.finished:
            line += f"  {now - start:.1f} s"
        print(line, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that is told (done, total) and moves a bar; without a terminal it shows nothing.

    >>> with progress_bar("checking") as progress:
    ...     progress(1, 2)
    """
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
