"""segdistill data: index, check, show, pack, plan and audit case tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from segdistill.cli.shared import AsJson, Plugins, add_command, print_json, progress_bar
from segdistill.files import real_path, shown

if TYPE_CHECKING:
    from segdistill.data.case import Case
    from segdistill.data.check import Finding

HELP = "Turn images into case tables, check them, draw them."
app = typer.Typer(help=HELP, no_args_is_help=True)

Table = Annotated[Path, typer.Argument(help="the case table, cases.csv")]
Unlabelled = Annotated[bool, typer.Option(help="allow cases without masks")]
SPLITS = ("none", "hold-out", "k-fold", "paper")
SHOWN = 5
"""Errors that an index prints before it stops; --json has them all."""


def index(
    dataset: Annotated[
        str,
        typer.Argument(
            help="a dataset or format, see 'segdistill list datasets'; 'folder' for your own images; 'auto' finds it"
        ),
    ],
    path: Annotated[Path, typer.Argument(help="the dataset's folder")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the case table to write")] = Path("cases.csv"),
    split: Annotated[
        str,
        typer.Option(
            "--split",
            "--method",
            help=f"split to write: {', '.join(SPLITS)} (LightBTSeg's, which divides groups)",
        ),
    ] = "none",
    test: Annotated[float, typer.Option(help="share of test cases")] = 0.15,
    val: Annotated[float, typer.Option(help="share of validation cases")] = 0.15,
    folds: Annotated[int, typer.Option(help="number of folds of k-fold")] = 5,
    fold: Annotated[int, typer.Option(help="the fold to test, from 1")] = 1,
    seed: Annotated[int, typer.Option(help="another seed gives another split")] = 0,
    group: Annotated[bool, typer.Option(help="put copies of one picture into one group")] = True,
    unlabelled: Unlabelled = False,
    foreground: Annotated[
        str, typer.Option(help="values of the mask files that are foreground, such as 1,255")
    ] = "",
    background: Annotated[
        str, typer.Option(help="values of the mask files that are background, such as 0")
    ] = "",
    classes: Annotated[
        str, typer.Option(help="classes in the mask files and their values, such as 'head=1;body=2'")
    ] = "",
    labels: Annotated[
        str, typer.Option(help="of own images: auto, none, or folders: the outermost folders are labels")
    ] = "auto",
    groups: Annotated[
        str, typer.Option(help="of own images: auto, none, or folders: the innermost folders are patients")
    ] = "auto",
    masks: Annotated[
        str,
        typer.Option(
            help="of polygons and run lengths: the folder to draw masks into; by default TABLE_masks"
        ),
    ] = "",
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Turn a dataset into a case table.

    Every file is checked first; with errors nothing is written (exit code 2).
    """
    from segdistill.data.check import LEVELS, Finding, run_check
    from segdistill.data.duplicates import group_duplicates, keep_apart
    from segdistill.data.index import index_folder
    from segdistill.data.leaks import leaks, leaks_line
    from segdistill.data.table import write_cases
    from segdistill.errors import InputError
    from segdistill.imaging.classes import mask_values, parse_classes
    from segdistill.plugins import load_plugins

    load_plugins(plugins or [])
    if split not in SPLITS:
        raise InputError(f"unknown split '{split}': use {', '.join(SPLITS)}")
    _require_split(split, test, val, folds, fold)
    if out.suffix.lower() != ".csv":  # a slip of the keyboard must not replace a picture
        raise InputError(f"the case table is a CSV, so its name must end in .csv: {out}")
    options = {key: value for key, value in (("labels", labels), ("groups", groups)) if value != "auto"}
    if masks:
        options["masks"] = masks
    found = index_folder(
        dataset,
        path,
        mask_values(foreground),
        mask_values(background),
        parse_classes(classes),
        drawn=out.with_name(f"{out.stem}_masks"),
        **options,
    )
    cases = found.cases
    with progress_bar("checking") as progress:
        result = run_check(cases, progress, require_reference=not unlabelled)
    if result.errors:
        _refuse([*result.findings, *found.findings], len(cases), as_json, found.unused)
    cases = group_duplicates(cases, result.pairs) if group else keep_apart(cases, result.pairs)
    cases, findings = _split(cases, split, test, val, folds, fold, seed)
    if split == "paper" and (found_leaks := leaks(cases, result.pairs)):
        findings.append(Finding("warning", (), f"{leaks_line(found_leaks)}: use hold-out or k-fold"))
    former = out.read_bytes() if out.is_file() else None
    write_cases(cases, out)
    _keep(former, out)
    findings += found.findings
    findings += [item for item in result.findings if not (group and item.is_grouping)]
    _report(
        sorted(findings, key=lambda item: LEVELS.index(item.level)), as_json, len(cases), out, found.unused
    )


def _keep(former: bytes | None, table: Path) -> None:
    """Keeps another table that was there before: it may hold labels or splits that were written by hand."""
    from segdistill.files import atomic_write

    if former is None or former == table.read_bytes():
        return
    kept = table.with_name(f"{table.name}.bak")
    with atomic_write(kept) as temporary:
        temporary.write_bytes(former)
    typer.echo(f"{shown(table)} held another table before, which is kept as {shown(kept)}", err=True)


def check(table: Table, unlabelled: Unlabelled = False, as_json: AsJson = False) -> None:
    """Check every file of a case table; exit code 2 if there are errors."""
    from segdistill.data.check import run_check
    from segdistill.data.table import read_cases

    cases = read_cases(table)
    with progress_bar("checking") as progress:
        result = run_check(cases, progress, require_reference=not unlabelled)
    _report(result.findings, as_json, len(cases), table)
    if result.errors:
        raise typer.Exit(2)


def show(
    table: Table,
    out: Annotated[Path, typer.Option("-o", "--out", help="the PNG to write")] = Path("sheet.png"),
    split: Annotated[str | None, typer.Option(help="only this split")] = None,
    label: Annotated[str | None, typer.Option(help="only this label")] = None,
    columns: Annotated[int, typer.Option(help="pictures in a row")] = 8,
    limit: Annotated[int, typer.Option(help="largest number of pictures")] = 64,
) -> None:
    """Draw a contact sheet with the contours of the masks."""
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
    given = {real_path(file) for case in cases for file in case.files}
    if real_path(out) in given:
        raise InputError(
            f"{out} is a picture of the table and would be replaced: choose another name with -o"
        )
    count = contact_sheet(select(cases, split, label), out, columns=columns, limit=limit)
    typer.echo(f"{shown(out)}: {count} cases")


def pack(
    table: Table,
    size: Annotated[int, typer.Option(help="longest side of the packed pictures in pixels")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the folder to make")],
) -> None:
    """Copy a case table with smaller pictures and 1-bit masks."""
    from segdistill.data.pack import pack_cases
    from segdistill.data.table import read_cases

    with progress_bar("packing") as progress:
        packed = pack_cases(read_cases(table), out, size, progress)
    if packed.note:
        typer.echo(f"warning: {packed.note}", err=True)
    typer.echo(f"{shown(out)}: {len(packed.cases)} cases")


def export(
    name: Annotated[
        str,
        typer.Argument(
            help="nnunet, msd, seg_nrrd, dicom_seg, rtstruct, coco, cvat, yolo_seg, labelme, index (grey) or palette",
            metavar="FORMAT",
        ),
    ],
    table: Table,
    out: Annotated[Path, typer.Option("-o", "--out", help="the folder to make")],
    holes: Annotated[
        str, typer.Option(help="what YOLO's polygons cannot hold: refuse, or split: cut into parts")
    ] = "refuse",
) -> None:
    """Write a case table in the format of another tool, with its images."""
    from segdistill.data.formats import export_cases
    from segdistill.data.table import read_cases
    from segdistill.errors import InputError

    if holes not in ("refuse", "split"):
        raise InputError(f"--holes {holes}: use refuse or split")
    cases = read_cases(table)
    for note in export_cases(name, cases, out, split_holes=holes == "split"):
        typer.echo(f"note: {note}")
    typer.echo(f"{shown(out)}: {_counted(len(cases), 'case')} as {name}")


def plan(
    place: Annotated[Path, typer.Argument(help="a case table, or the folder of a dataset")],
    dataset: Annotated[
        str, typer.Option(help="of a folder, see 'segdistill list datasets'; 'auto' finds it")
    ] = "auto",
    budget: Annotated[int, typer.Option(help="most voxels of a patch")] = 64**3,
    as_json: AsJson = False,
) -> None:
    """Show what a network of volumes would see: spacing and patch, from some volumes of the data.

    `dimensions: 3` in a recipe takes these, where it states none.
    """
    from dataclasses import asdict

    from segdistill.data.datasets import DATASETS, create_dataset
    from segdistill.data.index import detect_format
    from segdistill.data.plan import plan_volumes
    from segdistill.data.table import read_cases
    from segdistill.errors import InputError
    from segdistill.imaging.intensity import preset_of_channel

    if budget < 8**3:
        raise InputError(f"--budget {budget}: a patch has at least 8 x 8 x 8 voxels: give 512 or more")
    if place.is_dir():
        name = detect_format(place) if dataset == "auto" else dataset
        # polygons are on pictures, and their masks would be drawn
        is_drawn = "masks" in DATASETS.find(name).options
        cases = [] if is_drawn else create_dataset(name, place)
    else:
        cases = read_cases(place)
    found = plan_volumes(cases, budget=budget, masks=True)
    if as_json:
        print_json(asdict(found))
        return
    shape, patch = (" x ".join(map(str, sides)) for sides in (found.shape, found.patch))
    spacing = "not known: voxels stay as they are"
    if found.spacing is not None:
        spacing = f"{' x '.join(f'{mm:g}' for mm in found.spacing)} mm (median)"
    typer.echo(f"{found.volumes} volumes looked at; slice, row, column:")
    typer.echo(f"spacing  {spacing}")
    typer.echo(f"shape    {shape} voxels (median, at this spacing)")
    typer.echo(f"patch    {patch} voxels (at most {budget})")
    of_what = f"of the structures in {found.labelled} volumes" if found.labelled else "of all voxels, median"
    for name, (low, high) in (found.channels or {"": found.levels}).items():
        of = f", channel {name}: {preset_of_channel(name)}" if name else ""
        typer.echo(f"values   {low:g} to {high:g} (percentiles 0.5 and 99.5 {of_what}{of})")


def audit(
    run: Annotated[Path, typer.Argument(help="the folder of a run, best of a cross-validated one")],
    stage: Annotated[
        str | None,
        typer.Option(help="whose networks; by default all stages with out_of_fold, else the exported one"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="the folder to write; by default RUN/audit")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="a case table with other masks of the same cases, such as corrected ones"),
    ] = None,
    top: Annotated[int, typer.Option(help="masks that are printed, and drawn on the contact sheet")] = 50,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """List the masks that disagree most with networks that did not train on them.

    Look at each: a hard image may stand there, too. audit.csv lists all masks, sheet.png draws the first ones: masks in
    yellow, predictions in blue.
    """
    from segdistill.data.contact_sheet import contact_sheet
    from segdistill.errors import InputError, needs

    with needs("data audit", "train"):
        from segdistill.experiment.audit import audit as audit_masks

    if top < 1:
        raise InputError(f"--top must be at least 1, not {top}")
    with progress_bar("predicting") as progress:
        found = audit_masks(run, stage, table=table, plugins=plugins or (), progress=progress)
    folder = run / "audit" if out is None else out
    first = found.findings[:top]
    captions = [f"{rank} {row.case.id}: {row.looks_like}" for rank, row in enumerate(first, 1)]
    found.write_table(folder / "audit.csv")
    contact_sheet(
        [row.case for row in first],
        folder / "sheet.png",
        limit=top,
        captions=captions,
        predicted=found.predicted,
    )
    if as_json:
        print_json(found.to_dict(top) | {"table": folder / "audit.csv", "sheet": folder / "sheet.png"})
        return
    for rank, row in enumerate(first, 1):
        typer.echo(shown(f"{rank:4}  {row.score:.3f}  {row.case.id}: {row.looks_like}"))
    for note in found.notes:
        typer.echo(shown(note))
    if found.unseen:
        typer.echo(
            f"{_counted(found.unseen, 'mask')} not audited: every network trained on them; cross-validate for all: "
            "run the recipe with --set folds=5"
        )
    typer.echo(f"{shown(folder / 'audit.csv')}: {_counted(len(found.findings), 'mask')}")
    typer.echo(f"{shown(folder / 'sheet.png')}: the first {len(first)}")


for each in (index, check, show, pack, export, plan, audit):
    add_command(app, each)


def _require_split(method: str, test: float, val: float, folds: int, fold: int) -> None:
    """Before any file is read."""
    from segdistill.data.splits import require_folds
    from segdistill.errors import InputError

    if method == "hold-out" and not (test >= 0 and val >= 0 and test + val < 1):
        raise InputError(f"--test {test:g} and --val {val:g}: give shares that leave some cases to train on")
    if method == "k-fold":
        require_folds(folds, fold, val)


def _split(
    cases: Sequence[Case], method: str, test: float, val: float, folds: int, fold: int, seed: int
) -> tuple[list[Case], list[Finding]]:
    """The cases with their splits, and warnings about these."""
    from segdistill.data.case import empty_references
    from segdistill.data.check import Finding
    from segdistill.data.splits import hold_out, k_fold, unstratified, without_foreground

    if method == "none":
        return list(cases), []
    empty = empty_references(cases)
    if method == "hold-out":
        shares = {"train": 1 - test - val, "val": val, "test": test}
        divided = hold_out(cases, shares, seed, empty=empty)
    elif method == "k-fold":
        divided = k_fold(cases, folds, fold, seed, val, empty=empty)
    else:
        divided = unstratified(cases, test, seed)
    return divided, [Finding("warning", (), line) for line in without_foreground(divided, empty)]


def _report(
    findings: Sequence[Finding],
    as_json: bool,
    cases: int,
    table: Path | None,
    unused: Mapping[str, list[Path]] | None = None,
) -> None:
    counts = {level: sum(item.level == level for item in findings) for level in ("error", "warning", "note")}
    if as_json:
        rows = [
            {"level": item.level, "cases": list(item.cases), "message": item.message} for item in findings
        ]
        print_json(
            {"table": table, "cases": cases, **counts, "findings": rows}
            | ({} if unused is None else {"unused": unused})
        )
        return
    for item in findings:
        typer.echo(f"{item.level}: {shown(item.message)}", err=item.level == "error")
    found = f"{_counted(counts['error'], 'error')}, {_counted(counts['warning'], 'warning')}"
    typer.echo(f"{table}: {_counted(cases, 'case')}, {found}")


def _refuse(
    findings: Sequence[Finding], cases: int, as_json: bool, unused: Mapping[str, list[Path]]
) -> NoReturn:
    """Ends the command after the first errors, a line each."""
    from segdistill.errors import InputError

    if as_json:
        _report(findings, as_json, cases, None, unused)
        raise typer.Exit(2)
    errors = [item for item in findings if item.level == "error"]
    for item in errors[:SHOWN]:
        typer.echo(f"error: {shown(' '.join(item.message.split()))}", err=True)
    more = f" (the first {SHOWN}; --json lists all)" if len(errors) > SHOWN else ""
    found = f"{_counted(cases, 'case')}, {_counted(len(errors), 'error')}"
    raise InputError(f"nothing written: {found}: repair the files named above{more}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
