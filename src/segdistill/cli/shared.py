"""What commands share: options, progress on a terminal, output as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugins",
        metavar="FILE|MODULE",
        help="code to run first, because it registers parts of your own; may be given several times",
    ),
]


def add_command(app: typer.Typer, command: Callable[..., Any], name: str | None = None) -> None:
    """Adds a command; in lists it has the first line of its docstring, which is never cut.

    >>> def greet() -> None:
    ...     '''Print a greeting.'''
    >>> add_command(typer.Typer(), greet)
    """
    app.command(name, short_help=(command.__doc__ or "").partition("\n")[0])(command)


def print_json(value: Any) -> None:
    """Prints a value on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def names(text: str | None) -> list[str]:
    """The names in a comma-separated list, without empty ones.

    >>> names("voe, hd95,"), names(None)
    (['voe', 'hd95'], [])
    """
    return [name.strip() for name in (text or "").split(",") if name.strip()]


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """As `progress_bars`, with one bar.

    >>> with progress_bar("checking") as progress:
    ...     progress(1, 2)
    """
    with progress_bars() as show:
        yield partial(show, what)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function of (what, done, total) that moves a bar per `what`; without a terminal it shows nothing.

    >>> with progress_bars() as progress:
    ...     progress("checking", 1, 2)
    """
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield show
