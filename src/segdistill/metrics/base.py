"""Metrics by name: what is measured of one case, which direction is better, and how tables show it.

A metric is a function of a `Pair`. Register it with one line, in this package or in a plugin:

    @register_metric("volume_error", higher_is_better=False, label="Volume error", unit="pixels")
    def volume_error(pair: Pair) -> float:
        return abs(int(pair.prediction.sum()) - int(pair.reference.sum()))

From then on its name works in `--metrics`, in `evaluation.metrics` of a recipe, in metrics.csv, `compare --metric` and
reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.registry import B, Registry

T = TypeVar("T")
LENGTH = "length"
"""As `unit` of a metric: mm where the size of a pixel is known, else px."""
LENGTH_UNITS = ("mm", "px")


class Counts(NamedTuple):
    """Pixels of the confusion table: true and false positives, false and true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


class Pair:
    """A predicted mask and its reference, 2-D or 3-D: what a metric gets.

    Args:
        prediction: (H, W) or (D, H, W), foreground where not zero.
        reference: of the same shape.
        probability: of foreground, 0 to 1, of the same shape; None: not known.
        spacing: distance between neighbours along each axis in mm; None: not known.

    Raises:
        ValueError: the shapes differ.

    >>> Pair(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]])).counts
    Counts(tp=1, fp=1, fn=1, tn=1)
    """

    def __init__(
        self,
        prediction: NDArray[Any],
        reference: NDArray[Any],
        probability: NDArray[Any] | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        self.prediction: NDArray[np.bool_] = np.asarray(prediction) != 0
        self.reference: NDArray[np.bool_] = np.asarray(reference) != 0
        if self.prediction.shape != self.reference.shape:
            raise ValueError(
                f"prediction has shape {self.prediction.shape}, reference {self.reference.shape}: they must be equal"
            )
        self.probability, self.spacing = probability, spacing
        self._shared: dict[Any, Any] = {}

    @cached_property
    def counts(self) -> Counts:
        """The confusion table."""
        p, r = self.prediction, self.reference
        tp, positives, references = (int(np.count_nonzero(x)) for x in (p & r, p, r))
        return Counts(tp, positives - tp, references - tp, p.size - positives - references + tp)

    def shared(self, compute: Callable[[Pair], T]) -> T:
        """`compute(pair)`, computed once for all metrics that need it."""
        if compute not in self._shared:
            self._shared[compute] = compute(self)
        found: T = self._shared[compute]
        return found


@dataclass(frozen=True)
class Metric:
    """A measure of quality, with its direction.

    Attributes:
        name: in options, recipes and files.
        function: what measures it: of a registered metric a function of a `Pair`.
        higher_is_better: its direction.
        label: its name for readers.
        unit: "" none; `LENGTH`; or any other, such as "ml".
        digits: decimals to show.
        always: whether every evaluation measures it.
        needs_probability: whether a mask alone is not enough.
        note: a sentence that a table shows with it.

    >>> from segdistill.metrics import overlap
    >>> dice = METRICS.create("dice")
    >>> dice.higher_is_better, dice(np.array([1, 1, 0]), np.array([1, 0, 0]))
    (True, 0.6666666666666666)
    """

    name: str
    function: Callable[..., Any]
    higher_is_better: bool
    label: str
    unit: str = ""
    digits: int = 3
    always: bool = False
    needs_probability: bool = False
    note: str = ""

    def __call__(self, prediction: NDArray[Any], reference: NDArray[Any], **known: Any) -> float:
        """The metric of two masks; `known`: probability, spacing (see `Pair`)."""
        return float(self.function(Pair(prediction, reference, **known)))


class MetricRegistry(Registry[Metric]):
    """The metrics of one case: a name without a direction cannot be registered.

    >>> @METRICS.register("size", label="Size")  # doctest: +ELLIPSIS
    ... def size(pair: Pair) -> float:
    ...     return 0.0
    Traceback (most recent call last):
    segdistill.errors.InputError: metric 'size' has no direction: register it with higher_is_better=True or False, ...
    """

    def register(
        self,
        name: str,
        summary: str = "",
        *,
        higher_is_better: bool | None = None,
        label: str = "",
        unit: str = "",
        digits: int = 3,
        always: bool = False,
        needs_probability: bool = False,
        note: str = "",
        **facts: Any,
    ) -> Callable[[B], B]:
        """Decorator that registers a function of a `Pair`; the options are the attributes of `Metric`.

        Raises:
            InputError: no direction, an unknown option, or another metric has that name.
        """
        if not isinstance(higher_is_better, bool) or facts:
            wrong = f"no option '{next(iter(facts))}'" if facts else "no direction"
            raise InputError(
                f"metric '{name}' has {wrong}: register it with higher_is_better=True or False, and label, unit, "
                "digits, needs_probability or note"
            )

        def add(function: B) -> B:
            metric = Metric(
                name, function, higher_is_better, label or name, unit, digits, always, needs_probability, note
            )

            def create() -> Metric:
                return metric

            for copied in ("__module__", "__qualname__", "__doc__"):
                setattr(create, copied, getattr(function, copied))
            shown = {
                "higher_is_better": higher_is_better,
                "label": metric.label,
                "unit": unit,
                "always": always,
            }
            super(MetricRegistry, self).register(name, summary, **shown)(create)
            return function

        return add

    def always(self) -> list[str]:
        """The names of those that every evaluation measures.

        >>> METRICS.always()
        ['dice', 'iou', 'precision', 'recall', 'accuracy']
        """
        self._complete()
        return [name for name, part in self._parts.items() if part.facts["always"]]  # as registered

    def optional(self, names: Iterable[str]) -> list[str]:
        """The names, each once, without those that are always measured.

        Raises:
            InputError: an unknown name.

        >>> METRICS.optional(["dice", "hd95", "hd95"])
        ['hd95']
        """
        return [name for name in dict.fromkeys(names) if not self.create(name).always]

    def need_probability(self, names: Iterable[str]) -> bool:
        """Whether one of these metrics needs more than masks."""
        return any(self.create(name).needs_probability for name in names)


METRICS = MetricRegistry("metric", "segdistill.metrics")
create_metric, register_metric, list_metrics = METRICS.create, METRICS.register, METRICS.names
