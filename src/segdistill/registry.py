"""Parts by name: one registry per kind of part, filled by a decorator from inside the package and from outside."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from segdistill.errors import InputError, needs
from segdistill.options import fit_option, options_of, type_name
from segdistill.plugins import load_installed

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
    def options(self) -> dict[str, inspect.Parameter]:
        """Option -> its parameter, with annotation and default."""
        return options_of(self.build)


class Registry(Mapping[str, Part[T]]):
    """All parts of one kind; a mapping from name to `Part`, sorted by name.

    The package's own parts are registered when they are first needed: every module of `package` is imported then, not
    before. A mapping's own methods (`in`, `[]`, loops) never load plugins; `find`, `create` and `build` load the
    installed ones when a name is unknown.

    Args:
        kind: what one part is called in messages, such as "loss".
        package: the package whose modules hold the kind's own parts; "" for none.
        extra: the extra of pip that its parts need; "" for none.

    >>> sizes: Registry[float] = Registry("size")
    >>> @sizes.register("half", "half of it")
    ... def half(of: float) -> float:
    ...     return of / 2
    >>> sizes.create("half", of=3), sizes["half"].summary, list(sizes)
    (1.5, 'half of it', ['half'])
    >>> sizes.create("haf")
    Traceback (most recent call last):
    segdistill.errors.InputError: unknown size 'haf': did you mean 'half'?
    """

    def __init__(self, kind: str, package: str = "", extra: str = "") -> None:
        self.kind, self.package, self.extra = kind, package, extra
        self._parts: dict[str, Part[T]] = {}
        self._is_complete = not package

    def register(self, name: str, summary: str = "", **facts: Any) -> Callable[[B], B]:
        """Decorator that registers a class or function; without a summary the first line of its docstring is shown.

        Raises:
            InputError: another part has that name.

        >>> sizes: Registry[float] = Registry("size")
        >>> @sizes.register("double")
        ... def double(of: float) -> float:
        ...     '''Twice as much.'''
        ...     return 2 * of
        >>> sizes["double"].summary
        'Twice as much.'
        """

        def add(build: B) -> B:
            known, place = self._parts.get(name), _place(build)
            if known is not None and _place(known.build) != place:
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

        >>> sizes: Registry[complex] = Registry("size")
        >>> _ = sizes.register("complex")(lambda real, imag=0.0: complex(real, imag))
        >>> sizes.create("complex", real=1.0)
        (1+0j)
        """
        return self.build(name, options)

    def build(self, name: str, options: Mapping[str, Any]) -> T:
        """As `create`, with the options as a mapping."""
        return call(f"{self.kind} '{name}'", self.find(name).build, options)

    def names(self) -> list[str]:
        """The names of all registered parts, sorted; installed plugins count once they are loaded.

        >>> Registry("size").names()
        []
        """
        return list(self)

    def find(self, name: str) -> Part[T]:
        """The part called `name`.

        Raises:
            InputError: unknown name, with the near ones.
        """
        if name not in self:
            load_installed()
        if name not in self:
            raise InputError(f"unknown {self.kind} '{name}': {near_names(name, self)}")
        return self._parts[name]

    def describe(self, name: str) -> dict[str, Any]:
        """What a reader wants to know of a part, as plain types: summary, source, text, options with type and default.

        Raises:
            InputError: unknown name.

        >>> sizes: Registry[float] = Registry("size")
        >>> @sizes.register("half", "half of it")
        ... def half(of: float = 1.0) -> float:
        ...     return of / 2
        >>> sizes.describe("half")["options"]
        {'of': {'type': 'float', 'default': 1.0}}
        """
        part = self.find(name)
        return {
            "kind": self.kind,
            "name": name,
            "summary": part.summary,
            "source": part.source,
            "text": inspect.getdoc(part.build) or "",
            "options": {
                option: {"type": type_name(parameter.annotation)}
                | ({} if parameter.default is parameter.empty else {"default": parameter.default})
                for option, parameter in part.options.items()
            },
            "facts": dict(part.facts),
        }

    def _complete(self) -> None:
        if self._is_complete:
            return
        with needs(f"a {self.kind}", self.extra):
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
                importlib.import_module(module.name)
        self._is_complete = True

    def __getitem__(self, name: str) -> Part[T]:
        if name not in self._parts:
            self._complete()
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        self._complete()
        return iter(sorted(self._parts))

    def __len__(self) -> int:
        self._complete()
        return len(self._parts)


def _place(build: Callable[..., Any]) -> tuple[str, str]:
    return build.__module__, getattr(build, "__qualname__", repr(build))


def call(what: str, build: Callable[..., T], options: Mapping[str, Any]) -> T:
    """Calls `build(**options)` after it has checked names and types of the options.

    Raises:
        InputError: an option is not one of the builder's parameters, or of another type, or is refused by it.

    >>> def half(of: float) -> float:
    ...     return of / 2
    >>> call("size 'half'", half, {"off": 3})
    Traceback (most recent call last):
    segdistill.errors.InputError: size 'half' has no option 'off': did you mean 'of'?
    """
    known = options_of(build)
    try:
        return build(**fit_options(what, options, {name: each.annotation for name, each in known.items()}))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: {error}") from error


def fit_options(
    what: str, options: Mapping[str, Any], known: Mapping[str, Any], shown: Collection[str] | None = None
) -> dict[str, Any]:
    """The options as their annotations want them.

    Args:
        what: how messages call the part.
        options: name -> value.
        known: name -> annotation.
        shown: the names that a message lists; by default all known ones.

    Raises:
        InputError: an unknown option, or one of another type.

    >>> fit_options("size 'half'", {"of": 3}, {"of": float})
    {'of': 3.0}
    """
    for option in options:
        if option not in known:
            near = near_names(option, known if shown is None else shown)
            raise InputError(f"{what} has no option '{option}': {near}")
    return {
        option: fit_option(f"{what}: {option}", value, known[option]) for option, value in options.items()
    }


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
