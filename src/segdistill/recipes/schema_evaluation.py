"""What a recipe says of its evaluation: what is measured beside the usual metrics, and where a mask begins."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from segdistill.evaluation.results import EXTRA_METRICS
from segdistill.recipes.schema_base import Strict
from segdistill.registry import near_names


class EvaluationRecipe(Strict):
    """How every stage is measured on the test cases.

    `metrics` are measured per case beside Dice, IoU, precision, recall and accuracy. `pooled` adds accuracy,
    sensitivity, F1, two-class mIoU and AUC over all pixels of the set, as vessel papers report them. `threshold` is
    the probability above which a pixel is foreground, in the evaluation and in the model file alike. `calibration`
    asks whether probabilities mean what they say, over all pixels and near the boundary. `robustness` measures Dice on
    disturbed images, ten more passes over the test cases: of all stages, or of those in a list. `margin` is the
    loss in Dice that would be accepted for a student that is cheaper to train, stated before training: whether a
    larger one can be excluded stands in the verdicts.

    >>> EvaluationRecipe(metrics=["voe_emkd", "hd95"], pooled=True).threshold
    0.5
    """

    metrics: list[str] = Field(default_factory=list)
    pooled: bool = False
    threshold: float = Field(default=0.5, gt=0, lt=1)
    calibration: bool = False
    robustness: bool | list[str] = False
    margin: float | None = Field(default=None, gt=0, lt=1)

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in EXTRA_METRICS:
                raise ValueError(f"unknown metric '{name}': {near_names(name, EXTRA_METRICS)}")
        return list(dict.fromkeys(names))

    @property
    def needs_scores(self) -> bool:
        """Whether probabilities are measured, not masks alone."""
        return self.pooled or self.calibration or "rmse_map" in self.metrics

    @property
    def disturbed(self) -> list[str]:
        """The stages that `robustness` names; none where it is for all or for none."""
        return [] if isinstance(self.robustness, bool) else self.robustness

    def disturbs(self, stage: str) -> bool:
        """Whether a stage is also measured on disturbed images.

        >>> EvaluationRecipe(robustness=["student"]).disturbs("teacher")
        False
        """
        return self.robustness if isinstance(self.robustness, bool) else stage in self.robustness

    def facts(self) -> dict[str, Any]:
        """What decides the results of all stages; fields that came later are left out at their defaults.

        >>> EvaluationRecipe(margin=0.02).facts() == EvaluationRecipe().facts()
        True
        """
        late = {"margin", "robustness"} | (set() if self.calibration else {"calibration"})
        return self.model_dump(mode="json", exclude=late)
