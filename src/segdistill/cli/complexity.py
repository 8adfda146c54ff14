"""segdistill complexity: what a network costs, beside what the papers print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from segdistill.cli.shared import AsJson, Plugins, print_json
from segdistill.errors import InputError, needs

DEFAULT_INPUT = "3x512x512"


def complexity(
    name: Annotated[str, typer.Argument(help="a network (segdistill list networks), or all")],
    size: Annotated[
        str, typer.Option("--input", help="channels x height x width of one image")
    ] = DEFAULT_INPUT,
    classes: Annotated[int, typer.Option(help="channels of the logits")] = 2,
    preset: Annotated[str | None, typer.Option(help="preset, where the name means several networks")] = None,
    mode: Annotated[
        str, typer.Option(help="counting rule: mac, torchstat, torchstat_sync, ptflops2 or thop")
    ] = "mac",
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Count a network's parameters and multiply-accumulates.

    Published figures stand beside ours, each counted by the paper's own rule.
    """
    from segdistill.plugins import load_plugins, require_named

    with needs("counting", "train"):
        from segdistill.models.registry import NETWORKS, network_facts
        from segdistill.papers.costs import measure_cost
    load_plugins(plugins or [])
    image = parse_input(size)
    if name not in NETWORKS and Path(name).exists():
        raise InputError(
            f"{name} is a file or folder: give the name of a network (segdistill list networks); the cost of a "
            "trained network stands in the report of its run, or of segdistill evaluate -o"
        )
    if name == "all" and preset is not None:
        raise InputError("--preset belongs to one network: give its name instead of 'all'")
    if ":" in name:
        require_named(name, "the command line")
    chosen = (
        [each for each in NETWORKS if network_facts(each).kind != "external"] if name == "all" else [name]
    )
    found = [measure_cost(each, image, classes, preset=preset, mode=mode) for each in chosen]
    if as_json:
        print_json(found if name == "all" else found[0])
    else:
        print(_table(found))


def parse_input(text: str) -> tuple[int, int, int]:
    """Three numbers out of a text like 3x512x512.

    Raises:
        InputError: another form.

    >>> parse_input("3x512x384")
    (3, 512, 384)
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})x([1-9]\d{0,4})", text.strip().lower())
    if not match:
        raise InputError(f"--input {text!r} is not CHANNELSxHEIGHTxWIDTH: write it like {DEFAULT_INPUT}")
    channels, height, width = map(int, match.groups())
    return channels, height, width


HEAD = (
    "network",
    "preset",
    "input",
    "classes",
    "parameters",
    "MB",
    "rule",
    "G",
    "paper",
    "printed",
    "difference",
)


def _table(found: list[dict[str, Any]]) -> str:
    lines: list[tuple[str, ...]] = [HEAD]
    notes: list[str] = []
    for one in found:
        lines.append((*_cells(one["name"], one, one["mode"], one["macs"]), "", "", ""))
        for row in one["published"]:
            printed, off = "", ""
            if row["published_cost"] is not None:
                printed = f"{row['published_parameters'] / 1e6:g} M {row['published_cost'] / 1e9:g} G"
                off = f"{row['parameters_difference']:+.2%} {row['cost_difference']:+.2%}"
            lines.append((*_cells("", row, row["mode"], row["cost"]), row["paper"], printed, off))
            if row["note"]:
                notes.append(f"{one['name']} ({row['paper']}): {row['note']}")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return "\n".join([*table, *dict.fromkeys(notes)])


def _cells(name: str, row: dict[str, Any], rule: str, cost: int) -> tuple[str, ...]:
    options = ", ".join(f"{key}={value}" for key, value in row.get("options", {}).items())
    return (
        name,
        row["preset"] or options or "-",
        "x".join(map(str, row["input"])),
        str(row["classes"]),
        f"{row['parameters']:,}",
        f"{row['size_mb']:.1f}",
        rule,
        f"{cost / 1e9:.3f}",
    )
