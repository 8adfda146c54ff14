"""Results by subgroup: class, site, and size of the lesion in thirds, each with its number of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segdistill.metrics.cases import CaseResult
from segdistill.records import Interval
from segdistill.stats.bootstrap import PairedDifference, bootstrap_mean, paired_difference
from segdistill.stats.text import number


@dataclass(frozen=True)
class Subgroup:
    """Cases that share something: `kind` is "class", "site" or "size", `name` the value."""

    kind: str
    name: str
    cases: tuple[CaseResult, ...]

    @property
    def groups(self) -> int:
        """Number of groups (patients) behind the cases."""
        return len({r.group for r in self.cases})

    def score(self, metric: str = "dice", seed: int = 0) -> Interval:
        """Mean of a metric with its interval over groups."""
        return bootstrap_mean(
            [r.metrics[metric] for r in self.cases], [r.group for r in self.cases], seed=seed
        )

    def difference(self, a: Mapping[str, float], b: Mapping[str, float], seed: int = 0) -> PairedDifference:
        """Mean a - b of scores by case id, over these cases."""
        return paired_difference(
            [a[r.case] for r in self.cases],
            [b[r.case] for r in self.cases],
            [r.group for r in self.cases],
            seed=seed,
        )


def subgroups(results: Sequence[CaseResult]) -> list[Subgroup]:
    """The subgroups of the cases with something to find, without kinds that have only one.

    Sizes are thirds by the reference's share of the image; equal sizes are never divided.

    >>> rows = [CaseResult(str(k), str(k), "ab"[k % 2], reference_area=0.1 * (k + 1)) for k in range(6)]
    >>> [(s.kind, s.name, len(s.cases)) for s in subgroups(rows)][:3]
    [('class', 'a', 3), ('class', 'b', 3), ('size', 'small, up to 26.7 %', 2)]
    """
    rows = [r for r in results if not r.normal]
    found: list[Subgroup] = []
    for kind, attribute in (("class", "label"), ("site", "site")):
        names = sorted({getattr(r, attribute) for r in rows})
        if len(names) > 1:
            found += [
                Subgroup(kind, name or "not given", tuple(r for r in rows if getattr(r, attribute) == name))
                for name in names
            ]
    return found + _thirds(rows)


def _thirds(rows: list[CaseResult]) -> list[Subgroup]:
    if len(rows) < 3:
        return []
    areas = np.array([r.reference_area for r in rows])
    first, second = np.quantile(areas, [1 / 3, 2 / 3])
    names = (
        f"small, up to {_percent(first)}",
        f"medium, up to {_percent(second)}",
        f"large, above {_percent(second)}",
    )
    third = np.where(areas <= first, 0, np.where(areas <= second, 1, 2))
    parts = [
        Subgroup("size", name, tuple(r for r, t in zip(rows, third, strict=True) if t == k))
        for k, name in enumerate(names)
    ]
    filled = [part for part in parts if part.cases]
    return filled if len(filled) > 1 else []


def _percent(share: float) -> str:
    return f"{number(100 * share, 1)} %"
