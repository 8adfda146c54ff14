"""The published figures of the papers: one YAML per paper, checked when it is read."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from segdistill.config.schema import Strict
from segdistill.errors import InputError
from segdistill.registry import near_names

Size = Literal["paper", "cpu"]
"""The paper's image size, or a smaller one for processor cores."""


class Source(NamedTuple):
    """Where a number comes from: a stage of a recipe, without its seed."""

    recipe: str
    stage: str


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Sources = Annotated[list[str], BeforeValidator(_listed)]


class Figure(Strict):
    """A figure of a paper, drawn from the rows of a table; rows of several tables of one figure stand in one chart.

    >>> Figure(name="Fig. 2").kind
    'bars'
    """

    name: str
    """Its name in the paper."""
    kind: Literal["bars", "lines", "cases", "overlay"] = "bars"
    """Bars of each row; lines over `at` of the rows; every test case as a dot; or test images with the rows' masks."""
    metrics: list[str] | None = None
    """What it shows, a chart each; by default all metrics of the table."""
    x: str = ""
    """Of lines: what `at` of the rows is."""


class PaperRow(Strict):
    """A row of a table, and the stages whose numbers stand beside it.

    >>> PaperRow(name="KD", values=[0.765], not_run="private data").stage
    []
    >>> PaperRow(name="KD", stage="kd").sources("paper", "amtd/methods")
    [Source(recipe='amtd/methods', stage='kd')]
    """

    name: str
    """Name of the row, as printed."""
    stage: Sources = Field(default_factory=list)
    """Its stages at the paper's size: STAGE of the table's recipe, or RECIPE:STAGE. The first one is what a command
    trains; numbers of the others are taken where it has none."""
    cpu: Sources | None = None
    """The same at CPU size, of the table's `cpu` recipe; by default the stages of the same names there."""
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
    line: str = ""
    """Its line in a figure of lines."""
    at: float | None = None
    """Its place on that line."""
    network: str = ""
    """Its network in the papers' cost tables (papers/costs.py), NAME or NAME/PRESET: for cost columns."""

    @property
    def labels(self) -> list[str]:
        """The groups of test cases that count."""
        return [self.label] if isinstance(self.label, str) else list(self.label)

    def sources(self, size: Size, recipe: str) -> list[Source]:
        """Its stages at a size, where plain names are those of `recipe`; the first one is what a command trains."""
        named = self.stage
        if size == "cpu":
            named = [name for name in self.stage if ":" not in name] if self.cpu is None else self.cpu
        split = [name.rpartition(":") for name in named]
        return [Source(own or recipe, stage) for own, _, stage in split if own or recipe]

    @model_validator(mode="after")
    def _has_a_stage_or_a_reason(self) -> PaperRow:
        if bool(self.stage or self.cpu or self.network) == bool(self.not_run):
            raise ValueError(f"row '{self.name}' needs a stage, or not_run with the reason")
        return self


class PaperPart(Strict):
    """A table, or the part of one that a recipe fills."""

    title: str
    """Title of the table."""
    recipe: str = ""
    """Recipe that fills it at the paper's size."""
    cpu: str = ""
    """Recipe that fills it at CPU size."""
    set: dict[str, int] = Field(default_factory=dict)
    """Changes of `recipe`, such as {size: 512}."""
    cpu_set: dict[str, int] = Field(default_factory=dict)
    """Changes of `cpu`."""
    metrics: list[str] | None = None
    """Names of the summary (dice), or of another part of evaluation.json (pooled.miou), or `training.slices`; empty for
    a table of costs; by default those of the paper."""
    reference: str = ""
    """Row that the paper's t-test compares the others with, one-sided."""
    rows: list[PaperRow] = Field(min_length=1)
    """The rows."""
    figures: list[Figure] = Field(default_factory=list)
    """The paper's figures of these rows."""
    note: str = ""
    """What a reader should know."""


class Paper(Strict):
    """All tables of a paper."""

    title: str
    """Short name of the paper."""
    metrics: list[str] = Field(default_factory=list)
    """Metrics of the parts that name none."""
    spread: Literal["sd", "t_interval"] = "sd"
    """What stands behind its plus-minus signs, and behind ours: the standard deviation over trainings and folds, or
    the half-width of the 95 % interval of Student's t."""
    tables: dict[str, list[PaperPart]] = Field(min_length=1)
    """Number of a table -> its parts."""

    def metrics_of(self, part: PaperPart) -> list[str]:
        """The metrics of a table, in the order of its values."""
        return self.metrics if part.metrics is None else part.metrics

    @model_validator(mode="after")
    def _values_fit(self) -> Paper:
        for part in (part for parts in self.tables.values() for part in parts):
            metrics = self.metrics_of(part)
            names = [row.name for row in part.rows]
            if part.reference and part.reference not in names:
                raise ValueError(f"{part.title}: reference: no row '{part.reference}'")
            unknown = {name for figure in part.figures for name in figure.metrics or []} - set(metrics)
            if unknown:
                raise ValueError(
                    f"{part.title}: figures: the table has no metric {', '.join(sorted(unknown))}"
                )
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
