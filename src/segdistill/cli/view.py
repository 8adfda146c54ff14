"""segdistill view MODEL [MODEL2] CASES: cases in the browser, on this machine alone."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from segdistill.cli.shared import AsJson, Plugins, print_json
from segdistill.errors import InputError, needs
from segdistill.files import shown

if TYPE_CHECKING:
    from segdistill.server.page import PageModel


def view(
    places: Annotated[
        list[str],
        typer.Argument(
            help="one model or two (files, or folders of a run or stage), and the cases: cases.csv, a run, or a folder",
            metavar="MODEL [MODEL2] CASES",
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="test, train, val or all; by default test, or all where the table has no test case"
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="print the address, open no browser")] = False,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Look at cases in the browser, with one or two models.

    It is the page of export --web, with the cases in a list. Two models, such as teacher and student, stand side by
    side, and their disagreement is marked. The server is on this machine alone, and the networks run in the browser.
    Ctrl-C ends it.
    """
    from segdistill.server.view import CaseServer, find_cases

    *models, last = places
    if len(models) not in (1, 2):
        raise InputError(
            "give one model or two, and then the cases, such as: segdistill view student.onnx cases.csv"
        )
    cases = find_cases(last, split)
    with CaseServer([_read(model, plugins or []) for model in models], models, cases, port) as server:
        if as_json:
            print_json({"url": server.url, "cases": len(cases)})
        else:
            typer.echo(f"{len(cases)} cases of {shown(last)}: {server.url}")
            typer.echo("Ctrl-C ends", err=True)
        if not no_open:
            _open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("ended", err=True)


def _read(place: str, plugins: list[str]) -> PageModel:
    """A model file; of a run's folder the one that it exported, of a stage one that is made for this."""
    from segdistill.server.page import PageModel

    file = Path(place)
    if not file.is_dir():
        return PageModel.read(file)
    if (file / "model.onnx").is_file():
        return PageModel.read(file / "model.onnx")
    with needs("a stage of a run", "train"):
        from segdistill.experiment.export import export_run
    with TemporaryDirectory() as folder:
        typer.echo(f"{shown(place)}: exporting", err=True)
        export_run(place, Path(folder) / "model.onnx", None, plugins)
        return PageModel.read(Path(folder) / "model.onnx")


def _open(url: str) -> None:
    """Opens a window; not a browser of the terminal, which would take its place."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if type(browser) is not webbrowser.GenericBrowser:
        browser.open(url)
