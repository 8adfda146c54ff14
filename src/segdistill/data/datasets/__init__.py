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
SIGNS: dict[str, Callable[[Path], bool]] = {}
"""Name of a dataset -> whether a folder surely is it."""


def register_dataset(
    name: str,
    title: str,
    *,
    how_to_get: str = "",
    published: Mapping[str, int] | None = None,
    sign: Callable[[Path], bool] | None = None,
) -> Callable[[B], B]:
    """Decorator that registers a function from a dataset's folder, and options, to its cases in natural order.

    The function raises InputError when the folder is something else.

    Args:
        name: on the command line and in recipes.
        title: its full name.
        how_to_get: where it comes from, what it looks like, and its terms.
        published: counts by label as published ("" for images without label), to compare with what was found.
        sign: whether a folder surely is this dataset, for `detect_dataset`; None: it cannot be told from other images.

    Raises:
        InputError: another dataset has that name.

    >>> @register_dataset("mine", "My pictures")
    ... def mine(path: Path) -> list[Case]:
    ...     return [Case(file.stem, file) for file in sorted(path.glob("*.png"))]
    >>> create_dataset("mine", ".")
    []
    """
    if sign is not None:
        SIGNS.setdefault(name, sign)
    return DATASETS.register(name, title, how_to_get=how_to_get, published=dict(published or {}))


def detect_dataset(path: str | Path, depth: int = 2) -> str:
    """The dataset or format that a folder holds, there or at most `depth` levels below; "folder" without a sure sign.

    The level that is nearest to the top decides.

    Raises:
        InputError: no such folder, or the signs of several.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for part in ("imagesTr", "labelsTr"):
    ...     (folder / "Task09_Spleen" / part).mkdir(parents=True)
    >>> detect_dataset(folder)
    'decathlon'
    """
    path = Path(path)
    if not path.is_dir():
        wrong = "is a file, not a folder" if path.exists() else "no such folder"
        raise InputError(f"{path}: {wrong}: give the folder that holds the images")
    level, names = [path], list(DATASETS)  # the list loads the adapters, which bring their signs
    try:
        for _ in range(depth + 1):
            found = {name: at for name in names if name in SIGNS for at in level if SIGNS[name](at)}
            if len(found) > 1:
                several = ", ".join(f"{name} ({at})" for name, at in found.items())
                raise InputError(
                    f"{path}: holds the signs of {several}: name one instead of auto: segdistill data index "
                    f"{next(iter(found))} {next(iter(found.values()))}"
                )
            if found:
                return next(iter(found))
            level = [
                child
                for at in level
                for child in sorted(at.iterdir())
                if child.is_dir() and not child.name.startswith(".")
            ]
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}): check the folder and its permissions"
        ) from error
    return "folder"


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
