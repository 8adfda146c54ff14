"""Processes that are killed or interrupted at any moment, run again, end with the very same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from segdistill.experiment.folder import LOCK
from segdistill.training.loop import STATE, WEIGHTS
from tests.experiment.tiny import RECIPE, command, process, surroundings, write_recipe

STAGES = ("teacher", "student")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path, fit=RECIPE["fit"] | {"epochs": 8})


def weights(folder: Path) -> list[bytes]:
    return [(folder / "stages" / stage / WEIGHTS).read_bytes() for stage in STAGES]


def _heed_interrupts() -> None:
    """What a shell starts in the background, this test perhaps, ignores interrupts, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop(
    recipe: Path, folder: Path, number: signal.Signals, at: Path | None, seconds: float
) -> tuple[int, str]:
    """Starts a run, waits for a file and some seconds more, and sends a signal; exit code and stderr."""
    run = subprocess.Popen(
        command("run", recipe, "--device", "cpu", "--out", folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings(),
        preexec_fn=_heed_interrupts,
    )
    while at is not None and not at.exists() and run.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    while run.poll() is None:  # again, as one does: Python drops an interrupt that comes within a finaliser
        run.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            run.wait(4)
    return run.returncode, run.communicate()[1]


@pytest.mark.slow
def test_interrupted_and_killed_then_finished(recipe: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole" / "tiny", tmp_path / "broken" / "tiny"
    reference = process("run", recipe, "--device", "cpu", "--out", whole)
    assert reference.code == 0, reference.err
    assert [line.split()[0] for line in reference.out.splitlines()] == [
        "teacher",
        "student",
        "report",
        "model",
    ]
    told = ("phantom:", "preparing", "stage", "evaluating", "exporting", "writing", "done:", "checking")
    assert [line for line in reference.err.splitlines() if not line.startswith(told)] == []
    code, err = stop(recipe, broken, signal.SIGINT, broken / "stages" / "teacher" / STATE, 0.1)
    assert code == 130
    assert [line for line in err.splitlines() if not line.startswith(told)] == [
        "segdistill: interrupted; run the same command again to continue"
    ]
    killed = stop(recipe, broken, signal.SIGKILL, broken / "stages" / "student" / STATE, 0.1)
    assert killed[0] == -9, killed[1]
    last = process("run", recipe, "--device", "cpu", "--out", broken)
    assert last.code == 0, last.err
    assert "stage teacher: finished before, nothing changed" in last.err
    assert weights(broken) == weights(whole)


@pytest.mark.slow
def test_killed_at_random_moments(recipe: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole" / "tiny", tmp_path / "broken" / "tiny"
    began = time.monotonic()
    assert process("run", recipe, "--device", "cpu", "--out", whole).code == 0
    seconds = time.monotonic() - began
    chance = random.Random()
    codes = [
        stop(recipe, broken, signal.SIGKILL, None, chance.uniform(0.3, 1.0) * seconds)[0] for _ in range(8)
    ]
    assert -9 in codes
    assert process("run", recipe, "--device", "cpu", "--out", broken).code == 0
    assert weights(broken) == weights(whole)
    hidden = [path for path in broken.rglob(".*") if path.parent.name != "images"]
    assert hidden in ([], [broken / LOCK])  # nothing half-written; a lock's file may stay


@pytest.mark.slow
def test_two_processes_train_together(recipe: Path, tmp_path: Path) -> None:
    """Gradients are exchanged: both processes' cases count, one process tells and writes."""
    answer = process("run", recipe, "--device", "cpu", "--devices", 2, "--out", tmp_path / "runs" / "two")
    assert answer.code == 0, answer.err
    assert len(answer.out.splitlines()) == 4
    assert answer.err.count("writing the report") == 1
    assert "distributed" not in answer.err
    import torch
    from safetensors.torch import load_file

    for stage in STAGES:
        tensors = load_file(tmp_path / "runs" / "two" / "stages" / stage / WEIGHTS)
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="it looks for processes in /proc")
@pytest.mark.parametrize("which", ["first", "second"])
def test_a_killed_process_of_two_ends_the_other_in_one_line(recipe: Path, tmp_path: Path, which: str) -> None:
    folder = tmp_path / "runs" / "two"
    words = ("run", recipe, "--device", "cpu", "--devices", 2, "--set", "epochs=100000", "--out", folder)
    with open(tmp_path / "log", "wb") as log:
        first = subprocess.Popen(command(*words), stdout=log, stderr=log, env=surroundings())
    began = time.monotonic()
    while not (folder / "stages" / "teacher" / STATE).exists() and time.monotonic() - began < 200:
        assert first.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.2)
    (second,) = map(int, Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split())
    try:
        os.kill(first.pid if which == "first" else second, signal.SIGKILL)
        code = first.wait(timeout=20)
        began = time.monotonic()
        while Path(f"/proc/{second}").exists() and time.monotonic() - began < 20:
            time.sleep(0.1)
        assert not Path(f"/proc/{second}").exists()
    finally:
        for one in (first.pid, second):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
    assert code == (-9 if which == "first" else 1)
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text, text
    (line,) = [line for line in text.splitlines() if line.startswith("segdistill:")]
    assert line.endswith("run the same command again to continue")
