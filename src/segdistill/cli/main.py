"""The command line: one small file per command, heavy imports inside the commands."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from segdistill import __version__
from segdistill.cli import data
from segdistill.cli.benchmark import benchmark
from segdistill.cli.compare import compare
from segdistill.cli.complexity import complexity
from segdistill.cli.demo import demo
from segdistill.cli.doctor import doctor
from segdistill.cli.evaluate import evaluate
from segdistill.cli.export import export
from segdistill.cli.listing import listing
from segdistill.cli.predict import predict
from segdistill.cli.reproduce import reproduce
from segdistill.cli.run import run
from segdistill.cli.shared import add_command, escaped_streams
from segdistill.cli.shrink import shrink
from segdistill.cli.view import view
from segdistill.errors import InputError, MethodWarning, SegdistillError, first_line, memory_error
from segdistill.files import shown
from segdistill.plugins import PluginWarning, use_installed

INTERRUPTED = "interrupted; run the same command again to continue"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"segdistill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Distil big medical-image segmentation networks into small ones that run anywhere."""
    context.with_resource(use_installed(False))


app.add_typer(data.app, name="data", short_help=data.HELP)
for each in (
    demo,
    run,
    shrink,
    evaluate,
    compare,
    export,
    predict,
    view,
    benchmark,
    doctor,
    complexity,
    reproduce,
):
    add_command(app, each)
add_command(app, listing, "list")


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """A request to end, as schedulers send it, is as Ctrl-C: nothing half-written stays."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there signals can be set
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Entry point: an error that a user can cause is one line on stderr and an exit code, never a traceback."""
    with _ended_as_interrupted(), escaped_streams(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            app()
        except SegdistillError as error:
            _stop(str(error), error.exit_code)
        except OSError as error:  # refused by the system: a full disk, a missing permission
            place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            _stop(f"{place}{error.strerror or error}", InputError.exit_code)
        except UnicodeError as error:
            _stop(_not_text(error), InputError.exit_code)
        except Exception as error:
            if (advice := memory_error(error)) is None:
                raise
            _stop(advice, InputError.exit_code)
        except KeyboardInterrupt:
            _stop(INTERRUPTED, 130)
        except SystemExit as stop:
            if stop.code == 130:  # typer's exit code for Ctrl-C
                _stop(INTERRUPTED, 130)
            raise


def _not_text(error: UnicodeError) -> str:
    """About a name with bytes that are not UTF-8, where a library takes text only."""
    text = getattr(error, "object", "")
    if not isinstance(text, str):
        return f"a file is not the text that it should be ({first_line(error)}): save it as UTF-8"
    return f"{text[:1000]}: a name or text that is not UTF-8 cannot be used here: rename it"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: Any = None,
) -> None:
    is_ours = issubclass(category, (PluginWarning, MethodWarning))
    text = f"warning: {message}" if is_ours else warnings.formatwarning(message, category, filename, lineno)
    print(text.rstrip(), file=sys.stderr)


def _stop(message: str, code: int) -> NoReturn:
    print(f"segdistill: {shown(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
