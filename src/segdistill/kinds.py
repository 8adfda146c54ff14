"""The kinds of parts, in one table: the front door, the registries and `segdistill list` all read it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from segdistill.errors import InputError, needs
from segdistill.registry import Registry, near_names


@dataclass(frozen=True)
class Kind:
    """One kind of part.

    Attributes:
        name: of one part, in Python and in messages.
        plural: as `segdistill list` takes it.
        module: has the registry under the plural in capitals, and the functions create_, register_ and list_.
        extra: the extra of pip that its parts need; "" for none.
    """

    name: str
    plural: str
    module: str
    extra: str = ""

    @property
    def functions(self) -> tuple[str, str, str]:
        """What builds a part, what registers one, and what lists the names.

        >>> KINDS["loss"].functions
        ('create_loss', 'register_loss', 'list_losses')
        """
        return f"create_{self.name}", f"register_{self.name}", f"list_{self.plural}"

    def registry(self) -> Registry[Any]:
        """Its registry; imports it.

        Raises:
            MissingExtra: a dependency of the module is not installed.

        >>> "phantom" in KINDS["dataset"].registry()
        True
        """
        with needs(f"a {self.name}", self.extra):
            registry: Registry[Any] = getattr(importlib.import_module(self.module), self.plural.upper())
        return registry


KINDS = {
    kind.name: kind
    for kind in (
        Kind("network", "networks", "segdistill.models.registry", "train"),
        Kind("loss", "losses", "segdistill.losses.base", "train"),
        Kind("method", "methods", "segdistill.distillation.base", "train"),
        Kind("weighting", "weightings", "segdistill.distillation.weighting", "train"),
        Kind("metric", "metrics", "segdistill.metrics.base"),
        Kind("dataset", "datasets", "segdistill.data.datasets"),
        Kind("report_section", "report_sections", "segdistill.report.sections", "report"),
    )
}

FUNCTIONS = {
    "run": ("segdistill.experiment.run", "train"),
    "shrink": ("segdistill.experiment.shrink", "train"),
    "evaluate": ("segdistill.experiment.evaluate", ""),
    "compare": ("segdistill.experiment.compare", ""),
    "predict": ("segdistill.experiment.model", ""),
    "load_model": ("segdistill.experiment.model", ""),
    **{function: (kind.module, kind.extra) for kind in KINDS.values() for function in kind.functions},
}
"""The front door: name of a function -> its module, and the extra that this needs."""


def find_kind(plural: str, more: tuple[str, ...] = ()) -> Kind:
    """The kind that a command names in the plural.

    Args:
        plural: such as "networks".
        more: further names for the message.

    Raises:
        InputError: there is none.

    >>> find_kind("losses").name
    'loss'
    """
    found = {kind.plural: kind for kind in KINDS.values()}
    if plural not in found:
        raise InputError(f"unknown kind '{plural}': {near_names(plural, [*found, *more])}")
    return found[plural]
