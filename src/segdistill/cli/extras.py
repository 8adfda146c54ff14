"""A command that needs an extra says which one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segdistill.errors import MissingExtra


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Turns a missing module inside the block into one line that names the extra to install.

    >>> with needs("training", "train"):
    ...     import nothing_of_this_name
    Traceback (most recent call last):
    segdistill.errors.MissingExtra: training needs the extra 'train': pip install 'segdistill[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("segdistill"):
            raise
        raise MissingExtra(what, extra) from error
