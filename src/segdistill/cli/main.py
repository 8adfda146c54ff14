"""The command line: one small file per command, heavy imports inside the commands."""

from __future__ import annotations

import sys

import typer

from segdistill.cli import data, listing
from segdistill.cli.complexity import complexity
from segdistill.cli.demo import demo
from segdistill.cli.evaluate import evaluate
from segdistill.cli.export import export
from segdistill.cli.predict import predict
from segdistill.cli.reproduce import reproduce
from segdistill.cli.run import run
from segdistill.errors import SegdistillError

app = typer.Typer(
    help="Distil big medical-image segmentation networks into small ones that run anywhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
for command in (demo, run, evaluate, export, predict, complexity, reproduce):
    app.command()(command)
app.command(name="list")(listing.listing)


def main() -> None:
    """Entry point: an error that a user can cause is one line on stderr and an exit code, never a traceback."""
    try:
        app()
    except SegdistillError as error:
        print(f"segdistill: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("segdistill: interrupted; run the same command again to continue", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
