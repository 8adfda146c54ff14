"""The published figures of the papers: one YAML per paper, checked when it is read."""

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

    >>> PaperRow(name="KD", values=[0.765], not_run="no stage for this method").stage is None
    True
    """

    name: str
    """Name of the row, as printed."""
    stage: str | None = None
    """The stage of the table's recipe, without a seed."""
    label: str | list[str] = "all"
    """Label, or labels, of the test cases that count."""
    site: str | None = None
    """Site of the test cases that count, instead of a label."""
    values: list[float | None] | None = None
    """Published numbers in the order of the metrics; null where none is printed."""
    spreads: list[float | None] | None = None
    """The numbers behind a plus-minus sign."""
    not_run: str = ""
    """Why there is no stage."""
    external: str = ""
    """Another dataset that the stage was evaluated on, by its name in `external` of the recipe."""

    @property
    def labels(self) -> list[str]:
        """The groups of test cases that count."""
        return [self.label] if isinstance(self.label, str) else list(self.label)

    @model_validator(mode="after")
    def _has_a_stage_or_a_reason(self) -> PaperRow:
        if (self.stage is None) == (not self.not_run):
            raise ValueError(f"row '{self.name}' needs a stage, or not_run with the reason")
        return self


class PaperPart(Strict):
    """A table, or the part of one that a recipe fills."""

    title: str
    """Title of the table."""
    recipe: str
    """Recipe that fills it."""
    metrics: list[str] = Field(default_factory=list)
    """Names of the summary (dice), or of another part of evaluation.json (pooled.miou)."""
    rows: list[PaperRow] = Field(min_length=1)
    """The rows."""
    note: str = ""
    """What a reader should know."""


class Paper(Strict):
    """All tables of a paper."""

    title: str
    """Short name of the paper."""
    metrics: list[str] = Field(default_factory=list)
    """Metrics of the parts that name none."""
    tables: dict[str, list[PaperPart]] = Field(min_length=1)
    """Number of a table -> its parts."""

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
                        raise ValueError(f"{part.title}, row '{row.name}': {len(metrics)} values are needed")
        return self


def published_papers() -> list[str]:
    """The papers whose tables are in the package.

    >>> "lightbtseg" in published_papers()
    True
    """
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read_paper(name: str) -> Paper:
    """The tables of a paper.

    Raises:
        InputError: unknown paper, or a damaged file.

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
