"""What a process of its own does for a run: trains one stage and evaluates it."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from filelock import FileLock, Timeout

from segdistill.errors import GateFailed, InputError, SegdistillError, memory_error
from segdistill.experiment.events import Event
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.experiment.train import measure_equal_time
from segdistill.experiment.work import PreparedRun, evaluate, train
from segdistill.plugins import load_plugins, name_code, use_installed
from segdistill.training.checkpoint import TrainingStopped

LENGTH = 8
"""Bytes of the number before a job that says how many follow."""
LOCK_SECONDS = 60.0
Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Job:
    """A stage to train and evaluate, or one whose equal time is measured, with all that another process needs.

    Attributes:
        run: the prepared run; its folder and its store are read by the process.
        stage: its name.
        task: "train", which includes the evaluation, or "measure".
        device: "auto", "cpu" or "gpu", as it is meant where the process runs.
        threads: of the network; None for those that the process has.
        plugins: files and modules that the user has named.
        modules: modules that have registered parts in the process of the run.
        code: import paths ("module:callable") that the user has named.
        lock: file that the process locks while it works; where its folder is gone, the job is not wanted any more.
        seconds_between: least time between two events of progress of one text.
    """

    run: PreparedRun
    stage: str
    task: Literal["train", "measure"]
    device: str
    threads: int | None
    plugins: tuple[str, ...]
    modules: tuple[str, ...]
    code: tuple[str, ...]
    lock: Path
    seconds_between: float = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a job has ended.

    Attributes:
        error: "" for a job that is done; else "stopped" (at NaN or infinity), "memory", "gate", "input", "system" or
            "bug".
        text: of the error: one line, or for a bug the traceback.

    >>> Outcome().is_done
    True
    """

    error: Literal["", "stopped", "memory", "gate", "input", "system", "bug"] = ""
    text: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the stage is trained."""
        return not self.error

    @property
    def may_be_passed_over(self) -> bool:
        """Whether the run goes on without a stage that may fail and that ended so."""
        return self.error in ("stopped", "memory")

    def reraise(self) -> NoReturn:
        """Raises what the process has raised, as far as a user can cause it.

        >>> Outcome("input", "no such file").reraise()
        Traceback (most recent call last):
        segdistill.errors.InputError: no such file
        """
        if self.error == "stopped":
            raise TrainingStopped(self.text)
        if self.error == "bug":
            raise RuntimeError(f"a stage has failed in its own process:\n{self.text}")
        raise (GateFailed if self.error == "gate" else InputError)(self.text)

    @classmethod
    def of(cls, error: BaseException) -> Outcome:
        """The outcome of a job that has raised an error.

        >>> Outcome.of(TrainingStopped("loss is NaN"))
        Outcome(error='stopped', text='loss is NaN')
        """
        if isinstance(error, TrainingStopped):
            return cls("stopped", str(error))
        if isinstance(error, GateFailed):
            return cls("gate", str(error))
        if isinstance(error, SegdistillError):
            return cls("input", str(error))
        if (advice := memory_error(error)) is not None:
            return cls("memory", advice)
        if isinstance(error, OSError):
            place = f"{error.filename}: " if error.filename else ""
            return cls("system", f"{place}{error.strerror or error}")
        return cls("bug", "".join(traceback.format_exception(error)))


def work(job: Job, tell: Tell) -> Outcome:
    """Does a job in this process, which is there for it alone.

    An evaluation that fails is no failure of the job: the run evaluates what is not evaluated, and tells the reason.

    Args:
        job: what to do.
        tell: gets the events.
    """
    try:
        if not job.lock.parent.is_dir():
            return Outcome("input", f"stage {job.stage}: its run was started again meanwhile")
        with FileLock(job.lock, timeout=LOCK_SECONDS):
            for event in _spaced(_work(job), job.seconds_between):
                tell(event)
    except Timeout:
        return Outcome("input", f"stage {job.stage}: another process trains it: wait for it")
    except Exception as error:
        return Outcome.of(error)
    return Outcome()


def _work(job: Job) -> Iterator[Event]:
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    load_plugins(job.plugins)
    for module in job.modules:
        with suppress(Exception):  # a part that the stage needs is missed below, with its name
            importlib.import_module(module)
    name_code(job.code)
    run, name = job.run, job.stage
    model = run.recipe.stages[name].model.name
    fabric = make_fabric(Machine(job.device), run.recipe.fit_settings(name).precision, model)
    fabric.launch()
    with use_installed(False):
        if job.task == "measure":
            yield from measure_equal_time(run.inputs(name), fabric, run.precision(name, fabric.device))
            return
        yield from train(run, name, fabric)
        with suppress(Exception):
            yield from evaluate(run, name, fabric.device, timed=False)


def _spaced(events: Iterator[Event], seconds: float) -> Iterator[Event]:
    """The events without those of progress that follow one of the same text too soon."""
    last: dict[str, float] = {}
    for event in events:
        now = time.monotonic()
        if event.finished or now - last.get(event.text, -seconds) >= seconds:
            last[event.text] = now
            yield event


def to_line(message: Event | Outcome) -> str:
    """A message of a job as one line of JSON.

    >>> to_line(Outcome("stopped", "loss is NaN"))
    '{"outcome": {"error": "stopped", "text": "loss is NaN"}}'
    """
    return json.dumps({"outcome" if isinstance(message, Outcome) else "event": asdict(message)})


def from_line(line: str | bytes) -> Event | Outcome | None:
    """A message from its line; None for one that was cut off.

    >>> from_line(to_line(Event("stage student", 3, 10)))
    Event(text='stage student', done=3, total=10, detail='')
    >>> from_line('{"eve')
    """
    try:
        content: dict[str, Any] = json.loads(line)
        return Outcome(**content["outcome"]) if "outcome" in content else Event(**content["event"])
    except (ValueError, TypeError, KeyError):
        return None


def main() -> None:
    """The main function of a process that a run has started: the job comes on stdin, the messages go to stdout.

    Stdin stays open as long as the process of the run lives; with it this process ends at once. What else is printed
    goes to stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process of the run decides
    signal.signal(signal.SIGTERM, interrupt)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    length = int.from_bytes(sys.stdin.buffer.read(LENGTH), "little")
    packed = sys.stdin.buffer.read(length)
    threading.Thread(target=_end_with_the_run, daemon=True).start()

    def send(message: Event | Outcome) -> None:
        out.write(to_line(message) + "\n")
        out.flush()

    with suppress(KeyboardInterrupt):
        send(work(pickle.loads(packed), send))


def interrupt(number: int, frame: object) -> NoReturn:
    """As Ctrl-C, for a signal's handler: what is being written is removed."""
    raise KeyboardInterrupt


def _end_with_the_run() -> None:
    os.read(0, 1)
    os._exit(1)
