"""Griffe extension: adapts our docstrings to the pages of the reference.

- A doctest becomes a block of code. Otherwise `[a][b]` in one would be read as a link.
- `low, high: limits` in a list of arguments or attributes becomes an entry per name.
- What a room's `__init__` imports from its own files is shown once, where it is defined.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^([ ]*)>>> .*\n?(?:^[ ]*\S.*\n?)*", re.MULTILINE)  # up to the next empty line
SEVERAL = re.compile(r"^([ ]+)(\w+(?:, \w+)+): (.*(?:\n\1[ ]+\S.*)*)", re.MULTILINE)


def fence(block: re.Match[str]) -> str:
    """The block between the lines that mark code."""
    return f"{block[1]}```pycon\n{block[0].rstrip()}\n{block[1]}```\n"


def split(entry: re.Match[str]) -> str:
    """One entry per name, with the same text."""
    return "\n".join(f"{entry[1]}{name}: {entry[3]}" for name in entry[2].split(", "))


class Docstrings(griffe.Extension):
    """The name does not matter: griffe loads every extension in this file."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once per module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(fence, SEVERAL.sub(split, obj.docstring.value)).rstrip()

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called once, after the whole package was read."""
        for room in list(pkg.modules.values()):
            if isinstance(room, griffe.Module) and room.is_init_module:
                for name, member in list(room.members.items()):
                    if member.is_alias and member.target_path.startswith(f"{room.path}."):
                        room.del_member(name)
