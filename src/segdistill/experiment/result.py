"""A trained stage, and everything that a run left: metrics, verdict, report and model file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from torch import nn

from segdistill.errors import InputError
from segdistill.experiment.export import model_info
from segdistill.experiment.results import (
    EXTERNAL,
    FOLDS_FILE,
    NOTHING_TESTED,
    evaluations,
    fold_folder,
    read_folds,
    read_recipe,
    run_summary,
    variants_table,
)
from segdistill.experiment.stage import find_stage, load_stage
from segdistill.metrics.cases import METRICS_FILE, read_metrics_csv
from segdistill.records import EvaluationRecord, RunRecord, StageRecord
from segdistill.registry import near_names
from segdistill.runtime.predictor import Predictor
from segdistill.stats.verdict import Verdict
from segdistill.training.inference import TorchEngine
from segdistill.training.loop import WEIGHTS

REPORT, MODEL_FILE = "report.html", "model.onnx"


class Stage(Predictor):
    """A trained stage of a run: segments pictures and volumes with torch on the CPU.

    Args:
        folder: of the stage.
        threshold: probability above which a pixel is foreground; None for that of the stage.

    Attributes:
        name: of the stage.
        record: role, settings of the network, training.

    Raises:
        InputError: no finished stage, or its network is not part of segdistill and the user has not named its code.

    >>> Stage(Path("nowhere"))
    Traceback (most recent call last):
    segdistill.errors.InputError: nowhere holds no trained stage: give the folder of a run or of a stage
    """

    def __init__(self, folder: Path, threshold: float | None = None) -> None:
        trained = load_stage(folder)
        self.folder, self.name, self.record = folder, trained.name, trained.record
        self._network = trained.network
        engine = TorchEngine(trained.network, model_info(trained))
        super().__init__(engine, threshold=threshold, weights=folder / WEIGHTS)

    def network(self) -> nn.Module:
        """The trained network, in eval mode: images (B, C, H, W) -> `models.network.Output`."""
        return self._network


@dataclass(frozen=True)
class RunResult:
    """A run folder as an object; nothing is read before it is used.

    Attributes:
        folder: of the run.
        failed: which trainings failed, and why; "" for none.

    >>> RunResult(Path("nowhere")).model_file is None
    True
    """

    folder: Path
    failed: str = ""

    @property
    def report(self) -> Path:
        """The report, an HTML page that needs no other file."""
        return self.folder / REPORT

    @property
    def model_file(self) -> Path | None:
        """The exported model file; None where the recipe exports no stage."""
        path = self.folder / MODEL_FILE
        return path if path.exists() else None

    @cached_property
    def records(self) -> dict[str, tuple[StageRecord, EvaluationRecord]]:
        """Name of each evaluated stage -> its records; of a cross-validation "fold-1/NAME" and so on.

        Raises:
            InputError: a record is damaged or of a newer version.
        """
        folds = read_folds(self.folder).get("finished", [])
        runs = {f"fold-{fold}/": fold_folder(self.folder, fold) for fold in folds} or {"": self.folder}
        return {
            f"{prefix}{name}": (record, evaluation)
            for prefix, run in runs.items()
            for name, evaluation in evaluations(run).items()
            if (record := StageRecord.read(run / "stages" / name)) is not None
        }

    def stage(self, name: str) -> Stage:
        """A trained stage by its name in `records`; loads its network.

        Raises:
            InputError: unknown name, with the near ones.
        """
        if name not in self.records:
            raise InputError(f"{self.folder} has no stage '{name}': {near_names(name, self.records)}")
        fold, _, stage = name.rpartition("/")
        return Stage(find_stage(self.folder / fold, stage))

    @cached_property
    def student(self) -> Stage:
        """The exported stage; where none is exported, the only student.

        Raises:
            InputError: there are several, or none.
        """
        students = [name for name, (record, _) in self.records.items() if record.role == "student"]
        record = RunRecord.read(self.folder)
        name = (record and record.export) or (students[0] if len(students) == 1 else "")
        if not name:
            known = ", ".join(students or self.records) or "none"
            raise InputError(f"{self.folder} exports no stage: choose one with .stage(NAME): {known}")
        return self.stage(name)

    def summary(self) -> dict[str, Any]:
        """Results of every stage as plain types, for JSON."""
        return run_summary(self.folder)

    def lines(self) -> list[str]:
        """Results for a terminal: one line per stage, and one per variant that was trained with several seeds."""
        stages = read_recipe(self.folder).get("stages", {})
        variants: dict[str, list[str]] = {}
        for name, stage in stages.items() if not (self.folder / FOLDS_FILE).exists() else ():
            if stage.get("variant") is not None:
                variants.setdefault(stage["variant"], []).append(name)
        seeds = {name for names in variants.values() for name in names}
        found = run_summary(self.folder)["stages"]
        lines = [f"{name:24}{stage['line']}" for name, stage in found.items() if name not in seeds]
        lines += [f"{f'{name} at {table}':24}{line}" for name, table, line in self._lines_elsewhere()]
        lines += variants_table(self.folder, variants) if variants else []
        lines.append(f"report      {self.report}")
        return [*lines, f"model file  {self.model_file}"] if self.model_file is not None else lines

    def _lines_elsewhere(self) -> list[tuple[str, str, str]]:
        """(stage, table from elsewhere, line) of all that was measured there."""
        summary = run_summary(self.folder)
        of_folds = [
            (name, table, stage["line"])
            for table, found in summary.get(EXTERNAL, {}).items()
            for name, stage in found["stages"].items()
        ]
        own = [
            (name, table, found["line"])
            for name, stage in summary["stages"].items()
            for table, found in stage.get(EXTERNAL, {}).items()
        ]
        return of_folds or own

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One row per stage and test case: stage, role, case, group, label, site, and the metrics by name."""
        return [
            {
                "stage": name,
                "role": record.role,
                "case": row.case,
                "group": row.group,
                "label": row.label,
                "site": row.site,
            }
            | row.metrics
            for name, (record, _) in self.records.items()
            for row in read_metrics_csv(self._stage_folder(name) / METRICS_FILE)
        ]

    @property
    def verdict(self) -> Verdict | None:
        """Whether the student is better than the same student without teachers; None: see `verdict_reason`."""
        return self._verdict[0]

    @property
    def verdict_reason(self) -> str:
        """Why there is no verdict; "" where there is one."""
        return self._verdict[1]

    @cached_property
    def _verdict(self) -> tuple[Verdict | None, str]:
        record = RunRecord.read(self.folder)
        crossed = read_folds(self.folder).get("verdicts", [])
        found = [Verdict.from_dict(facts) for facts in (record.verdicts if record else crossed)]
        exported = self.records.get((record and record.export) or "")
        own = [each for each in found if exported is not None and each.variant == exported[0].variant]
        best = sorted(own or found, key=lambda each: (not each.same_student, each.kind != "equal steps"))
        if best:
            return best[0], ""
        if self.records and not any(one.cases or one.classification for _, one in self.records.values()):
            return None, NOTHING_TESTED
        roles = {stage.role for stage, _ in self.records.values()}
        if "student" not in roles:
            return None, "no stage is a student: distil one (task: distillation)"
        return None, "no stage is a baseline: also train the student without teachers (role: baseline)"

    def _stage_folder(self, name: str) -> Path:
        fold, _, stage = name.rpartition("/")
        return self.folder / fold / "stages" / stage

    def _repr_html_(self) -> str:
        """A small table and a link to the report, for notebooks."""
        rows = []
        for name, (record, evaluation) in self.records.items():
            dice, parameters = evaluation.score("dice"), evaluation.cost.parameters
            mean = "-" if dice is None or dice.mean is None else f"{dice.mean:.3f}"
            if dice is not None and dice.low is not None:
                mean += f" [{dice.low:.3f}, {dice.high:.3f}]"
            size = "-" if parameters is None else f"{parameters / 1e6:.2f} M"
            rows.append((name, record.role, mean, size))
        cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        heads = "".join(
            f"<th>{head}</th>" for head in ("stage", "role", "Dice [95 % interval]", "parameters")
        )
        verdict = escape(self.verdict_reason if self.verdict is None else str(self.verdict))
        link = f'<a href="{escape(self.report.absolute().as_uri())}">{escape(str(self.report))}</a>'
        return f"<table><tr>{heads}</tr>{cells}</table><p>{verdict}</p><p>{link}</p>"
