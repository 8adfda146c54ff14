"""Stages side by side: each in a process of its own, as soon as the stages that it needs are trained."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Literal, NoReturn, Protocol
from uuid import uuid4

import torch

from segdistill.config.schema import Recipe
from segdistill.errors import InputError
from segdistill.experiment.equal_time import equal_steps
from segdistill.experiment.events import Event
from segdistill.experiment.folder import JOBS, sweep
from segdistill.experiment.machine import Machine
from segdistill.experiment.train import still_stands
from segdistill.experiment.work import PreparedRun, is_evaluated
from segdistill.experiment.worker import LENGTH, Job, Outcome, from_line
from segdistill.kinds import KINDS

TRIES = 3
"""How often a stage is started whose process is lost, the first time included."""
POLL_SECONDS = 0.1
STOP_SECONDS = 5.0
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from segdistill.experiment.worker import main; main()"
)


class Worker(Protocol):
    """A job under way, in whatever way it was started."""

    def events(self) -> list[Event]:
        """Those since the last call."""

    def has_ended(self) -> bool:
        """Whether it does nothing any more."""

    def outcome(self) -> Outcome | None:
        """How it has ended; None where it was lost."""

    def loss(self) -> str:
        """How it was lost, in words."""

    def stop(self) -> None:
        """Lets it stop, without waiting for that."""

    def kill(self) -> None:
        """Ends it where it has not stopped in time."""


Start = Callable[[Job], Worker]


class Process:
    """A job in a process of this machine, which ends when this one does."""

    def __init__(self, job: Job) -> None:
        command = [sys.executable, "-c", _START, json.dumps(sys.path)]
        pipe = subprocess.PIPE
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, creationflags=flags)
        else:  # a group of its own: Ctrl-C comes to the process of the run alone, which stops the others
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, process_group=0)
        self._events: deque[Event] = deque()
        self._outcome: Outcome | None = None
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._process.stdin is not None
        packed = pickle.dumps(job)
        with suppress(BrokenPipeError):  # it has ended already: lost
            self._process.stdin.write(len(packed).to_bytes(LENGTH, "little") + packed)
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = from_line(line)
            if isinstance(message, Outcome):
                self._outcome = message
            elif message is not None:
                self._events.append(message)

    def events(self) -> list[Event]:
        """Those since the last call."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        if self._process.poll() is None:
            return False
        self._reader.join(STOP_SECONDS)
        pipes = (
            [self._process.stdin] if self._reader.is_alive() else [self._process.stdin, self._process.stdout]
        )
        for pipe in pipes:
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        return True

    def outcome(self) -> Outcome | None:
        """How it has ended; None where it was killed."""
        return self._outcome

    def loss(self) -> str:
        """The signal that has killed it, or its exit code."""
        code = self._process.returncode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def stop(self) -> None:
        """Interrupts it as Ctrl-C would."""
        self._process.terminate()

    def kill(self) -> None:
        """Kills and reaps it."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Jobs:
    """How many stages are trained at once, and where.

    Attributes:
        count: at most so many at once; None for as many as are ready.
        plugins: files and modules that the user has named.
        code: import paths that the user has named.
        start: starts one.
        on_this_machine: whether they share the cores of this machine.
        seconds_between: least time between two events of progress of one stage.
        poll_seconds: between two looks at what is under way.

    Raises:
        InputError: less than one.

    >>> Jobs(0)
    Traceback (most recent call last):
    segdistill.errors.InputError: --jobs 0 trains nothing: use at least 1
    """

    count: int | None
    plugins: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    start: Start = Process
    on_this_machine: bool = True
    seconds_between: float = 0.5
    poll_seconds: float = 0.1

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise InputError(f"--jobs {self.count} trains nothing: use at least 1")

    @property
    def threads(self) -> int | None:
        """Of each process: its share of those that this process has; elsewhere those that it finds there.

        >>> Jobs(1000).threads
        1
        """
        if not self.on_this_machine:
            return None
        return max(1, torch.get_num_threads() // (self.count or 1))

    def spare_threads(self, device: torch.device) -> int | None:
        """Threads of each process that prepare batches: on the cores of its share that its network leaves idle."""
        if self.threads is None:
            return None
        share = (os.cpu_count() or 1) // (self.count or 1)
        return min(8, max(1, share - 1) if device.type == "cuda" else max(0, share - self.threads))


@dataclass(frozen=True)
class Fold:
    """A prepared run, the stages of it that are to be trained, and how its events begin ("" or "fold 2 of 5: ")."""

    run: PreparedRun
    chosen: Sequence[str]
    label: str = ""


@dataclass(frozen=True)
class _Unit:
    """What one process does; the name of the fold's folder stands for it."""

    folder: Path
    stage: str
    task: Literal["train", "measure"] = "train"


@dataclass
class _Board:
    """The units of all folds: which wait, which are under way, which have failed."""

    folds: Mapping[Path, Fold]
    jobs: Jobs
    device: torch.device
    """Of this process; a cluster's may have another."""
    device_name: str
    call: str
    """Name of the folders of this call: a job of an earlier one that is still queued does not find its own."""
    waiting: dict[_Unit, set[_Unit]]
    """Unit -> those that must be done before it; longest chains first."""
    after: dict[_Unit, set[_Unit]]
    """Unit -> those that had better have ended before it, done or failed."""
    running: dict[_Unit, Worker] = field(default_factory=dict)
    tries: dict[_Unit, int] = field(default_factory=dict)
    failed: dict[Path, dict[str, str]] = field(default_factory=dict)

    def event(self, unit: _Unit, text: str) -> Event:
        return Event(f"{self.folds[unit.folder].label}stage {unit.stage}: {text}")

    def fail(self, unit: _Unit, why: str) -> None:
        self.failed.setdefault(unit.folder, {})[unit.stage] = why
        for earlier in self.after.values():
            earlier.discard(unit)

    def done(self, unit: _Unit) -> None:
        for needed in (*self.waiting.values(), *self.after.values()):
            needed.discard(unit)

    def skip_lost(self) -> Iterator[Event]:
        """Units that need a failed one fail, too."""
        for unit in list(self.waiting):
            failed = self.failed.get(unit.folder, {})
            lost = dict.fromkeys(other.stage for other in self.waiting[unit] if other.stage in failed)
            if lost:
                del self.waiting[unit]
                if unit.stage not in failed:
                    self.fail(unit, f"it needs {', '.join(lost)}")
                    yield self.event(unit, f"skipped, since {self.failed[unit.folder][unit.stage]}")

    def next_unit(self) -> _Unit | None:
        """One that can be started now; times are measured only when nothing else is trained or could be."""
        if self.jobs.count is not None and len(self.running) >= self.jobs.count:
            return None
        if any(unit.task == "measure" for unit in self.running):
            return None
        could = [unit for unit, needed in self.waiting.items() if not needed]
        ready = [unit for unit in could if unit.task == "train" and not self.after.get(unit)]
        if ready or self.running:
            return ready[0] if ready else None
        return min(could, key=lambda unit: unit.task, default=None)  # "measure" before "train"

    def stands(self, unit: _Unit) -> bool:
        """Whether an earlier call has trained and evaluated the stage."""
        run = self.folds[unit.folder].run
        return (
            unit.task == "train"
            and still_stands(run.inputs(unit.stage), run.precision(unit.stage, self.device))
            and is_evaluated(run, unit.stage)
        )

    def start(self) -> Iterator[Event]:
        """Starts what can be started."""
        yield from self.skip_lost()
        while (unit := self.next_unit()) is not None:
            del self.waiting[unit]
            if self.stands(unit):
                yield self.event(unit, "finished before, nothing changed")
                self.done(unit)
                continue
            self.tries[unit] = self.tries.get(unit, 0) + 1
            self.running[unit] = self.jobs.start(self.job(unit))

    def job(self, unit: _Unit) -> Job:
        run, recipe = self.folds[unit.folder].run, self.folds[unit.folder].run.recipe
        spare = self.jobs.spare_threads(self.device)
        if recipe.fit.workers is None and spare is not None:
            fit = recipe.fit.model_copy(update={"workers": spare})
            run = replace(run, recipe=recipe.model_copy(update={"fit": fit}))
        return Job(
            run,
            unit.stage,
            unit.task,
            self.device_name,
            self.jobs.threads,
            (*self.jobs.plugins, *recipe.plugins),
            _modules_of_parts(),
            self.jobs.code,
            unit.folder / JOBS / self.call / f"{unit.stage}.lock",
            self.jobs.seconds_between,
        )

    def watch(self) -> Iterator[Event]:
        """The events of all processes, and what follows from those that have ended."""
        label = {unit: self.folds[unit.folder].label for unit in self.running}
        for unit, worker in list(self.running.items()):
            has_ended = worker.has_ended()  # first: what it has told before is then complete
            for event in worker.events():
                yield replace(event, text=f"{label[unit]}{event.text}")
            if has_ended:
                del self.running[unit]
                yield from self.conclude(unit, worker)

    def conclude(self, unit: _Unit, worker: Worker) -> Iterator[Event]:
        outcome = worker.outcome()
        if outcome is None and self.tries[unit] < TRIES:
            yield self.event(unit, f"its process {worker.loss()}: it is started again")
            self.waiting = {unit: set(), **self.waiting}
        elif outcome is None:
            why = f"its process {worker.loss()}, {TRIES} times: use fewer --jobs if memory ran out"
            self.fail(unit, why)
            yield self.event(unit, f"failed: {why}")
        elif outcome.is_done:
            self.done(unit)
        elif outcome.may_be_passed_over and self.folds[unit.folder].run.recipe.stages[unit.stage].may_fail:
            self.fail(unit, outcome.text)
            yield self.event(unit, f"failed: {outcome.text}")
        else:
            outcome.reraise()

    def stop(self) -> None:
        """Stops all processes, and removes what they have not finished writing."""
        for worker in self.running.values():
            worker.stop()
        end = time.monotonic() + STOP_SECONDS
        for worker in self.running.values():
            while not worker.has_ended() and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
            if not worker.has_ended():
                worker.kill()
        for folder in self.folds:
            sweep(folder)

    def clear(self) -> None:
        """Removes the folders of the processes' locks and logs."""
        for folder in self.folds:
            shutil.rmtree(folder / JOBS, ignore_errors=True)


def side_by_side(
    folds: Sequence[Fold], jobs: Jobs, machine: Machine
) -> Generator[Event, None, dict[Path, dict[str, str]]]:
    """Trains and evaluates the stages of prepared runs, each in a process of its own.

    Stages that others wait for longest are started first; a student waits for its baseline, too. A stage whose process
    is lost (killed by a signal) is started again, twice at most, and continues from its last checkpoint. Equal time is
    measured when nothing else runs. The time per image is not measured here.

    Args:
        folds: prepared and locked by the caller.
        jobs: how many at once, and where.
        machine: one device.

    Returns:
        Folder -> failed stage -> why.

    Raises:
        InputError: a stage could not be trained with this input.
        TrainingStopped: a loss was NaN or infinite, in a stage that may not fail.
    """
    own = machine if jobs.on_this_machine else Machine()
    by_folder = {fold.run.folder: fold for fold in folds}
    board = _Board(
        by_folder, jobs, own.resolve(), machine.device, uuid4().hex[:8], _graph(folds), _after(folds)
    )
    for folder in board.folds:
        (folder / JOBS / board.call).mkdir(parents=True)
    yield Event(_plan(board))
    try:
        while board.waiting or board.running:
            yield from board.start()
            yield from board.watch()
            if board.running:
                time.sleep(jobs.poll_seconds)
    finally:
        board.stop()
        if jobs.on_this_machine:
            board.clear()
    if not board.failed:  # else the logs of a cluster's jobs are of use
        board.clear()
    return board.failed


def _plan(board: _Board) -> str:
    count, threads = board.jobs.count, board.jobs.threads
    at_once = f"at most {count} at once" if count is not None else "all that are ready at once"
    share = f", {threads} thread{'s' * (threads != 1)} each" if threads is not None else ""
    shared = "; they share the GPU" if board.device.type == "cuda" and board.jobs.on_this_machine else ""
    stages = sum(unit.task == "train" for unit in board.waiting)
    return f"{stages} stages in processes of their own, {at_once}{share}{shared}"


def _graph(folds: Sequence[Fold]) -> dict[_Unit, set[_Unit]]:
    """Every unit and those that it needs; longest chains first, else in the order of folds and recipe."""
    graph: dict[_Unit, set[_Unit]] = {}
    for fold in folds:
        recipe, folder = fold.run.recipe, fold.run.folder
        measures: dict[str, _Unit] = {}
        for name in fold.chosen:
            needed = {_Unit(folder, other) for other in recipe.needs(name)}
            variant = recipe.variant(name)
            if recipe.stages[name].equal_time_to is not None and equal_steps(folder, variant) is None:
                if variant not in measures:
                    measures[variant] = _Unit(folder, name, "measure")
                    graph[measures[variant]] = needed
                needed = needed | {measures[variant]}
            graph[_Unit(folder, name)] = needed
    chains = dict.fromkeys(graph, 1)
    for unit in reversed(graph):  # a unit comes after those that it needs
        for other in graph[unit]:
            chains[other] = max(chains[other], 1 + chains[unit])
    for unit, earlier in _after(folds).items():
        for other in earlier:
            chains[other] = max(chains[other], 1 + chains[unit])
    return {unit: graph[unit] for unit in sorted(graph, key=lambda unit: -chains[unit])}


def _after(folds: Sequence[Fold]) -> dict[_Unit, set[_Unit]]:
    """The baselines of every student, with which its teachers are compared before it is trained."""
    found: dict[_Unit, set[_Unit]] = {}
    for fold in folds:
        recipe = fold.run.recipe
        plain = [
            name
            for name in fold.chosen
            if recipe.stages[name].role == "baseline" and recipe.stages[name].equal_time_to is None
        ]
        for name in fold.chosen:
            if recipe.stages[name].task == "distillation":
                own = [other for other in plain if recipe.stages[other].model == recipe.stages[name].model]
                same = [other for other in own if recipe.seed_of(other) == recipe.seed_of(name)]
                found[_Unit(fold.run.folder, name)] = {_Unit(fold.run.folder, other) for other in same or own}
    return found


def _modules_of_parts() -> tuple[str, ...]:
    """The modules outside of segdistill that have registered parts in this process."""
    parts = [part for kind in KINDS.values() for part in kind.registry().values()]
    found = sorted({part.source for part in parts})
    return tuple(name for name in found if name.partition(".")[0] != "segdistill" and name != "__main__")


def require_importable(recipe: Recipe) -> None:
    """Checks that other processes can import the parts of a recipe.

    Raises:
        InputError: a part is defined in the script that runs, or in a notebook.

    >>> require_importable(Recipe(name="r", stages={"net": {"model": {"name": "unet"}}}))
    """
    for kind in KINDS.values():
        for name, part in kind.registry().items():
            if part.source == "__main__":
                _refuse(f"the {kind.name} {name}")
    for stage in recipe.stages.values():
        code = str(stage.model.options.get("target", stage.model.name))
        if code.startswith("__main__:"):
            _refuse(f"the network {code}")


def _refuse(what: str) -> NoReturn:
    raise InputError(
        f"{what} is defined in the script itself, which other processes cannot import: move it to a file of its own, "
        "and name that with plugins=[FILE]"
    )
