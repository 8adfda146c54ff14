"""What this machine runs model files with, and whether they give here what they gave where they were exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segdistill.errors import InputError, MissingExtra
from segdistill.files import shown
from segdistill.runtime.engine import ENGINES, Engine, interleaved_milliseconds
from segdistill.runtime.machine import FAST_INT8, instruction_sets, machine, usable_cores, versions
from segdistill.runtime.self_test import SelfTest, run_self_test


@dataclass(frozen=True)
class Finding:
    """One model file with one engine.

    Attributes:
        model, engine: which.
        test: None: the file has no self-test, or the engine does not run it.
        problem: why the engine does not run it; "" where it does.
        ms: number of threads -> median milliseconds of one input.
    """

    model: str
    engine: str
    test: SelfTest | None = None
    problem: str = ""
    ms: dict[int, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """In one line."""
        head = f"{shown(self.model)}, {self.engine}:"
        if self.problem:
            return f"{head} {shown(self.problem)}"
        times = ", ".join(
            f"{ms:.1f} ms with {count} thread{'s' * (count > 1)}" for count, ms in self.ms.items()
        )
        if self.test is None:
            return f"{head} no self-test in the file (export it again), {times}"
        word = "passed" if self.test.passed else "FAILED"
        return (
            f"{head} self-test {word} (probability differs by {self.test.probability:.2g}, area by "
            f"{self.test.area:.2g}, allowed {self.test.tolerance:g}), {times}"
        )


@dataclass(frozen=True)
class Examination:
    """What `segdistill doctor` found.

    Attributes:
        machine: name -> value.
        instructions: see `machine.instruction_sets`.
        engines: name -> version, or "not installed".
        threads: that a model file uses by default.
        findings: one per model file and installed engine.
    """

    machine: dict[str, str]
    instructions: list[str] | None
    engines: dict[str, str]
    threads: int
    findings: list[Finding]

    @property
    def failed(self) -> list[Finding]:
        """Those that do not run, or give something else than where they were exported."""
        return [one for one in self.findings if one.problem or (one.test is not None and not one.test.passed)]

    def choice(self, model: str) -> tuple[str, int] | None:
        """Engine and threads that run a model file fastest here, of those that pass; None where none does."""
        times = {
            (one.engine, count): ms
            for one in self.findings
            if one.model == model and one not in self.failed
            for count, ms in one.ms.items()
        }
        return min(times, key=times.__getitem__) if times else None

    def lines(self) -> list[str]:
        """For a terminal."""
        known = (
            "not listed by this system"
            if self.instructions is None
            else ", ".join(self.instructions) or "none"
        )
        found = [f"{name:14}{value}" for name, value in self.machine.items()]
        found += [f"{'instructions':14}{known}"]
        if self.instructions is not None and not set(FAST_INT8) & set(self.instructions):
            found += [
                f"{'int8':14}slow, and sums may saturate: the processor has none of {', '.join(FAST_INT8)}"
            ]
        for name, version in self.engines.items():
            extra = ENGINES[name][0]
            hint = f": pip install 'segdistill[{extra}]'" if version == "not installed" else ""
            found += [f"{'engine':14}{name} {version}{hint}"]
        found += [f"{'threads':14}{self.threads} (--threads of predict changes it)"]
        found += [str(one) for one in self.findings]
        for model in dict.fromkeys(one.model for one in self.findings):
            chosen = self.choice(model)
            if chosen is not None:
                found.append(f"fastest for {shown(model)}: --engine {chosen[0]} --threads {chosen[1]}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON."""
        choices = {one.model: self.choice(one.model) for one in self.findings}
        names = ("engine", "threads")
        findings = [
            asdict(one) | {"passed": one.test.passed if one.test is not None else None}
            for one in self.findings
        ]
        chosen = {model: dict(zip(names, found, strict=True)) for model, found in choices.items() if found}
        return {**asdict(self), "findings": findings, "fastest": chosen}


def examine(models: Sequence[str | Path] = ()) -> Examination:
    """Looks at the machine, its engines, and at model files with each of them.

    Args:
        models: model files.

    Raises:
        InputError: not a model file of ours.

    >>> examine().engines["onnxruntime"] != "not installed"
    True
    """
    cores = usable_cores()
    engines = versions(ENGINES)
    findings = [
        _examine(Path(model), name, cores)
        for model in models
        for name, version in engines.items()
        if version != "not installed"
    ]
    return Examination(machine(), instruction_sets(), engines, cores, findings)


def _examine(model: Path, name: str, cores: int) -> Finding:
    counts = sorted({1, cores})
    try:
        engines = [Engine(model, threads, name) for threads in counts]
        stated, is_int8 = engines[0].info.self_test, "int8" in engines[0].info.provenance
        test = run_self_test(engines[0], stated, is_int8) if stated else None
        times = interleaved_milliseconds(engines)
    except MissingExtra:
        raise
    except InputError as error:
        if name == next(iter(ENGINES)):  # the base engine refuses what is no model file
            raise
        return Finding(str(model), name, problem=str(error))
    return Finding(str(model), name, test, ms=dict(zip(counts, times, strict=True)))
