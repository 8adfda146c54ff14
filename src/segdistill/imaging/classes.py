"""Classes: the structures that a mask may hold, and which values of a mask file mean which of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.files import require_text, shown

Value = int | str
"""A value of a mask file: a grey level, the index of a palette, a colour "#rrggbb", or "transparent"."""

TRANSPARENT = "transparent"
BACKGROUND = "background"
MOST = 254
"""Classes besides the background: an index mask has 8 bits."""
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FORBIDDEN = ";=,:/\\\"'\n\r\t"
_FEW = 6


def mask_values(given: object) -> tuple[Value, ...]:
    """The values of a mask that a user names: a number, a colour, a text with several of them, or a list.

    Raises:
        InputError: a value is neither a whole number from 0 nor a colour.

    >>> mask_values("1, 255"), mask_values(4), mask_values(["#FF0000", 3]), mask_values(None)
    ((1, 255), (4,), ('#ff0000', 3), ())
    """
    if given is None or isinstance(given, bool):
        parts: list[object] = [] if given is None else [given]
    elif isinstance(given, str):
        parts = list(re.split(r"[\s,;]+", given.strip("[]() ")))
    else:
        parts = list(given) if isinstance(given, Iterable) else [given]
    return tuple(_value(part) for part in parts if part != "")


def _value(part: object) -> Value:
    text = str(part).strip("'\" ").lower()
    if not isinstance(part, bool) and re.fullmatch(r"\d{1,9}(\.0+)?", text):
        return int(float(text))
    if _COLOUR.fullmatch(text) or text == TRANSPARENT:
        return text
    raise InputError(
        f"'{part}' is not a value of a mask: write a whole number, such as 255, or a colour, '#ff0000'"
    )


@dataclass(frozen=True)
class MaskClass:
    """A structure in the masks of a table; its place in the list of classes, from 1, is its index in an index mask.

    Attributes:
        name: such as "liver".
        values: the values of the mask files that mean it; none: its files hold nothing else.

    >>> MaskClass("liver", (1, 2)).text
    'liver=1 2'
    """

    name: str
    values: tuple[Value, ...] = ()

    @property
    def text(self) -> str:
        """As a case table has it."""
        return f"{self.name}={' '.join(map(str, self.values))}" if self.values else self.name


Classes = tuple[MaskClass, ...]
"""The classes of a table, without the background; none: every mask has one kind of foreground."""


def parse_classes(given: object) -> Classes:
    """The classes that a user names: {name: value or values}, a list of names, or the text of a case table.

    Raises:
        InputError: a name that cannot be used or stands twice, a value of two classes, or too many of them.

    >>> parse_classes({"head": 1, "body": [2, 3]})
    (MaskClass(name='head', values=(1,)), MaskClass(name='body', values=(2, 3)))
    >>> parse_classes("head=1;body=2 3") == parse_classes({"head": 1, "body": [2, 3]})
    True
    >>> [each.name for each in parse_classes(["liver", "tumour"])]
    ['liver', 'tumour']
    """
    if isinstance(given, str):
        pairs = [part.partition("=") for part in given.split(";") if part.strip()]
        found = [MaskClass(name.strip(), mask_values(values)) for name, _, values in pairs]
    elif isinstance(given, Mapping):
        found = [MaskClass(str(name).strip(), mask_values(values)) for name, values in given.items()]
    elif isinstance(given, Iterable):
        found = [each if isinstance(each, MaskClass) else MaskClass(str(each).strip()) for each in given]
    else:
        raise InputError(f"classes: write {{name: value}} or a list of names, not {given!r}")
    classes = tuple(found)
    _require_usable(classes)
    return classes


def _require_usable(classes: Classes) -> None:
    if len(classes) > MOST:
        raise InputError(f"{len(classes)} classes are named: at most {MOST} can be told apart: join some")
    names: set[str] = set()
    values: dict[Value, str] = {}
    for each in classes:
        require_text(each.name)
        if not each.name or len(each.name) > 60 or any(sign in each.name for sign in _FORBIDDEN):
            raise InputError(
                f"{each.name!r} cannot be the name of a class: use 1 to 60 letters, digits, spaces, - and _"
            )
        if each.name.lower() == BACKGROUND:
            raise InputError("background is no class: name its values with background: [0]")
        if each.name in names:
            raise InputError(f"the class '{each.name}' is named twice: give its values in one list")
        names.add(each.name)
        for value in each.values:
            if value in values:
                raise InputError(
                    f"the value {value} is of the classes '{values[value]}' and '{each.name}': keep one"
                )
            values[value] = each.name


def stated_name(text: str) -> str:
    """The name that a file states for a structure, as a class can have it; "" where nothing is left of it.

    >>> stated_name("Tumour: core"), stated_name("background")
    ('Tumour core', 'background structure')
    """
    kept = "".join(" " if sign in _FORBIDDEN or not sign.isprintable() else sign for sign in text)
    name = " ".join(kept.split())[:60].strip()
    return f"{name} structure" if name.lower() == BACKGROUND else name


def classes_text(classes: Classes) -> str:
    """As a case table has them.

    >>> classes_text((MaskClass("head", (1,)), MaskClass("body", (2,))))
    'head=1;body=2'
    """
    return ";".join(each.text for each in classes)


def class_names(classes: Classes) -> tuple[str, ...]:
    """The names, in the order of their indices.

    >>> class_names((MaskClass("head", (1,)),))
    ('head',)
    """
    return tuple(each.name for each in classes)


@dataclass(frozen=True)
class Reading:
    """How the values of mask files become the indices of classes.

    Attributes:
        classes: of the table; none: one kind of foreground.
        foreground: without classes the values that are foreground, all others being background.
        background: the values that are background: with classes besides 0 those to ignore; without classes, and
            without `foreground`, all others are foreground.
        of_file: with one file per class, the class of each file.

    >>> reading = Reading(parse_classes({"head": 1, "body": [2, 3]}))
    >>> reading.index_of([0, 1, 3], Path("m.nii")).tolist()
    [0, 1, 2]
    """

    classes: Classes = ()
    foreground: tuple[Value, ...] = ()
    background: tuple[Value, ...] = ()
    of_file: tuple[str, ...] = ()

    @property
    def is_binary(self) -> bool:
        """Whether a mask holds background and one kind of foreground."""
        return len(self.classes) < 2

    @property
    def is_named(self) -> bool:
        """Whether the user, or the data set, names the values."""
        return bool(self.foreground or self.background or any(each.values for each in self.classes))

    def index(self, name: str) -> int:
        """The index of a class, from 1.

        Raises:
            InputError: no class has this name.
        """
        names = class_names(self.classes)
        if name not in names:
            raise InputError(
                f"a mask file is of the class '{name}', and the classes are {few(names)}: correct one"
            )
        return names.index(name) + 1

    def index_of(self, present: Sequence[int], source: Path) -> NDArray[np.uint8]:
        """The index of the class of each of these whole numbers.

        Raises:
            InputError: a number that is neither of a class nor of the background.
        """
        known = {value: k for k, each in enumerate(self.classes, start=1) for value in each.values}
        found = np.zeros(len(present), np.uint8)
        for n, value in enumerate(present):
            if value in known:
                found[n] = known[value]
            elif self.foreground or not self.classes:
                found[n] = value in self.foreground if self.foreground else value not in self.background
            elif value != 0 and value not in self.background:
                raise unknown_value(value, self, source)
        return found


def unknown_value(value: object, reading: Reading, source: Path) -> InputError:
    """The line about a value that no class has."""
    named = few([each.text for each in reading.classes])
    return InputError(
        f"{shown(source)}: holds the value {value}, which is of no class ({named}): add it to one of classes, or to "
        f"background: [{value}] to ignore it"
    )


def few(names: Iterable[object]) -> str:
    """The first of them, for a message.

    >>> few(["a", "b"])
    'a, b'
    """
    listed = [str(name) for name in names]
    return ", ".join(listed[:_FEW]) + (", ..." if len(listed) > _FEW else "")
