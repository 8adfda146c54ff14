"""Matrix recipes: students x teachers x methods x seeds, written out as ordinary stages before anything is checked."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from segdistill.config.schema import merge
from segdistill.errors import InputError
from segdistill.registry import near_names

AXES = ("students", "teachers", "methods", "seeds")


def expand_matrix(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's content whose `matrix` has become stages; without one it stays as it is.

    A cell is a method on a student with a seed, called METHOD@SEED, and STUDENT-METHOD@SEED where there are several
    students. A method with method that names no teachers is taken with each of the matrix's teachers, and called
    METHOD-TEACHER then where there are several. A method without method is the baseline. Each teacher is one
    stage, trained once. In a method's words {student} and {teacher} stand for the names of its cell, and
    `equal_time_to` for another method.

    Raises:
        InputError: an axis is missing or unknown, names clash, or seeds repeat.

    >>> matrix = {
    ...     "students": {"unet": {"model": {"name": "unet"}}},
    ...     "teachers": {"big": {"model": {"name": "unet"}}},
    ...     "methods": {"baseline": {}, "kd": {"methods": [{"name": "soft_prediction"}]}},
    ...     "seeds": [0, 1],
    ... }
    >>> stages = expand_matrix({"matrix": matrix})["stages"]
    >>> list(stages)
    ['big', 'alone@0', 'kd@0', 'alone@1', 'kd@1']
    >>> stages["kd@1"]["teachers"], stages["kd@1"]["seed"], stages["baseline@0"]["role"]
    ([{'stage': 'big'}], 1, 'baseline')
    """
    matrix = content.get("matrix")
    rest = {key: value for key, value in content.items() if key != "matrix"}
    if matrix is None:
        return rest
    students, teachers, methods, seeds = _axes(matrix)
    stages: dict[str, Any] = {name: {"role": "teacher", **stage} for name, stage in teachers.items()}
    own = {} if rest.get("stages") is None else rest["stages"]
    if not isinstance(own, dict):
        return rest  # the schema refuses it
    cells: dict[str, Any] = {}
    for seed, student, method in product(seeds, students, methods):  # stopped early, whole seeds are there
        for name, cell in _cells(method, student, seed, methods, students, teachers, seeds):
            if name in cells:
                raise InputError(f"matrix: two cells are called '{name}': rename a method or a student")
            cells[name] = cell
    clash = next((name for name in own if name in stages or name in cells), None)
    if clash is not None:
        raise InputError(f"matrix: '{clash}' is also a stage of its own: rename one of them")
    return rest | {"stages": _ordered(stages | own | cells)}


def _axes(matrix: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[int]]:
    if not isinstance(matrix, dict):
        raise InputError(f"matrix: give {', '.join(AXES)}")
    unknown = [name for name in matrix if name not in AXES]
    if unknown:
        raise InputError(f"matrix: unknown key '{unknown[0]}': {near_names(str(unknown[0]), AXES)}")
    parts = []
    for axis in AXES[:3]:
        part = matrix.get(axis) or {}
        if not isinstance(part, dict) or not all(isinstance(each or {}, dict) for each in part.values()):
            raise InputError(f"matrix.{axis}: give names, and under each of them what a stage says")
        if not part and axis != "teachers":
            raise InputError(f"matrix.{axis}: there is none: give at least one")
        parts.append({str(name): each or {} for name, each in part.items()})
    seeds = matrix.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InputError(f"matrix.seeds: give a list of whole numbers such as [0, 1, 2], not {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"matrix.seeds: {seeds} repeat: each seed once")
    return parts[0], parts[1], parts[2], seeds


def _cells(
    method: str,
    student: str,
    seed: int,
    methods: dict[str, Any],
    students: dict[str, Any],
    teachers: dict[str, Any],
    seeds: list[int],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cells of a method on a student: one, or one for each teacher."""
    stage = merge(students[student], methods[method])
    distilled = bool(stage.get("methods"))
    taken: list[str | None] = [None]
    if distilled and not stage.get("teachers"):
        if not teachers:
            raise InputError(f"matrix.methods.{method}: it needs teachers: give some under matrix.teachers")
        taken = list(teachers)
    for teacher in taken:
        cell = _filled(stage, {"{student}": student, "{teacher}": teacher or "{teacher}"})
        if teacher is not None:
            cell["teachers"] = [{"stage": teacher}]
        timed = cell.get("equal_time_to")
        if isinstance(timed, str) and timed in methods:
            # of the first seed: all seeds then take the same number of steps
            cell["equal_time_to"] = _name(timed, student, None, students, teachers, seeds[0])
        facts = {
            "task": cell.get("task", "distillation" if distilled else "supervised"),
            "role": cell.get("role", "student" if distilled else "baseline"),
            "seed": seed,
            "may_fail": True,
        }
        yield _name(method, student, teacher, students, teachers, seed), cell | facts


def _name(
    method: str,
    student: str,
    teacher: str | None,
    students: dict[str, Any],
    teachers: dict[str, Any],
    seed: int,
) -> str:
    parts = [student] if len(students) > 1 else []
    parts += [method] + ([teacher] if teacher is not None and len(teachers) > 1 else [])
    return "-".join(parts) + f"@{seed}"


def _filled(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, str):
        for word, meaning in words.items():
            value = value.replace(word, meaning)
        return value
    if isinstance(value, dict):
        return {_filled(name, words): _filled(each, words) for name, each in value.items()}
    return [_filled(each, words) for each in value] if isinstance(value, list) else value


def _ordered(stages: dict[str, Any]) -> dict[str, Any]:
    """The same stages, each after those that it needs, else in their order."""
    placed: dict[str, Any] = {}
    waiting = dict(stages)
    while waiting:
        free = (name for name, stage in waiting.items() if not _needed(stage) & waiting.keys())
        name = next(free, next(iter(waiting)))  # a circle is refused when the recipe is checked
        placed[name] = waiting.pop(name)
    return placed


def _needed(stage: Any) -> set[str]:
    found: set[str] = set()
    if isinstance(stage, dict):
        found |= {str(teacher.get("stage")) for teacher in _dicts(stage.get("teachers"))}
        for part in _dicts(stage.get("methods")):
            found |= {str(name) for codes in _dicts([part.get("autoencoders")]) for name in codes.values()}
        found |= {str(stage[key]) for key in ("starts_from", "equal_time_to") if stage.get(key)}
    return found


def _dicts(value: Any) -> list[dict[str, Any]]:
    """The dictionaries of a list; what is of another type is refused by the schema later."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
