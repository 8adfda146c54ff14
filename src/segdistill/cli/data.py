"""segdistill data: list, index, check, show and pack case tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from segdistill.cli.progress import progress_bar

if TYPE_CHECKING:
    from segdistill.data.case import Case
    from segdistill.data.check import Finding

app = typer.Typer(help="Turn images into case tables, check them, look at them.", no_args_is_help=True)

_AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
_Table = Annotated[Path, typer.Argument(help="the case table, cases.csv")]
_METHODS = ("none", "hold-out", "k-fold", "paper")
_SHOWN = 5
"""Errors that an index tells before it stops; --json has them all."""


@app.command("list")
def list_datasets(as_json: _AsJson = False) -> None:
    """List the datasets that can be indexed, with their published counts and where they come from."""
    from segdistill.data.datasets import DATASETS

    if as_json:
        rows = {
            name: {"title": item.title, "published": dict(item.published), "how_to_get": item.how_to_get}
            for name, item in DATASETS.items()
        }
        _print_json(rows)
        return
    for name, item in DATASETS.items():
        counts = ", ".join(f"{count} {label}".strip() for label, count in item.published.items())
        typer.echo(f"{name:10} {item.title}{f' ({counts})' if counts else ''}")
        typer.echo(f"{'':10} {item.how_to_get}")


@app.command()
def index(
    dataset: Annotated[
        str, typer.Argument(help="folder (your own images), busi, dataset_b, stu, sysu or phantom")
    ],
    path: Annotated[Path, typer.Argument(help="the dataset's folder")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the case table to write")] = Path("cases.csv"),
    split: Annotated[
        str, typer.Option("--split", "--method", help=f"split to write: {', '.join(_METHODS)}")
    ] = "none",
    test: Annotated[float, typer.Option(help="share of test cases")] = 0.15,
    val: Annotated[float, typer.Option(help="share of validation cases")] = 0.15,
    folds: Annotated[int, typer.Option(help="number of folds of k-fold")] = 5,
    fold: Annotated[int, typer.Option(help="the fold to test, from 1")] = 1,
    seed: Annotated[int, typer.Option(help="another seed gives another split")] = 0,
    group: Annotated[bool, typer.Option(help="put copies of one picture into one group")] = True,
    unlabelled: Annotated[bool, typer.Option(help="allow images without mask")] = False,
    as_json: _AsJson = False,
) -> None:
    """Turn a dataset into a case table; every file is checked first, and errors stop it (exit code 2)."""
    from segdistill.data.check import run_check
    from segdistill.data.datasets import create_dataset
    from segdistill.data.duplicates import group_duplicates
    from segdistill.data.table import write_cases
    from segdistill.errors import InputError

    if split not in _METHODS:
        raise InputError(f"unknown split '{split}': use {', '.join(_METHODS)}")
    if out.suffix.lower() != ".csv":  # also lest a slip of the keyboard replaces a picture
        raise InputError(f"the case table is a CSV, so its name must end in .csv: {out}")
    cases = create_dataset(dataset, path)
    with progress_bar("checking") as progress:
        result = run_check(cases, progress, require_reference=not unlabelled)
    if result.errors and as_json:
        _report(result.findings, as_json, cases=len(cases), table=None)
        raise typer.Exit(2)
    if result.errors:
        _refuse(result.errors, len(cases))
    if group:
        cases = group_duplicates(cases, result.pairs)
    cases = _split(cases, split, test, val, folds, fold, seed)
    former = out.read_bytes() if out.is_file() else None
    write_cases(cases, out)
    _keep(former, out)
    findings = [item for item in result.findings if not (group and "in different groups" in item.message)]
    _report(findings, as_json, cases=len(cases), table=out)


def _keep(former: bytes | None, table: Path) -> None:
    """Another table that was there before is not lost: somebody may have written labels or splits into it."""
    from segdistill.files import atomic_write

    if former is None or former == table.read_bytes():
        return
    kept = table.with_name(f"{table.name}.bak")
    with atomic_write(kept) as temporary:
        temporary.write_bytes(former)
    typer.echo(f"{table} held another table before, which is kept as {kept}", err=True)


@app.command()
def check(
    table: _Table,
    unlabelled: Annotated[bool, typer.Option(help="allow images without mask")] = False,
    as_json: _AsJson = False,
) -> None:
    """Look at every file of a table and say what is wrong; exit code 2 if there are errors."""
    from segdistill.data.check import run_check
    from segdistill.data.table import read_cases

    cases = read_cases(table)
    with progress_bar("checking") as progress:
        result = run_check(cases, progress, require_reference=not unlabelled)
    _report(result.findings, as_json, cases=len(cases), table=table)
    if result.errors:
        raise typer.Exit(2)


@app.command()
def show(
    table: _Table,
    out: Annotated[Path, typer.Option("-o", "--out", help="the PNG to write")] = Path("sheet.png"),
    split: Annotated[str | None, typer.Option(help="only this split")] = None,
    label: Annotated[str | None, typer.Option(help="only this label")] = None,
    columns: Annotated[int, typer.Option(help="pictures in a row")] = 8,
    limit: Annotated[int, typer.Option(help="at most so many pictures")] = 64,
) -> None:
    """Draw a contact sheet with the contours of the references."""
    from segdistill.data.case import select
    from segdistill.data.contact_sheet import contact_sheet
    from segdistill.data.table import read_cases
    from segdistill.errors import InputError
    from segdistill.registry import near_names

    if out.suffix.lower() != ".png":
        raise InputError(f"the contact sheet is a PNG, so its name must end in .png: {out}")
    cases = read_cases(table)
    for what, wanted, known in (
        ("split", split, {case.split for case in cases}),
        ("label", label, {case.label for case in cases}),
    ):
        if wanted is not None and wanted not in known:
            raise InputError(
                f"{table}: no case has the {what} '{wanted}': {near_names(wanted, known - {''})}"
            )
    given = {file.resolve() for case in cases for file in (case.image, *case.masks)}
    if out.resolve() in given:
        raise InputError(
            f"{out} is a picture of the table and would be replaced: choose another name with -o"
        )
    count = contact_sheet(select(cases, split, label), out, columns=columns, limit=limit)
    typer.echo(f"{out}: {count} cases")


@app.command()
def pack(
    table: _Table,
    size: Annotated[int, typer.Option(help="longest side of the packed pictures in pixels")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the folder to make")],
) -> None:
    """Make a compact copy: smaller pictures, 1-bit masks, and a table that can be moved with them."""
    from segdistill.data.pack import pack_cases
    from segdistill.data.table import read_cases

    with progress_bar("packing") as progress:
        cases = pack_cases(read_cases(table), out, size, progress)
    typer.echo(f"{out}: {len(cases)} cases")


def _split(
    cases: Sequence[Case], method: str, test: float, val: float, folds: int, fold: int, seed: int
) -> list[Case]:
    from segdistill.data.splits import hold_out, k_fold, unstratified
    from segdistill.errors import InputError

    if method == "hold-out":
        if not (test >= 0 and val >= 0 and test + val < 1):
            raise InputError(
                f"--test {test:g} and --val {val:g}: give shares that leave some cases to train on"
            )
        return hold_out(cases, {"train": 1 - test - val, "val": val, "test": test}, seed)
    if method == "k-fold":
        return k_fold(cases, folds, fold, seed, val)
    if method == "paper":
        return unstratified(cases, test, seed)
    return list(cases)


def _report(findings: Sequence[Finding], as_json: bool, cases: int, table: Path | None) -> None:
    counts = {level: sum(item.level == level for item in findings) for level in ("error", "warning", "note")}
    if as_json:
        rows = [
            {"level": item.level, "cases": list(item.cases), "message": item.message} for item in findings
        ]
        _print_json({"table": str(table) if table else None, "cases": cases, **counts, "findings": rows})
        return
    for item in findings:
        typer.echo(f"{item.level}: {item.message}", err=item.level == "error")
    found = f"{_counted(counts['error'], 'error')}, {_counted(counts['warning'], 'warning')}"
    typer.echo(f"{table}: {_counted(cases, 'case')}, {found}")


def _refuse(errors: Sequence[Finding], cases: int) -> NoReturn:
    """The first errors in a line each, then the one line that ends the command."""
    from segdistill.errors import InputError

    for item in errors[:_SHOWN]:
        typer.echo(f"error: {' '.join(item.message.split())}", err=True)
    more = f" (the first {_SHOWN}; --json lists all)" if len(errors) > _SHOWN else ""
    found = f"{_counted(cases, 'case')}, {_counted(len(errors), 'error')}"
    raise InputError(f"nothing written: {found}: repair what is named above{more}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
