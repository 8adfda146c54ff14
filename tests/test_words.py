"""The field's words: what the table in CONTRIBUTING.md rules out is in no name, message, comment, page or help text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# pattern -> what to write instead; a name such as `left_out_cases` counts as its words
WORDS = {
    r"knowledge(?! distillation)": "distillation method",
    r"gaps?": "loss; difference",
    r"said": "targets; stated",
    r"answers?|answered|answering": "output; prediction; targets",
    r"taps?|tapped": "layers",
    r"weighings?": "teacher weighting",
    r"mixtures?": "combined predictions",
    r"foreign": "external, outside",
    r"made[ -]up": "synthetic",
    r"cautions?": "warning",
    r"troubles?": "warning",
    r"gather(?:s|ed|ing)?": "load",
    r"finite": "check; NaN or infinite",
    r"left[ -]out": "out-of-fold; excluded",
    r"twins?": "baseline",
    r"(?:student|teacher|unet|enet) alone": "baseline",
    r"anew|twain": "again",
    r"heard|hears?|hearing": "a plain verb",
    r"speaks?|speaking|spoken": "a plain verb",
    r"silent": "without targets; quiet",
}
ALLOWED = re.compile(r"\.gather\(|isfinite|speaker|reducing_gap")  # calls of libraries
PATTERN = re.compile("|".join(rf"(?P<w{k}>\b(?:{word})\b)" for k, word in enumerate(WORDS)), re.IGNORECASE)
FOLDERS = ("src", "docs", "benchmarks")
EARLIER = {
    "benchmarks/unchanged.py",
    "docs/results/faults.md",
}  # maps the names of an earlier version to today's
SUFFIXES = {".py", ".md", ".yaml", ".html", ".toml"}


def files() -> Iterator[Path]:
    yield ROOT / "README.md"
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.relative_to(ROOT).as_posix() not in EARLIER:
                yield path


def wrong_words(text: str) -> list[str]:
    """Each wrong word with its line's number and what to write; snake_case and CamelCase names are taken apart."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        spread = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", ALLOWED.sub("", line)).replace("_", " ")
        for match in PATTERN.finditer(spread):
            advice = list(WORDS.values())[int((match.lastgroup or "w0")[1:])]
            found.append(f"{number}: '{match[0]}': write {advice}: {line.strip()[:90]}")
    return found


@pytest.mark.parametrize("path", list(files()), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files(path: Path) -> None:
    assert wrong_words(path.read_text(encoding="utf-8")) == []


COMMANDS = (
    (),
    ("run",),
    ("shrink",),
    ("evaluate",),
    ("compare",),
    ("export",),
    ("predict",),
    ("benchmark",),
    ("doctor",),
    ("list",),
    ("data",),
    ("data", "index"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command: tuple[str, ...]) -> None:
    call = [sys.executable, "-m", "segdistill.cli.main", *command, "--help"]
    shown = subprocess.run(
        call,
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "80", "PYTHONPATH": str(ROOT / "src"), "PATH": ""},
    )
    assert wrong_words(shown.stdout) == []
    listed = shown.stdout.partition("Commands:")[2]
    assert "..." not in listed, "a line is cut"


def test_the_test_can_fail() -> None:
    assert len(wrong_words("the student_alone tells what KnowledgeGap said")) == 4
    assert wrong_words("knowledge distillation, x.gather(1), torch.isfinite(x)") == []
