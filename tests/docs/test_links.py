"""Every link between files of the repository leads somewhere: the file exists, and so does the heading in it."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
HOME = "https://github.com/segdistill/segdistill/blob/main/"  # links to it are links to files, too
FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
LINKS = (
    re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)"),  # [text](target "title"), ![text](target)
    re.compile(r"^ *\[[^\]]+\]: *<?([^\s>]+)", re.MULTILINE),  # [name]: target
    re.compile(r"\b(?:href|src)=[\"']([^\"']+)"),
)


def pages() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def links(text: str) -> list[str]:
    text = CODE.sub("", FENCE.sub("", text))
    return [target for pattern in LINKS for target in pattern.findall(text)]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names of a page's headings as the repository's site makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: list[str] = re.findall(r"\b(?:id|name)=[\"']([^\"']+)", text)
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)?$", text, re.MULTILINE):
        heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # of a link its text
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = sum(
            known == name or re.fullmatch(rf"{re.escape(name)}-\d+", known) is not None for known in found
        )
        found.append(f"{name}-{count}" if count else name)
    return frozenset(found)


def fault(page: Path, target: str) -> str | None:
    """What is wrong with a link on `page`; None for a good one and for one that leaves the repository."""
    if target.startswith(HOME):
        page, target = ROOT / "README.md", target.removeprefix(HOME)
    if re.match(r"[a-z][a-z+.-]*:|//", target):
        return None
    path, _, anchor = target.partition("#")
    file = page.parent / unquote(path) if path else page
    if not file.exists():
        return f"{target}: no such file"
    if not file.resolve().is_relative_to(ROOT.resolve()):
        return f"{target}: outside the repository"
    if anchor and file.suffix == ".md" and unquote(anchor) not in anchors(file):
        return f"{target}: no such heading; there are {sorted(anchors(file))}"
    return None


@pytest.mark.parametrize("name", pages())
def test_links(name: str) -> None:
    page = ROOT / name
    found = links(page.read_text(encoding="utf-8"))
    assert [wrong for target in found if (wrong := fault(page, target))] == []


def test_faults_are_found() -> None:
    page = ROOT / "README.md"
    assert fault(page, "LICENSE") is None
    assert fault(page, "#segdistill") is None
    assert fault(page, f"{HOME}LICENSE") is None
    assert fault(page, "https://example.org/x") is None
    for target in ("no-such-file.md", "#no-such-heading", f"{HOME}no-such-file.md", "../elsewhere.md"):
        assert fault(page, target) is not None, target
    assert links("[a](b.md) `[c](d.md)` ![e](f.png 'g')\n```\n[h](i.md)\n```\n[j]: k.md\n") == [
        "b.md",
        "f.png",
        "k.md",
    ]


def test_headings_are_named_as_on_the_site(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`, c\n## [d](e.md) f_g\n### Twice\n### Twice\n```\n# no heading\n```\n", encoding="utf-8"
    )
    assert anchors(page) == {"a-b-c", "d-f_g", "twice", "twice-1"}
