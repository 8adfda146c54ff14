"""The errors of segdistill: each has one line for the user and the exit code of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SegdistillError(Exception):
    """Base of every error that is shown to a user as one line, without a traceback.

    >>> SegdistillError("disk is full: free some space").exit_code
    1
    """

    exit_code = 1


class InputError(SegdistillError):
    """Unusable input: the message states the value, the rule and the fix.

    >>> InputError("unknown network 'unett': did you mean 'unet'?").exit_code
    2
    """

    exit_code = 2


class UnreadableImage(InputError):
    """A file that should be an image or a mask cannot be decoded; the message names the file and the reason."""


class MissingExtra(InputError):
    """A feature needs an optional dependency; the message names the extra to install.

    >>> str(MissingExtra("training", "train"))
    "training needs the extra 'train': pip install 'segdistill[train]'"
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'segdistill[{extra}]'")


TOO_LITTLE_MEMORY = "the device has too little memory: lower batch_size (and raise accumulate) or size"
_WORDS_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "failed to allocate memory")


def memory_error(error: BaseException) -> str | None:
    """What to do about an error for want of memory, of whatever library; None for any other.

    >>> memory_error(RuntimeError("shapes do not fit")) is None
    True
    >>> memory_error(MemoryError())[:34]
    'the device has too little memory: '
    """
    words = str(error).lower()
    is_one = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    return TOO_LITTLE_MEMORY if is_one or any(part in words for part in _WORDS_OF_MEMORY) else None


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Turns a missing module inside the block into one line that names the extra to install; no extra: lets it pass.

    >>> with needs("training", "train"):
    ...     import nothing_of_this_name
    Traceback (most recent call last):
    segdistill.errors.MissingExtra: training needs the extra 'train': pip install 'segdistill[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("segdistill"):
            raise
        raise MissingExtra(what, extra) from error


class CasesFailed(SegdistillError):
    """Some cases of several could not be processed; the others were."""

    exit_code = 4


class GateFailed(SegdistillError):
    """A measured quality is below the gate that was set for it."""

    exit_code = 5


def first_line(error: BaseException) -> str:
    r"""The class of another library's error and the first line of its text, for a message of one line.

    >>> first_line(ValueError("no such layer\nmore"))
    'ValueError: no such layer'
    """
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


class MethodWarning(UserWarning):
    """A method that was given what it is not made for; the training goes on."""
