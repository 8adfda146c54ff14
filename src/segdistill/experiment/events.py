"""The progress of a run, and how it is shown: bars on a terminal, lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from segdistill.files import shown

SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Event:
    """`text` names a part of the run, `done` of `total` its progress; total 0 is a message.

    >>> Event("stage student", 3, 10).finished
    False
    """

    text: str
    done: int = 0
    total: int = 0
    detail: str = ""

    @property
    def finished(self) -> bool:
        """Whether the part is over; a message always is."""
        return self.done >= self.total


def show_events(events: Iterable[Event]) -> None:
    """Consumes the events of a run and shows them."""
    if sys.stderr.isatty():
        _bars(events)
    else:
        _lines(events)


def _bars(events: Iterable[Event]) -> None:
    from rich.console import Console
    from rich.markup import escape
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
    # the bars' own commands reach the terminal; what others print is not read by them, so that it stays escaped
    console = Console(file=getattr(sys.stderr, "unescaped", sys.stderr))
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as progress:
        bars: dict[str, int] = {}
        for event in events:
            if not event.total:
                progress.console.print(shown(event.text), highlight=False, markup=False)
                continue
            if event.text not in bars:
                bars[event.text] = progress.add_task(
                    escape(shown(event.text)), total=event.total, detail="", completed=event.done
                )
            fields = {"detail": escape(shown(event.detail))} if event.detail else {}
            progress.update(bars[event.text], completed=event.done, **fields)  # type: ignore[arg-type]


def _lines(events: Iterable[Event]) -> None:
    began: dict[str, tuple[float, int]] = {}
    last: dict[str, float] = {}  # by text: stages may be trained side by side
    for event in events:
        now = time.monotonic()
        if not event.total:
            print(shown(event.text), file=sys.stderr, flush=True)
            continue
        start, first = began.setdefault(event.text, (now, event.done))
        if event.finished or now - last.get(event.text, 0.0) >= SECONDS_BETWEEN_LINES:
            last[event.text] = now
            print(shown(_line(event, now - start, first)), file=sys.stderr, flush=True)


def _line(event: Event, seconds: float, first: int) -> str:
    line = f"{event.text}: {event.done}/{event.total}"
    if event.detail:
        line += f"  {event.detail}"
    if event.finished:
        return f"{line}  {seconds:.1f} s"
    if event.done > first:
        left = seconds / (event.done - first) * (event.total - event.done)
        line += f"  about {left / 60:.1f} min left"
    return line
