"""Writes the tables of docs/reference/: keys of a recipe, commands, and parts, from the code that defines them.

    python docs/site/generate.py

`tests/docs/test_reference.py` fails when a page does not fit the code.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from segdistill.cli.main import app
from segdistill.config.load import SHORTCUTS, bundled_recipes
from segdistill.config.schema import FoldRecipe, RecipeFile
from segdistill.kinds import KINDS
from segdistill.registry import Registry

REFERENCE = Path(__file__).parents[1] / "reference"
NOTE = "<!-- Written by docs/site/generate.py: change the code instead, and run that. -->\n"
GIVEN = {
    "network": ("in_channels", "classes"),
    "dataset": ("path",),
    "metric": ("pair",),
    "report_section": ("context",),
}  # options that segdistill sets
NAMES = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "any value"}


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; empty for no rows."""
    if not rows:
        return ""
    lines = [heads, tuple("---" for _ in heads), *rows]
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells) + "\n"


def value(of: Any) -> str:
    """A value as a recipe has it."""
    if of is None:
        return "none"
    if isinstance(of, bool):
        return str(of).lower()
    if isinstance(of, (list, tuple)):
        return f"[{', '.join(map(value, of))}]"
    if isinstance(of, dict):
        return f"{{{', '.join(f'{key}: {value(each)}' for key, each in of.items())}}}"
    return str(of)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The parts of a recipe that an annotation contains."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in models_in(each)]


def type_text(annotation: Any, place: str) -> str:
    """An annotation in plain words; a part of a recipe is a link to its table."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(arg, place) for arg in args if arg is not type(None))
    if origin is typing.Annotated:
        return type_text(args[0], place)
    if origin is list:
        return f"list of {type_text(args[0], place)}s"
    if origin is dict:
        _key, each = args
        if models_in(each):
            return f"map: [name: keys](#{anchor(f'{place}.NAME')})"
        each = (
            next(arg for arg in (*get_args(each), each) if arg is not type(None)) if get_args(each) else each
        )
        return "map of keys" if each is Any else f"map: name: {type_text(each, place)}"
    if annotation is FoldRecipe:
        return "whole number"
    if models_in(annotation):
        return f"[keys](#{anchor(place)})"
    return NAMES[annotation]


def anchor(place: str) -> str:
    """The name of a heading on the page."""
    return re.sub(r"[^\w\- ]", "", place.lower()).replace(" ", "-")


def limits(field: FieldInfo) -> str:
    """The limits of a number."""
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [
        f"{word} {value(getattr(limit, sign))}"
        for limit in field.metadata
        for sign, word in signs.items()
        if getattr(limit, sign, None) is not None
    ]
    return ", " + ", ".join(found) if found else ""


def default(field: FieldInfo) -> str:
    """The default of a key."""
    if field.default_factory is not None:
        return "none"
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        own = field.default.model_dump(exclude_unset=True)
        return f"`{value(own)}`" if own else "below"
    return "none" if field.default in (None, "", [], {}) else f"`{value(field.default)}`"


def sections(model: type[BaseModel], place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every part of a recipe with its place, from the top."""
    yield place, model
    for name, field in model.model_fields.items():
        for part in models_in(field.annotation):
            if part is not FoldRecipe:
                many = "NAME" if get_origin(_bare(field.annotation)) is dict else ""
                yield from sections(part, ".".join(filter(None, (place, name, many))))


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is typing.Annotated else annotation


def recipe_page() -> str:
    """Keys of a recipe."""
    text = (
        "# Keys of a recipe\n\n"
        f"{NOTE}\n"
        "Unknown keys and wrong types are errors that name the key. How recipes are written and changed: "
        "[write a recipe](../how-to/write-a-recipe.md). A part that is chosen by `name` or `method` takes its options "
        "beside that key; [parts](parts.md) lists them.\n\n"
        "These keys have a short name for `--set` and for `segdistill.run`:\n\n"
    )
    text += table(("Short name", "Key"), [(f"`{short}`", f"`{key}`") for short, key in SHORTCUTS.items()])
    for place, model in sections(RecipeFile, ""):
        text += f"## {place or 'The recipe'}\n\n"
        rows = [
            (
                f"`{name}`",
                type_text(field.annotation, ".".join(filter(None, (place, name)))) + limits(field),
                default(field),
                field.description or "",
            )
            for name, field in model.model_fields.items()
        ]
        text += table(("Key", "Value", "Default", "Meaning"), rows)
        if model.model_config.get("extra") == "allow":
            text += "Further keys are options of the part.\n\n"
    return text.rstrip() + "\n"


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command with its full name; a group comes before its commands."""
    yield name, command
    for each, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {each}")


def cli_page() -> str:
    """The commands."""
    text = (
        "# Commands\n\n"
        f"{NOTE}\n"
        "`segdistill COMMAND --help` prints the same. Every command is a thin shell over a "
        "[function in Python](api/segdistill.md). Exit codes: 0 done, 1 training stopped (NaN or infinity), 2 usage or "
        "input (one line: what is wrong, what to do), 4 some cases failed (listed), 5 a quality gate was not met, "
        "130 interrupted.\n\n"
    )
    for name, command in commands(typer.main.get_command(app), "segdistill"):
        if hasattr(command, "commands"):
            continue
        text += f"## {name}\n\n{inspect.cleandoc(command.help or '')}\n\n"
        rows = []
        for option in command.params:
            if option.name == "help":
                continue
            names = [*option.opts, *option.secondary_opts]
            if option.param_type_name == "argument":
                names = [option.metavar or str(option.name).upper()]
            given = "" if option.default in (None, False, "") else f"`{value(option.default)}`"
            is_switch = option.default is True
            shown = f"`{names[0]}`" if is_switch else given
            rows.append(
                (
                    ", ".join(f"`{each}`" for each in names),
                    "required" if option.required else shown,
                    option.help or "",
                )
            )
        text += table(("Argument or option", "Default", "Meaning"), rows)
    return text.rstrip() + "\n"


def argument_texts(text: str) -> dict[str, str]:
    """Option -> its description in a docstring."""
    found = re.search(r"^Args:\n((?: +.*\n?|\n(?= ))+)", text + "\n", re.MULTILINE)
    entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8,}.*)*)", found[1] if found else "", re.MULTILINE)
    return {name.strip(): " ".join(line.split()) for names, line in entries for name in names.split(",")}


def part_row(kind: str, registry: Registry[Any], name: str) -> tuple[str, ...]:
    """Name, summary and options of a part."""
    part = registry.describe(name)
    texts = argument_texts(part["text"])
    options = []
    for option, facts in part["options"].items():
        if option in GIVEN.get(kind, ()) or option in part["facts"].get("fixed", {}):
            continue
        given = f" = {value(facts['default'])}" if "default" in facts else ""
        about = f": {texts[option]}" if option in texts else ""
        options.append(f"`{option}{given}`{about}")
    extra = []
    if "higher_is_better" in part["facts"]:
        extra.append("higher" if part["facts"]["higher_is_better"] else "lower")
    label, summary = part["facts"].get("label", ""), part["summary"]
    if label.lower() not in summary.lower():
        summary = f"{label}: {summary}"
    return (f"`{name}`", summary, *extra, "<br>".join(options))


def parts_page() -> str:
    """The registered parts of every kind."""
    text = (
        "# Parts\n\n"
        f"{NOTE}\n"
        "`segdistill list KIND` prints the names of a kind. `segdistill list KIND NAME` prints all about one part, and "
        "about one of your own ([write a plugin](../how-to/write-a-plugin.md)). In a recipe a part is "
        "`{name: NAME, option: value}`; an entry of `methods:` is `NAME: {option: value}`. All networks take "
        "`in_channels` and `classes`, which a stage sets.\n\n"
    )
    for kind in KINDS.values():
        registry = kind.registry()
        title = kind.plural.replace("_", " ").capitalize()
        text += f"## {title}\n\n`segdistill list {kind.plural}`\n\n"
        heads = ("Name", "What it is", *(["Better"] if kind.name == "metric" else []), "Options")
        text += table(heads, [part_row(kind.name, registry, name) for name in registry])
    text += "## Recipes\n\n`segdistill list recipes`\n\n"
    text += table(("Name", "What it is"), [(f"`{name}`", about) for name, about in bundled_recipes().items()])
    return text.rstrip() + "\n"


def pages() -> dict[str, str]:
    """File in docs/reference/ -> what it should hold."""
    return {"recipe.md": recipe_page(), "cli.md": cli_page(), "parts.md": parts_page()}


if __name__ == "__main__":
    for file, content in pages().items():
        (REFERENCE / file).write_text(content, encoding="utf-8")
        print(f"docs/reference/{file}")
