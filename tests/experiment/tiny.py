"""A whole experiment that runs in a second: teacher and student of a few channels on 32x32 phantoms."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from segdistill.records import StageRecord

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "dataset": "phantom",
        "size": 32,
        "channels": 1,
        "phantoms": 30,
        "labels": ["benign", "malignant"],
    },
    "fit": {"epochs": 2, "batch_size": 4, "precision": "fp32", "checkpoint_seconds": 0.0, "workers": 0},
    "stages": {
        "teacher": {"model": {"name": "simplified_unet", "widths": [4, 8, 8]}},
        "student": {
            "task": "distillation",
            "model": {"name": "simplified_unet", "widths": [2, 4, 4]},
            "teachers": {"teacher": {}},
            "methods": {"soft_prediction": {}},
        },
    },
    "export": "student",
}


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE | changes, sort_keys=False), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of an error; what a run told before it is left out."""
        lines = self.err.splitlines()
        assert lines, "an error without a word"
        assert "Traceback" not in self.err
        assert sum(line.startswith("segdistill: ") for line in lines) == 1
        assert lines[-1].startswith("segdistill: "), self.err
        return lines[-1].removeprefix("segdistill: ")


def segdistill(*words: object) -> Answer:
    """The command line in this process, from its arguments to its exit code."""
    from segdistill.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", ["segdistill", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    return Answer(code or 0, out.getvalue(), err.getvalue())


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "segdistill.cli.main", *map(str, words)]


def process(*words: object, cwd: Path | None = None, **settings: Any) -> Answer:
    """The command line in a process of its own."""
    done = subprocess.run(
        command(*words), capture_output=True, text=True, timeout=240, cwd=cwd, env=surroundings(), **settings
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def surroundings() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its bytes, and every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def record_of(stage: Path) -> StageRecord:
    """The record of a stage's folder, which must have one."""
    found = StageRecord.read(stage)
    assert found is not None
    return found


_DONE: dict[str, Path] = {}


def tiny_run(factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run, shared by all tests of the process; do not change its files."""
    if "run" not in _DONE:
        folder = factory.mktemp("tiny")
        answer = segdistill("run", write_recipe(folder), "--device", "cpu", "--out", folder / "runs" / "tiny")
        assert answer.code == 0, answer.err
        _DONE["run"] = folder / "runs" / "tiny"
    return _DONE["run"]
