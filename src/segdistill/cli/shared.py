"""What commands share: options, progress on a terminal, output as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer

from segdistill.files import json_text, shown, shown_lines

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


class _EscapingStream:
    """A stream that shows control characters escaped, and what the stream's encoding lacks as well."""

    def __init__(self, stream: TextIO) -> None:
        self.unescaped = stream

    def write(self, text: str) -> int:
        encoding = getattr(self.unescaped, "encoding", None) or "utf-8"
        self.unescaped.write(shown_lines(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # through it click would write to a terminal of ASCII past this stream
            raise AttributeError(name)
        return getattr(self.unescaped, name)


@contextmanager
def escaped_streams() -> Iterator[None]:
    r"""What is printed inside the block, by whatever library, holds no control characters, and fits the terminal.

    >>> with escaped_streams():
    ...     print("a\x1b[2J")
    a\x1b[2J
    """
    out, err = (cast(TextIO, _EscapingStream(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


def print_json(value: Any) -> None:
    """Prints a value on stdout; a terminal that is not UTF-8 gets ASCII, so that it stays JSON."""
    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "utf").lower()
    print(json_text(value, ascii_only=not unicode, default=str))


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
    from rich.markup import escape
    from rich.progress import Progress

    # the bar's own commands reach the terminal; what others print is not read by it, so that it stays escaped
    console = Console(file=getattr(sys.stderr, "unescaped", sys.stderr))
    with Progress(console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(escape(shown(what)))
            bars.update(tasks[what], completed=done, total=total)

        yield show
