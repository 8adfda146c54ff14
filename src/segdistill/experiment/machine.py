"""The devices of a run, by Lightning Fabric: one laptop core or many devices."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies.launchers import subprocess_script
from lightning_fabric.utilities.rank_zero import rank_zero_only

from segdistill.errors import InputError, SegdistillError, first_line
from segdistill.files import shown
from segdistill.training.optimisation import choose_precision

DEVICES = ("auto", "cpu", "gpu")
CONTINUE = "run the same command again to continue"
_POLL, _GRACE = 0.25, 1.5
"""Seconds between two looks at the other processes, and in which an error that all have may end this one."""


@dataclass(frozen=True)
class Machine:
    """Device, devices per node and nodes, as Lightning Fabric names them.

    Raises:
        InputError: an unknown device, or fewer than one.

    >>> Machine().device
    'auto'
    """

    device: str = "auto"
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise InputError(f"unknown device '{self.device}': choose {', '.join(DEVICES)}")
        if self.devices < 1 or self.nodes < 1:
            raise InputError(f"{self.nodes} nodes with {self.devices} devices cannot train: use at least 1")

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.devices * self.nodes

    def resolve(self) -> torch.device:
        """The device that "auto", "cpu" or "gpu" means on this machine.

        Raises:
            InputError: the device does not exist here.

        >>> Machine("cpu").resolve().type
        'cpu'
        """
        if self.device == "gpu" and not torch.cuda.is_available():
            raise InputError("no CUDA device here: use --device cpu")
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")


def make_fabric(machine: Machine, precision: str, network: str | None = None) -> Fabric:
    """A Fabric that is not launched yet, for a precision setting of a recipe and a network's name.

    Raises:
        InputError: the devices do not exist here.

    >>> make_fabric(Machine("cpu"), "fp32").world_size
    1
    """
    for name in ("lightning.fabric", "lightning_fabric"):  # environment.json has what it logs at level INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    device = machine.resolve()
    if machine.processes > 1:  # Lightning's own observer kills the first process without a word
        subprocess_script._launch_process_observer = _watch_children  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():  # beside Slurm a run without srun is nothing to warn of
            warnings.filterwarnings("ignore", "The `srun` command is available")
            return Fabric(
                accelerator=device.type,
                devices=machine.devices,
                num_nodes=machine.nodes,
                precision=choose_precision(precision, device, network),  # type: ignore[arg-type]
                strategy="ddp" if machine.processes > 1 else "auto",
            )
    except (ValueError, RuntimeError) as error:
        raise InputError(f"cannot use {machine.devices} x {machine.device}: {error}") from error


def is_first_process() -> bool:
    """Whether this is the process that prepares, reports and writes; known before processes are connected.

    >>> is_first_process()
    True
    """
    return not getattr(rank_zero_only, "rank", 0)


class ProcessLost(SegdistillError):
    """Another process of the same run has ended, so that this one cannot go on."""


@contextmanager
def together(machine: Machine) -> Iterator[None]:
    """Ends this process in one line when another one of the run ends, wherever this one then is.

    Raises:
        ProcessLost: another process has ended, as a broken connection shows it.

    >>> with together(Machine()):
    ...     pass
    """
    if machine.processes == 1:
        yield
        return
    _running.set()
    if not is_first_process() and os.name == "posix":
        threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "by peer"))):
            raise
        why = first_line(error)[:200]
        raise ProcessLost(f"another process of this run has ended ({why}): {CONTINUE}") from error
    finally:
        _running.clear()


_running = threading.Event()
"""Set while this process needs the others."""


def _watch_children(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    threading.Thread(target=_watch, args=(list(processes),), daemon=True).start()


def _watch(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    while not (lost := [process for process in processes if process.poll()]) or not _running.is_set():
        if all(process.returncode == 0 for process in processes):
            return
        time.sleep(_POLL)
    code = lost[0].returncode
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    _end(f"process {lost[0].pid} of this run has ended {how}", processes)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL)
    _end("the first process of this run has ended")


def _end(why: str, processes: Sequence[subprocess.Popen[bytes]] = ()) -> None:
    """Ends the process from a thread: the main one may wait for the others forever."""
    time.sleep(_GRACE)
    for process in processes:
        if process.poll() is None:
            process.kill()
    if _running.is_set():
        print(f"segdistill: {shown(why)}: {CONTINUE}", file=sys.stderr, flush=True)
        os._exit(ProcessLost.exit_code)
