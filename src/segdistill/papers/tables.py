"""The published figures that come with the package: one YAML per paper, checked when it is read."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, model_validator

from segdistill.config.schema import Strict
from segdistill.errors import InputError
from segdistill.registry import near_names


class PaperRow(Strict):
    """A row of a table, and the stage whose numbers stand beside it.

    `values` follow the table's metrics, null where the paper prints none; `spreads` are what it prints behind a
    plus-minus sign. `label` names the test cases that count: all, a class, or "site NAME"; several are taken together.
    A row without `stage` says in `not_run` why there is none. `external` names another dataset that the stage was
    evaluated on, into the folder external/NAME of the run.

    >>> PaperRow(name="KD", values=[0.765], not_run="no stage for this method").stage is None
    True
    """

    name: str
    stage: str | None = None
    label: str | list[str] = "all"
    values: list[float | None] | None = None
    spreads: list[float | None] | None = None
    not_run: str = ""
    external: str = ""

    @property
    def labels(self) -> list[str]:
        """The groups of test cases that count."""
        return [self.label] if isinstance(self.label, str) else list(self.label)

    @model_validator(mode="after")
    def _is_run_or_says_why(self) -> PaperRow:
        if (self.stage is None) == (not self.not_run):
            raise ValueError(f"row '{self.name}' needs a stage, or not_run with the reason")
        return self


class PaperPart(Strict):
    """A table, or the part of one that a recipe fills.

    A metric is a name of the summary ("dice", "voe_emkd"), or has the part of evaluation.json before a dot
    ("pooled.miou").
    """

    title: str
    recipe: str
    metrics: list[str] = Field(default_factory=list)
    rows: list[PaperRow] = Field(min_length=1)
    note: str = ""


class Paper(Strict):
    """All tables of a paper; `metrics` are those of the parts that name none."""

    title: str
    metrics: list[str] = Field(default_factory=list)
    tables: dict[str, list[PaperPart]] = Field(min_length=1)

    def metrics_of(self, part: PaperPart) -> list[str]:
        """The metrics of a table, in the order of its values."""
        return part.metrics or self.metrics

    @model_validator(mode="after")
    def _values_fit(self) -> Paper:
        for part in (part for parts in self.tables.values() for part in parts):
            metrics = self.metrics_of(part)
            for row in part.rows:
                for numbers in (row.values, row.spreads):
                    if numbers is not None and len(numbers) != len(metrics):
                        raise ValueError(f"{part.title}, row '{row.name}': {len(metrics)} values are due")
        return self


def published_papers() -> list[str]:
    """The papers whose tables are at hand.

    >>> "lightbtseg" in published_papers()
    True
    """
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read_paper(name: str) -> Paper:
    """The tables of a paper.

    Raises:
        InputError: unknown paper, or a file that does not say what it must.

    >>> read_paper("lightbtseg").title
    'LightBTSeg'
    """
    if name not in published_papers():
        raise InputError(f"unknown paper '{name}': {near_names(name, published_papers())}")
    content = yaml.safe_load((_folder() / f"{name}.yaml").read_text("utf-8"))
    try:
        return Paper.model_validate(content)
    except ValidationError as error:
        raise InputError(f"papers/{name}.yaml: {error.errors()[0]['msg']}") from error


def _folder() -> Path:
    return Path(str(resources.files("segdistill.papers")))
