"""What the plain-dict registries share: build by name, and errors that list what would have been right."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from segdistill.errors import InputError
from segdistill.options import fit_option, option_types

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names, at most three, that `name` is probably a misspelling of.

    >>> nearest("lable", ["label", "split"])
    ['label']
    """
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.7)


def near_names(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known names, or all of them.

    >>> near_names("unett", ["unet", "enet", "segnet"])
    "did you mean 'unet'?"
    >>> near_names("x", ["dice", "iou"])
    'known: dice, iou'
    """
    known = list(known)
    near = nearest(name, known)
    if near:
        return "did you mean " + ", ".join(f"'{n}'" for n in near) + "?"
    return "known: " + (", ".join(sorted(known)) or "none")


def build(kind: str, registry: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, Any]) -> T:
    """Calls `registry[name](**options)`.

    Raises:
        InputError: `name` is not registered, or an option is not one of the builder's parameters, or of another type.

    >>> build("number", {"float": float}, "flaot", {})
    Traceback (most recent call last):
    segdistill.errors.InputError: unknown number 'flaot': did you mean 'float'?
    """
    if name not in registry:
        raise InputError(f"unknown {kind} '{name}': {near_names(name, registry)}")
    known, given = option_types(registry[name]), {}
    for option, value in options.items():
        if option not in known:
            raise InputError(
                f"{kind} '{name}' has no option '{option}' (options: {', '.join(known) or 'none'})"
            )
        given[option] = fit_option(f"{kind} '{name}': {option}", value, known[option])
    try:
        return registry[name](**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{kind} '{name}': {error}") from error
