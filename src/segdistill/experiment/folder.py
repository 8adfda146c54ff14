"""The folder of a run: one writer at a time, nothing left of a killed one, no trace of a refused one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from segdistill.errors import InputError
from segdistill.experiment.environment import ENVIRONMENT
from segdistill.experiment.results import EXTERNAL

LOCK = ".lock"
JOBS = ".jobs"
"""Folder of a run while its stages are trained by processes of their own: a lock of each, and what a cluster writes."""
OWN = (
    "cases.csv",
    "unused.csv",
    "recipe.yaml",
    "report.html",
    "model.onnx",
    "model.json",
    "model_card.md",
    "applied_model_card.xml",
    "run.json",
)
"""Files of a run; all are written after its environment.json."""
SECONDS_TO_END = 10.0
# as files.atomic_write names unfinished files
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.\w+)?")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it; the lock ends with the process, however it ends.

    A folder that is still empty afterwards is removed again, with the folders above it that were made for it.

    Raises:
        InputError: the folder cannot be written, another run is writing to it, or a run would replace files there
            that no run has written.

    >>> import tempfile
    >>> run = Path(tempfile.mkdtemp()) / "runs" / "mine"
    >>> with only_writer(run):
    ...     run.is_dir()
    True
    >>> run.parent.exists()
    False
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    _require_own(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"another run is writing to {folder}: wait for it or choose another --out"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}: choose another --out") from error
    try:
        _end_jobs(folder)
        sweep(folder)
        yield
    finally:
        lock.release()
        with suppress(OSError):
            if not (
                folder / ENVIRONMENT
            ).exists():  # in the folder of a run it stays: the next run may wait for it
                (folder / LOCK).unlink(missing_ok=True)
            for path in made:
                path.rmdir()


def _end_jobs(folder: Path) -> None:
    """Waits for the processes of a killed run, which end with it, and lets no waiting one begin.

    Raises:
        InputError: one works on, as jobs of a cluster do.
    """
    ended = folder / f"{JOBS}-ended"
    if (folder / JOBS).exists() and not ended.exists():
        (folder / JOBS).rename(ended)  # what is still queued on a cluster does not find it, and does nothing
    for path in sorted(ended.glob("*/*.lock")):
        try:
            with FileLock(path, timeout=SECONDS_TO_END):
                pass
        except Timeout as error:
            raise InputError(
                f"a job of an earlier call still trains stage {path.stem} in {folder}: wait for it, or cancel it on "
                f"the cluster (its number is in the names of {ended})"
            ) from error
    shutil.rmtree(ended, ignore_errors=True)


def _require_own(folder: Path) -> None:
    """Refuses a folder that holds a file of the user's where a run writes one of the same name."""
    blocking = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if blocking is not None:
        raise InputError(f"cannot write to {folder}: {blocking} is a file: choose another --out")
    if not (folder / ENVIRONMENT).exists():
        for name in OWN:
            if (folder / name).exists():
                raise InputError(
                    f"{folder / name} would be replaced, and no run has written it: choose another --out"
                )


def sweep(folder: Path) -> None:
    """Removes the unfinished files that a kill left in a run and its stages.

    >>> import tempfile
    >>> run = Path(tempfile.mkdtemp())
    >>> (run / ".report.html.x1_y2z3a.html").touch()
    >>> sweep(run)
    >>> list(run.iterdir())
    []
    """
    for place in (folder, *folder.glob("stages/*"), *folder.glob(f"stages/*/{EXTERNAL}/*")):
        for path in place.glob(".*"):
            if _TEMPORARY.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)
