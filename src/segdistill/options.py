"""Options as a recipe gives them, checked against what a builder declares before anything is built from them."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from segdistill.errors import InputError


def option_types(builder: Callable[..., object]) -> dict[str, Any]:
    """Name -> annotation of what a class or function takes.

    >>> def made(width: int, *rest: str) -> None: ...
    >>> option_types(made)
    {'width': <class 'int'>}
    """
    parameters = inspect.signature(builder, eval_str=True).parameters.values()
    return {
        each.name: each.annotation
        for each in parameters
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }


def fit_option(what: str, value: Any, hint: Any) -> Any:
    """A value as the annotation wants it: a list becomes a tuple and a whole number a float where those are asked for.

    Args:
        what: how messages call the option.
        value: from YAML, or any object.
        hint: the annotation.

    Raises:
        InputError: the value is of another type, or not one of the words that can be chosen.

    >>> fit_option("widths", [4, 8], tuple[int, ...])
    (4, 8)
    >>> fit_option("grid", 2.5, int)
    Traceback (most recent call last):
    segdistill.errors.InputError: grid is 2.5: it must be int
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        raise InputError(f"{what} is {value!r}: choose from {', '.join(map(str, args))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        if args[-1] is Ellipsis:
            return tuple(fit_option(what, item, args[0]) for item in value)
        if len(args) == len(value):
            return tuple(fit_option(what, item, arg) for item, arg in zip(value, args, strict=True))
    elif origin is Sequence and isinstance(value, (list, tuple)):
        return [fit_option(what, item, args[0]) for item in value]
    elif origin in (typing.Union, types.UnionType):
        for arg in args:
            try:
                return fit_option(what, value, arg)
            except InputError:
                continue
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {
            fit_option(what, key, args[0]): fit_option(what, item, args[1]) for key, item in value.items()
        }
    elif hint is Any:
        return value
    elif hint is float and type(value) is int:
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{what} is {value!r}: it must be {_spell(hint)}")


def _spell(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, Sequence):
        count = "" if origin is Sequence or args[-1] is Ellipsis else f"{len(args)} "
        return f"a list of {count}{_spell(args[0])}"
    if origin in (dict, Mapping):
        return "a mapping"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(arg) for arg in args)
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))
