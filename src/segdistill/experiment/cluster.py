"""Jobs on a cluster, through submitit: each stage is a job of its own, which goes on if this process ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segdistill.errors import InputError, first_line, needs
from segdistill.experiment.events import Event
from segdistill.experiment.jobs import Jobs
from segdistill.experiment.worker import Job, Outcome, from_line, interrupt, to_line, work

CLUSTERS = ("slurm", "local")
DEFAULTS: dict[str, Any] = {"name": "segdistill", "timeout_min": 24 * 60}
"""submitit's own time limit is five minutes."""
SECONDS_BETWEEN = 5.0
TIMEOUTS = 100
"""A job that reaches its time limit is queued again so often; it continues from its last checkpoint."""


def on_cluster(jobs: Jobs, cluster: str, options: Mapping[str, Any]) -> Jobs:
    """The same, with each stage as a job of a cluster.

    Args:
        jobs: how many at once.
        cluster: "slurm", or "local" for processes of this machine under submitit.
        options: submitit's (timeout_min, mem_gb, cpus_per_task, gpus_per_node, name) and those of sbatch, such as
            partition and account.

    Raises:
        InputError: an unknown cluster or option, or no Slurm here.
        MissingExtra: submitit is not installed.

    >>> on_cluster(Jobs(None), "slum", {})
    Traceback (most recent call last):
    segdistill.errors.InputError: unknown cluster 'slum': choose slurm or local
    """
    if cluster not in CLUSTERS:
        raise InputError(f"unknown cluster '{cluster}': choose {' or '.join(CLUSTERS)}")
    return replace(
        jobs,
        start=partial(_Submitted, cluster, _named(cluster, options)),
        on_this_machine=cluster == "local",
        seconds_between=SECONDS_BETWEEN,
        poll_seconds=1.0,
    )


def _named(cluster: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options by submitit's names, all of which it knows.

    Raises:
        InputError: it does not.
    """
    with needs(f"--cluster {cluster}", "cluster"):
        import submitit
    shared = submitit.AutoExecutor._typed_parameters()
    own = {"gpus_per_node": 1} if cluster == "local" and torch.cuda.is_available() else {}
    named = (
        DEFAULTS
        | own
        | {
            name if name in shared or name.startswith(f"{cluster}_") else f"{cluster}_{name}": value
            for name, value in options.items()
        }
    )
    _executor(cluster, Path(), named)
    return named


def _executor(cluster: str, folder: Path, options: Mapping[str, Any]) -> Any:
    import submitit

    try:
        found = submitit.AutoExecutor(
            folder=folder, cluster=cluster, **{f"{cluster}_max_num_timeout": TIMEOUTS}
        )
    except RuntimeError as error:
        raise InputError(
            f"no Slurm here ({first_line(error)}): run the command where sbatch works, or use --jobs without --cluster"
        ) from error
    try:
        found.update_parameters(**options)
    except (NameError, AssertionError, ValueError, TypeError) as error:
        raise InputError(f"--cluster-option: {first_line(error)}") from error
    return found


@dataclass(frozen=True)
class _Task:
    """What submitit pickles and calls where the job runs."""

    job: Job
    told: Path
    stops_at_sigterm: bool

    def __call__(self) -> Outcome:
        if self.stops_at_sigterm:
            signal.signal(signal.SIGTERM, interrupt)
        return work(self.job, self._tell)

    def _tell(self, event: Event) -> None:
        with suppress(OSError), open(self.told, "a", encoding="utf-8") as file:
            file.write(to_line(event) + "\n")

    def checkpoint(self) -> Any:
        """At the time limit submitit queues the job again; the training continues from its last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Submitted:
    """A submitted job; see `jobs.Worker`."""

    def __init__(self, cluster: str, options: Mapping[str, Any], job: Job) -> None:
        self._told = job.lock.with_suffix(".told")
        self._read = 0
        self._is_local = cluster == "local"
        self._told.unlink(missing_ok=True)
        executor = _executor(cluster, job.lock.parent, options)
        try:
            self._job = executor.submit(_Task(job, self._told, self._is_local))
        except Exception as error:  # submitit's, whose cause is what sbatch prints
            raise InputError(
                f"--cluster {cluster}: a job cannot be submitted ({first_line(error)}): check --cluster-option"
            ) from error
        self._waiting = [Event(f"stage {job.stage}: submitted as job {self._job.job_id}")]

    def events(self) -> list[Event]:
        """Those since the last call; a line that is not complete yet waits for the next one."""
        found, self._waiting = self._waiting, []
        with suppress(OSError), open(self._told, "rb") as file:
            file.seek(self._read)
            complete = file.read().rpartition(b"\n")[0]
            self._read += len(complete) + bool(complete)
            found += [
                message for line in complete.splitlines() if isinstance(message := from_line(line), Event)
            ]
        return found

    def has_ended(self) -> bool:
        """Whether submitit finds it done."""
        return bool(self._job.done())

    def outcome(self) -> Outcome | None:
        """What the job has returned; None where it has not."""
        try:
            found = self._job.result()
        except Exception:  # of submitit: the job was killed, or was cancelled
            return None
        return found if isinstance(found, Outcome) else None

    def loss(self) -> str:
        """Its state, and where its log is."""
        return f"(job {self._job.job_id}, {self._job.state}, log {self._job.paths.stderr}) has ended without a result"

    def stop(self) -> None:
        """Cancels it."""
        with suppress(OSError):
            if self._is_local:  # submitit's controller hands the signal on
                os.kill(int(self._job.job_id), signal.SIGTERM)
            else:
                self._job.cancel(check=False)

    def kill(self) -> None:
        """Cancels it once more; on a cluster it ends after the time that the cluster gives it."""
        with suppress(OSError):
            self._job.cancel(check=False)
