"""segdistill list KIND [NAME]: the names that recipes and commands take, and what is known of one of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from segdistill.cli.shared import AsJson, Plugins, print_json
from segdistill.kinds import KINDS, find_kind

RECIPES = "recipes"
LISTS = (*(kind.plural for kind in KINDS.values()), RECIPES)


def listing(
    kind: Annotated[str, typer.Argument(help=", ".join(LISTS), metavar="KIND")],
    name: Annotated[
        str | None, typer.Argument(help="one of them: its options, defaults, types and source")
    ] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """List networks, losses, datasets, recipes and other parts."""
    from segdistill.plugins import load_plugins

    load_plugins(plugins or [])
    if name is not None:
        part = _recipe(name) if kind == RECIPES else find_kind(kind, (RECIPES,)).registry().describe(name)
        print_json(part) if as_json else _print_part(part)
        return
    found = _summaries(kind)
    if as_json:
        print_json(found)
        return
    width = max(map(len, found), default=0) + 2
    for each, summary in found.items():
        print(f"{each:{width}}{' '.join(summary.split())}")


def _summaries(kind: str) -> dict[str, str]:
    if kind == RECIPES:
        from segdistill.config.load import bundled_recipes

        return bundled_recipes()
    return {name: part.summary for name, part in find_kind(kind, (RECIPES,)).registry().items()}


def _recipe(name: str) -> dict[str, Any]:
    from segdistill.config.load import bundled_recipes, recipe_file

    path = recipe_file(name)
    text = path.read_text(encoding="utf-8")
    return {
        "kind": "recipe",
        "name": name,
        "summary": bundled_recipes()[name],
        "source": str(path),
        "text": text,
    }


def _print_part(part: dict[str, Any]) -> None:
    print(f"{part['name']}: {' '.join(part['summary'].split())}")
    print(f"source: {part['source']}")
    for fact, value in part.get("facts", {}).items():
        if value not in ("", None, {}, []):
            print(f"{fact}: {' '.join(str(value).split())}")
    rows = [
        (name, option["type"], f"default {option['default']!r}" if "default" in option else "required")
        for name, option in part.get("options", {}).items()
    ]
    if rows:
        print("options:")
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:2]]
    for name, kind, default in rows:
        print(f"  {name:{widths[0]}}  {kind:{widths[1]}}  {default}")
    print(f"\n{part['text']}" if part["text"] else "")
