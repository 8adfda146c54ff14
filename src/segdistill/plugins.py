"""A user's own parts: loaded from the files and modules that the user names, and from installed packages.

Code runs only when the user names it: in a recipe that is run, with `--plugins`, or in Python. What a run folder, a
stage or a table names is data; `require_named` refuses it until the user has named it too.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from segdistill.errors import InputError, first_line

GROUP = "segdistill.plugins"
"""The entry point group in which an installed package names its module."""

_named: set[str] = set()
_use_installed: ContextVar[bool] = ContextVar("use_installed", default=True)
_is_loaded = False


class PluginWarning(UserWarning):
    """An installed plugin that cannot be loaded; the parts of the others can be used."""


def load_plugins(names: Iterable[str]) -> None:
    """Runs files and modules, whose decorators register their parts; a file that is named again runs again.

    Args:
        names: paths that end in .py, and names of modules.

    Raises:
        InputError: no such file or module, or it fails.

    >>> load_plugins(["mine.py"])
    Traceback (most recent call last):
    segdistill.errors.InputError: no plugin file mine.py: check the path
    """
    for name in names:
        name_code([name])
        try:
            if name.endswith(".py"):
                _run_file(Path(name))
            else:
                importlib.import_module(name)
        except InputError:
            raise
        except Exception as error:  # another's code may fail in any way
            raise InputError(
                f"plugin {name} cannot be loaded ({first_line(error)}): install it, or correct it"
            ) from error


def _run_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no plugin file {path}: check the path")
    place = str(path.resolve())
    name = f"segdistill_plugin_{path.stem}_{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def installed_plugins() -> dict[str, str]:
    """Entry point -> module of every installed plugin; nothing is imported.

    >>> isinstance(installed_plugins(), dict)
    True
    """
    return {point.name: point.module for point in metadata.entry_points(group=GROUP)}


@contextmanager
def use_installed(allowed: bool) -> Iterator[None]:
    """Whether an unknown name loads the installed plugins; the command line allows that to `run` alone.

    >>> with use_installed(False):
    ...     load_installed()
    """
    before = _use_installed.set(allowed)
    try:
        yield
    finally:
        _use_installed.reset(before)


def load_installed() -> None:
    """Imports the installed plugins, once in a process; one that fails is one `PluginWarning`."""
    global _is_loaded
    if _is_loaded or not _use_installed.get():
        return
    _is_loaded = True
    for name, module in installed_plugins().items():
        try:
            importlib.import_module(module)
        except Exception as error:  # another's code may fail in any way
            warnings.warn(
                f"plugin {name} ({module}) cannot be loaded: {first_line(error)}", PluginWarning, stacklevel=2
            )


def name_code(names: Iterable[str]) -> None:
    """Notes modules, files and import paths ("module:callable") that the user has named in this process."""
    _named.update(names)


def require_named(code: str, where: str) -> None:
    """Refuses code that `where`, such as a stage's folder, names and the user has not.

    Args:
        code: "module:callable".
        where: for the message.

    Raises:
        InputError: neither the callable nor its module was given to `name_code`.

    >>> require_named("subprocess:getoutput", "stage.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    segdistill.errors.InputError: stage.json names code that is not part of segdistill, subprocess:getoutput: ...
    """
    module = code.partition(":")[0]
    if _named.isdisjoint((code, module)):
        raise InputError(
            f"{where} names code that is not part of segdistill, {code}: if you trust it, add --plugins {module}"
        )


def require_plugin(part: str, where: str, plugins: object) -> NoReturn:
    """Refuses a part that is not registered and that a file names.

    Args:
        part: such as "network 'mine'".
        where: the file.
        plugins: what the recipe of its run names, as read from another file; anything.

    Raises:
        InputError: always; names the modules that may register it.

    >>> require_plugin("network 'mine'", "stage.json", ["mine.py"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    segdistill.errors.InputError: stage.json names the network 'mine', which is not part of segdistill: ...
    """
    named = [str(each) for each in plugins] if isinstance(plugins, list) else []
    known = dict.fromkeys([*named, *installed_plugins().values()])
    raise InputError(
        f"{where} names the {part}, which is not part of segdistill: if you trust its code, add --plugins "
        f"{' or '.join(known) or 'FILE or MODULE'}"
    )
