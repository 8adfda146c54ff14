"""Options of a knowledge or a weighing, refused before anything is built from them where their type is another one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from segdistill.errors import InputError

_ANYTHING = ConfigDict(arbitrary_types_allowed=True)  # networks are options, too


def require_types(kind: str, name: str, builder: Callable[..., object], options: Mapping[str, Any]) -> None:
    """Refuses an option whose value has not the type that the builder declares; whole numbers are numbers, too.

    Args:
        kind: "knowledge" or "weighing", for the message.
        name: under which it is registered.
        builder: a class, or a function.
        options: unknown ones, and words that are none of those that the builder lists, are left for it to refuse.

    Raises:
        InputError: names the option.

    >>> def made(temperature: float, grid: int = 4) -> None: ...
    >>> require_types("knowledge", "mine", made, {"temperature": 4})
    >>> require_types("knowledge", "mine", made, {"grid": 2.5})
    Traceback (most recent call last):
    segdistill.errors.InputError: knowledge 'mine': grid: Input should be a valid integer, not 2.5
    """
    parameters = inspect.signature(builder, eval_str=True).parameters
    for option, value in options.items():
        if option not in parameters:
            continue
        try:
            TypeAdapter(parameters[option].annotation, config=_ANYTHING).validate_python(value, strict=True)
        except ValidationError as error:
            if error.errors()[0]["type"] == "literal_error":
                continue  # the builder says it with its own words
            raise InputError(f"{kind} '{name}': {option}: {error.errors()[0]['msg']}, not {value}") from error
