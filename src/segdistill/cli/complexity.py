"""`segdistill complexity`: what a network costs, beside what the papers print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segdistill.cli.progress import needs
from segdistill.errors import InputError

if TYPE_CHECKING:
    from segdistill.papers.costs import PublishedCost

DEFAULT_INPUT = "3x512x512"


def complexity(
    name: Annotated[str, typer.Argument(help="A network's name, or 'all'.")],
    input: Annotated[str, typer.Option(help="Channels x height x width of one image.")] = DEFAULT_INPUT,
    classes: Annotated[int, typer.Option(help="Channels of the logits.")] = 2,
    preset: Annotated[str | None, typer.Option(help="Preset, where the name means several networks.")] = None,
    mode: Annotated[
        str, typer.Option(help="Counting rule: mac, torchstat, torchstat_sync, ptflops2 or thop.")
    ] = "mac",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report a network's parameters, multiply-accumulates and size, beside the published figures."""
    with needs("counting", "train"):
        import torch  # noqa: F401 - the networks are built
    from segdistill.models.registry import NETWORKS

    image = parse_input(input)
    if name not in NETWORKS and Path(name).exists():
        raise InputError(
            f"{name} is a file or folder: give the name of a network (segdistill list networks); what a trained network "
            "costs stands in the report of its run, or of segdistill evaluate -o"
        )
    if name == "all":
        if preset is not None:
            raise InputError("--preset belongs to one network: give its name instead of 'all'")
        found = [measure(each, _shape_for(each, image), classes, mode=mode) for each in NETWORKS]
        print(json.dumps(found, indent=2) if as_json else _table(found))
    else:
        one = measure(name, image, classes, preset=preset, mode=mode)
        print(json.dumps(one, indent=2) if as_json else _table([one]))


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


def measure(
    name: str, image: tuple[int, int, int], classes: int, *, preset: str | None = None, mode: str = "mac"
) -> dict[str, Any]:
    """One network's cost as JSON types, and its published rows, each counted at the row's own setting.

    >>> measure("simplified_unet", (3, 512, 512), 2)["parameters"]
    2162146
    """
    from segdistill.models.complexity import complexity as count
    from segdistill.papers.costs import rows

    cost = count(name, image, mode, classes=classes, preset=preset)
    return {
        "name": name,
        "preset": preset,
        "input": list(image),
        "classes": classes,
        "mode": cost.mode,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "size_mb": round(cost.size_mb, 3),
        "unused_parameters": cost.unused,
        "published": [_compare(row) for row in rows(name) if preset in (None, row.preset)],
    }


def _compare(row: PublishedCost) -> dict[str, Any]:
    from segdistill.models.complexity import complexity as count
    from segdistill.papers.costs import difference

    image = (row.channels, row.size, row.size)
    settings = {"classes": row.classes, "preset": row.preset, **row.options}
    plain = count(row.name, image, **settings)
    own = plain if row.mode == "mac" else count(row.name, image, row.mode, **settings)
    printed_parameters = None if row.printed_parameters is None else row.printed_parameters * 1e6
    printed_cost = None if row.printed_cost is None else row.printed_cost * 1e9
    return {
        "paper": row.paper,
        "preset": row.preset,
        "options": dict(row.options),
        "input": list(image),
        "classes": row.classes,
        "parameters": plain.parameters,
        "published_parameters": printed_parameters,
        "parameters_difference": difference(plain.parameters, printed_parameters),
        "macs": plain.macs,
        "mode": row.mode,
        "cost": own.macs,
        "published_cost": printed_cost,
        "cost_difference": difference(own.macs, printed_cost),
        "size_mb": round(plain.size_mb, 3),
        "published_size_mb": row.printed_mb,
        "size_difference": difference(plain.size_mb, row.printed_mb),
        "note": row.note,
    }


def _shape_for(name: str, image: tuple[int, int, int]) -> tuple[int, int, int]:
    """The image's shape, but one channel for a discriminator: it sees probability maps."""
    from segdistill.models.registry import network_facts

    return (1, *image[1:]) if network_facts(name).kind == "discriminator" else image


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
