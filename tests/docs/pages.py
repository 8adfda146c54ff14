"""The examples of the documentation: blocks of code and inline commands, and what their words mean."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:segdistill|python|pytest|make) [^`]+)`")


@dataclass(frozen=True)
class Example:
    """One block of a page; `language` is "inline" for a command in the text."""

    language: str
    text: str


def examples(page: Path) -> list[Example]:
    """Blocks and inline commands of a page in their order.

    Commands in a page's tables have an escaped `|`.
    """
    text = page.read_text(encoding="utf-8")
    found = [
        (match.start(), Example(match[2], re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)))
        for match in BLOCK.finditer(text)
    ]
    bare = BLOCK.sub(lambda match: " " * len(match[0]), text)
    found += [
        (match.start(), Example("inline", match[1].replace("\\|", "|").replace("\n", " ")))
        for match in INLINE.finditer(bare)
    ]
    return [example for _, example in sorted(found, key=lambda each: each[0])]


def commands(text: str) -> Iterator[list[str]]:
    """The single commands of a block of shell, without assignments, comments and redirections; a loop is written out.

    >>> list(commands("for i in 1 2; do A=1 segdistill run x --set a=$i > y; done  # z"))
    [['segdistill', 'run', 'x', '--set', 'a=1'], ['segdistill', 'run', 'x', '--set', 'a=2']]
    """
    name, values = "", [""]
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        command: list[str] = []
        skip = False
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):
                if command[:1] == ["for"]:
                    name, values = f"${command[1]}", command[3:]
                elif command and command[0] not in ("done", "wait"):
                    looped = values if name and any(name in each for each in command) else values[:1]
                    yield from (
                        [each.replace(name, value) if name else each for each in command] for value in looped
                    )
                command = []
            elif set(word) <= set("<>"):
                skip = True
            elif skip:
                skip = False
            elif command or not (word == "do" or re.fullmatch(r"\w+=.*", word)):
                command.append(word)


def is_placeholder(word: str) -> bool:
    """Whether a word stands for something of the reader: NAME, RUN:STAGE, FILE.py, RUN/external/stu.

    >>> [is_placeholder(word) for word in ("NAME", "RUN/external/stu", "...", "README.md", "runs/x")]
    [True, True, True, False, False]
    """
    return word != "README.md" and re.match(r"(\.\.\.|[A-Z]{2,}(\b|$)(?![_-]))", word) is not None
