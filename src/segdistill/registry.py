"""Parts by name: one registry per kind of part, filled by a decorator from inside the package and from outside."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from segdistill.errors import InputError, MissingExtra
from segdistill.options import fit_option, option_types

T = TypeVar("T")
B = TypeVar("B", bound=Callable[..., Any])


@dataclass(frozen=True)
class Part(Generic[T]):
    """One registered part.

    Attributes:
        name: the name that recipes and commands use.
        build: the class or function that makes it; its parameters are the options.
        summary: one line for lists.
        facts: what else its kind wants to know before it is built (see each registry).
    """

    name: str
    build: Callable[..., T]
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The module that it comes from."""
        return self.build.__module__

    @property
    def options(self) -> dict[str, Any]:
        """Option -> its annotation."""
        return option_types(self.build)


class Registry(Mapping[str, Part[T]]):
    """All parts of one kind; a mapping from name to `Part`.

    The package's own parts are registered when the first name is looked up: every module of `package` is imported then,
    not before.

    Args:
        kind: what one part is called in messages, such as "loss".
        package: the package below which the kind's own parts lie; "" for none.
        extra: the extra of pip that its parts need; "" for none.

    >>> sizes: Registry[float] = Registry("size")
    >>> @sizes.register("half", "half of it")
    ... def half(of: float) -> float:
    ...     return of / 2
    >>> sizes.create("half", of=3.0), sizes["half"].summary, list(sizes)
    (1.5, 'half of it', ['half'])
    >>> sizes.create("halve")
    Traceback (most recent call last):
    segdistill.errors.InputError: unknown size 'halve': did you mean 'half'?
    """

    def __init__(self, kind: str, package: str = "", extra: str = "") -> None:
        self.kind, self.package, self.extra = kind, package, extra
        self._parts: dict[str, Part[T]] = {}
        self._is_complete = not package

    def register(self, name: str, summary: str = "", **facts: Any) -> Callable[[B], B]:
        """Decorator that registers a class or function; without a summary the first line of its docstring is shown.

        Raises:
            InputError: another part has that name.
        """

        def add(build: B) -> B:
            known = self._parts.get(name)
            place = (build.__module__, getattr(build, "__qualname__", repr(build)))
            if known is not None and (known.source, getattr(known.build, "__qualname__", "")) != place:
                raise InputError(
                    f"{self.kind} '{name}' is registered by {known.source} and by {build.__module__}: rename one"
                )
            line = summary or (inspect.getdoc(build) or "").partition("\n")[0]
            self._parts[name] = Part(name, build, line, facts)
            return build

        return add

    def create(self, name: str, **options: Any) -> T:
        """Builds the part called `name`.

        Raises:
            InputError: unknown name (with the near ones), unknown option, or an option of another type.
        """
        return self.build(name, options)

    def build(self, name: str, options: Mapping[str, Any]) -> T:
        """As `create`, with the options as a mapping."""
        part = self.find(name)
        known, given = part.options, {}
        for option, value in options.items():
            if option not in known:
                raise InputError(
                    f"{self.kind} '{name}' has no option '{option}' (options: {', '.join(known) or 'none'})"
                )
            given[option] = fit_option(f"{self.kind} '{name}': {option}", value, known[option])
        try:
            return part.build(**given)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.kind} '{name}': {error}") from error

    def find(self, name: str) -> Part[T]:
        """The part called `name`.

        Raises:
            InputError: unknown name, with the near ones.
        """
        if name not in self._parts:
            self._complete()
        if name not in self._parts:
            raise InputError(f"unknown {self.kind} '{name}': {near_names(name, self._parts)}")
        return self._parts[name]

    def _complete(self) -> None:
        if self._is_complete:
            return
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
                importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if not self.extra or (error.name or "").startswith("segdistill"):
                raise
            raise MissingExtra(f"a {self.kind}", self.extra) from error
        self._is_complete = True

    def __getitem__(self, name: str) -> Part[T]:
        if name not in self._parts:
            self._complete()
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        self._complete()
        return iter(self._parts)

    def __len__(self) -> int:
        self._complete()
        return len(self._parts)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names, at most three, that `name` is probably a misspelling of.

    >>> nearest("lable", ["label", "split"])
    ['label']
    """
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.7)


def near_names(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known names, or all of them.

    >>> near_names("unett", ["unet", "enet", "segnet"])
    "did you mean 'unet'?"
    >>> near_names("x", ["dice", "iou"])
    'known: dice, iou'
    """
    known = list(known)
    near = nearest(name, known)
    if near:
        return "did you mean " + ", ".join(f"'{n}'" for n in near) + "?"
    return "known: " + (", ".join(sorted(known)) or "none")


def build(kind: str, registry: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, Any]) -> T:
    """Calls `registry[name](**options)`; for plain dicts, which `Registry` replaces.

    Raises:
        InputError: `name` is not registered, or an option is not one of the builder's parameters, or of another type.

    >>> build("number", {"float": float}, "flaot", {})
    Traceback (most recent call last):
    segdistill.errors.InputError: unknown number 'flaot': did you mean 'float'?
    """
    if name not in registry:
        raise InputError(f"unknown {kind} '{name}': {near_names(name, registry)}")
    temporary: Registry[T] = Registry(kind)
    temporary.register(name)(registry[name])
    return temporary.build(name, options)
