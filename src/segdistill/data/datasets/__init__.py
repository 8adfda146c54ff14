"""Datasets as published: each adapter turns a folder into cases; built by name with `create_dataset`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from segdistill.data.case import Case, require_unique
from segdistill.errors import InputError
from segdistill.registry import Registry, fit_options

B = TypeVar("B", bound=Callable[..., list[Case]])

DATASETS: Registry[list[Case]] = Registry("dataset", "segdistill.data.datasets")
list_datasets = DATASETS.names


def register_dataset(
    name: str, title: str, *, how_to_get: str = "", published: Mapping[str, int] | None = None
) -> Callable[[B], B]:
    """Decorator that registers a function from a dataset's folder, and options, to its cases in natural order.

    The function raises InputError when the folder is something else.

    Args:
        name: on the command line and in recipes.
        title: its full name.
        how_to_get: where it comes from, what it looks like, and its terms.
        published: counts by label as published ("" for images without label), to compare with what was found.

    Raises:
        InputError: another dataset has that name.

    >>> @register_dataset("mine", "My pictures")
    ... def mine(path: Path) -> list[Case]:
    ...     return [Case(file.stem, file) for file in sorted(path.glob("*.png"))]
    >>> create_dataset("mine", ".")
    []
    """
    return DATASETS.register(name, title, how_to_get=how_to_get, published=dict(published or {}))


def create_dataset(name: str, path: str | Path, **options: Any) -> list[Case]:
    """Turns a dataset as published, in the folder `path` (or one or two levels above it), into cases.

    Args:
        name: one of `list_datasets()`.
        path: the dataset's folder.
        options: of this dataset; `phantom` has count, size and seed, `decathlon` task, `duke_spleen` modality,
            `chase_db1` observer.

    Raises:
        InputError: unknown dataset or option, a folder that is not it (says what was looked for), or masks
            without images.

    >>> import tempfile
    >>> len(create_dataset("phantom", Path(tempfile.mkdtemp()) / "new", count=4, size=32))
    4
    """
    part = DATASETS.find(name)
    known = {option: parameter.annotation for option, parameter in list(part.options.items())[1:]}
    given = fit_options(f"dataset '{name}'", options, known)
    try:
        cases = part.build(Path(path), **given)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}): check the folder and its permissions"
        ) from error
    require_unique(cases)
    return cases
