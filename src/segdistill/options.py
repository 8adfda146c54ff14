"""Options as a recipe gives them, checked against the parameters of a class or function before it is called."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from segdistill.errors import InputError


def options_of(builder: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Name -> parameter (annotation, default) of what a class or function takes; `Any` where it has no annotation.

    >>> def make(width: int = 3, *rest: str) -> None: ...
    >>> {name: each.annotation for name, each in options_of(make).items()}
    {'width': <class 'int'>}
    """
    parameters = inspect.signature(builder, eval_str=True).parameters.values()
    named = (each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
    return {
        each.name: each.replace(annotation=Any) if each.annotation is each.empty else each for each in named
    }


def fit_option(what: str, value: Any, hint: Any) -> Any:
    """A value as the annotation wants it: a list becomes a tuple and a whole number a float where needed.

    Args:
        what: how messages call the option.
        value: from YAML, or any object.
        hint: the annotation.

    Raises:
        InputError: the value is of another type, or not one of the choices.

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
    if origin in (tuple, Sequence) and isinstance(value, (list, tuple)):
        hints = args if origin is tuple and args[-1] is not Ellipsis else args[:1] * len(value)
        if len(hints) == len(value):
            fitted = [fit_option(what, item, each) for item, each in zip(value, hints, strict=True)]
            return tuple(fitted) if origin is tuple else fitted
    elif origin in (typing.Union, types.UnionType):
        for each in args:
            with suppress(InputError):
                return fit_option(what, value, each)
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        key_hint, hint = args
        return {fit_option(what, key, key_hint): fit_option(what, value[key], hint) for key in value}
    elif _is_a(value, hint):
        return float(value) if hint is float else value
    raise InputError(f"{what} is {value!r}: it must be {type_name(hint)}")


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value is of a plain type; a whole number is a float, a bool or NaN is no number."""
    if hint is Any:
        return True
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and not math.isnan(value)
    return isinstance(hint, type) and isinstance(value, hint)


def type_name(hint: Any) -> str:
    """An annotation in the words of a recipe.

    >>> type_name(tuple[int, ...]), type_name(float | None), type_name(Literal["a", 2])
    ('a list of int', 'float or none', 'a or 2')
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, Sequence):
        count = "" if origin is Sequence or args[-1] is Ellipsis else f"{len(args)} "
        return f"a list of {count}{type_name(args[0])}"
    if origin in (dict, Mapping):
        return "a mapping"
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(arg) for arg in args)
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))
