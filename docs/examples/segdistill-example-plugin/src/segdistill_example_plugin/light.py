"""The parts that need no torch: a metric, a dataset and a report section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdistill import register_dataset, register_metric, register_report_section
from segdistill.data.case import Case

if TYPE_CHECKING:
    from segdistill.metrics.base import Pair
    from segdistill.report.context import Context


@register_metric("example_area_error", higher_is_better=False, label="Area error", unit="px", digits=0)
def area_error(pair: Pair) -> float:
    """Difference of the areas in pixels."""
    return float(abs(int(pair.prediction.sum()) - int(pair.reference.sum())))


@register_dataset(
    "example_pairs",
    "Pictures NAME.png beside their masks NAME.mask.png",
    how_to_get="Put pictures and masks of your own into one folder.",
)
def pairs(path: Path, suffix: str = ".mask.png") -> list[Case]:
    """One case per mask.

    Args:
        path: the folder.
        suffix: end of the masks' names.

    Raises:
        InputError: no mask is there.
    """
    from segdistill.errors import InputError

    masks = sorted(path.glob(f"*{suffix}"))
    if not masks:
        raise InputError(f"{path}: no file ends in {suffix}: give the folder with pictures and masks")
    names = [mask.name.removesuffix(suffix) for mask in masks]
    return [Case(name, path / f"{name}.png", (mask,)) for name, mask in zip(names, masks, strict=True)]


@register_report_section("example_smallest", "Smallest network", template="<p>{{ name }}</p>", order=115)
def smallest(context: Context) -> dict[str, Any] | None:
    """The network with the fewest parameters."""
    known = [network for network in context.trainings if network.stage.cost.parameters is not None]
    return {"name": min(known, key=lambda network: network.stage.cost.parameters).name} if known else None
