"""segdistill list KIND: the names that recipes and commands take."""

from __future__ import annotations

from typing import Annotated

import typer

KINDS = ("models", "losses", "methods", "datasets", "recipes")


def listing(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS))],
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """List models, losses, method, datasets or recipes."""
    found = _names(kind)
    if as_json:
        import json

        print(json.dumps(found, indent=2))
        return
    width = max(len(name) for name in found) + 2
    for name, about in found.items():
        print(f"{name:{width}}{about}")


def _names(kind: str) -> dict[str, str]:
    from segdistill.errors import InputError

    if kind == "models":
        from segdistill.models.registry import MODELS

        return {name: entry.summary for name, entry in MODELS.items()}
    if kind == "datasets":
        from segdistill.data.datasets import DATASETS

        return {name: dataset.title for name, dataset in DATASETS.items()}
    if kind == "recipes":
        from segdistill.config.load import bundled_recipes

        return bundled_recipes()
    if kind in ("losses", "methods"):
        from segdistill.cli.progress import needs

        with needs(f"listing {kind}", "train"):
            from segdistill.distillation import METHODS
            from segdistill.losses import LOSSES
        registry = LOSSES if kind == "losses" else METHODS
        return {name: part.summary for name, part in registry.items()}
    raise InputError(f"unknown kind '{kind}': one of {', '.join(KINDS)}")
