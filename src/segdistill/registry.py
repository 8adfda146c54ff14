"""What the plain-dict registries share: build by name, and errors that list what would have been right."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from segdistill.errors import InputError

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
        InputError: `name` is not registered, or an option is not one of the builder's parameters.

    >>> build("number", {"float": float}, "flaot", {})
    Traceback (most recent call last):
    segdistill.errors.InputError: unknown number 'flaot': did you mean 'float'?
    """
    if name not in registry:
        raise InputError(f"unknown {kind} '{name}': {near_names(name, registry)}")
    parameters = inspect.signature(registry[name]).parameters
    for option in options:
        if option not in parameters:
            known = ", ".join(parameters) or "none"
            raise InputError(f"{kind} '{name}' has no option '{option}' (options: {known})")
    try:
        return registry[name](**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"{kind} '{name}': {error}") from error
