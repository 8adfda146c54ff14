"""`matrix` and `seeds` of a recipe, written out as ordinary stages before anything is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from segdistill.config.schema import SOURCES, MatrixRecipe, merge, parse_matrix
from segdistill.errors import InputError


def expand_matrix(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's content whose `matrix` has become stages: students x variants, and the teachers.

    A stage is called VARIANT, and STUDENT-VARIANT where there are several students. A variant with methods and without
    teachers is trained with each teacher of the matrix, and called VARIANT-TEACHER then where there are several. In
    a variant {student} and {teacher} are replaced by the names of its student and its teacher. `seeds` trains each
    of them once per seed (without it once, with seed 0); teachers and the recipe's own stages are shared by all seeds,
    or with `teachers_per_seed` repeated as well.

    Raises:
        InputError: an axis is missing or unknown, or names clash.

    >>> matrix = {
    ...     "students": {"unet": {"model": {"name": "unet"}}},
    ...     "teachers": {"big": {"model": {"name": "unet"}}},
    ...     "variants": {"baseline": None, "kd": {"methods": {"soft_prediction": {}}}},
    ... }
    >>> stages = expand_seeds(expand_matrix({"matrix": matrix, "seeds": [0, 1]}))["stages"]
    >>> list(stages)
    ['big', 'baseline@0', 'kd@0', 'baseline@1', 'kd@1']
    >>> stages["kd@1"]["teachers"], stages["kd@1"]["variant"], stages["kd@1"]["seed"]
    ({'big': {}}, 'kd', 1)
    """
    if content.get("matrix") is None:
        return {key: value for key, value in content.items() if key != "matrix"}
    matrix = parse_matrix(content["matrix"])
    rest = {key: value for key, value in content.items() if key != "matrix"}
    own = {} if rest.get("stages") is None else rest["stages"]
    if not isinstance(own, dict):
        return rest  # the schema refuses it
    stages: dict[str, Any] = {
        name: {"role": "teacher"} | (stage or {}) for name, stage in matrix.teachers.items()
    }
    cells: dict[str, Any] = {}
    for student, variant in product(matrix.students, matrix.variants):
        for cell in _cells(matrix, student, variant):
            if cell["variant"] in cells:
                raise InputError(
                    f"matrix: two stages are called '{cell['variant']}': rename a variant or a student"
                )
            cells[cell["variant"]] = cell
    clash = next((name for name in (*own, *cells) if name in stages or (name in own and name in cells)), None)
    if clash is not None:
        raise InputError(f"matrix: '{clash}' is also another stage: rename one of them")
    seeds = [0] if rest.get("seeds") is None else rest["seeds"]
    shared = stages | own
    if matrix.teachers_per_seed:  # what has a variant is repeated
        shared = {
            name: {"variant": name} | stage if isinstance(stage, dict) else stage
            for name, stage in shared.items()
        }
    return rest | {"stages": shared | cells, "seeds": seeds}


def _cells(matrix: MatrixRecipe, student: str, variant: str) -> Iterator[dict[str, Any]]:
    """The stages of a variant on a student: one, or one for each teacher."""
    stage = merge(matrix.students[student] or {}, matrix.variants[variant] or {})
    distilled = bool(stage.get("methods"))
    taught: list[str | None] = [None]
    if distilled and not stage.get("teachers"):
        if not matrix.teachers:
            raise InputError(f"matrix.variants.{variant}: it needs teachers: give some under matrix.teachers")
        taught = list(matrix.teachers)
    for teacher in taught:
        cell = _replaced(stage, {"{student}": student, "{teacher}": teacher or "{teacher}"})
        if teacher is not None:
            cell["teachers"] = {teacher: {}}
        timed = cell.get("equal_time_to")
        if isinstance(timed, str) and timed in matrix.variants:
            cell["equal_time_to"] = _name(matrix, student, timed, None)
        task = cell.get("task", "distillation" if distilled else "supervised")
        yield cell | {"task": task, "variant": _name(matrix, student, variant, teacher), "may_fail": True}


def _name(matrix: MatrixRecipe, student: str, variant: str, teacher: str | None) -> str:
    parts = [student] if len(matrix.students) > 1 else []
    parts += [variant] + ([teacher] if teacher is not None and len(matrix.teachers) > 1 else [])
    return "-".join(parts)


def _replaced(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        for place, name in names.items():
            value = value.replace(place, name)
        return value
    if isinstance(value, dict):
        return {_replaced(key, names): _replaced(each, names) for key, each in value.items()}
    return [_replaced(each, names) for each in value] if isinstance(value, list) else value


def expand_seeds(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's content whose stages are trained once per seed of `seeds`: NAME has become NAME@SEED.

    A stage needs those of its own seed, one that is not repeated those of the first. The time of another stage is
    measured with the first seed, so that all seeds take the same number of steps. Of a matrix only the variants are
    repeated, and with `teachers_per_seed` all. `export` means the first seed, `run` and `evaluation.robustness` mean
    all of them. A stage's own seed S makes it another training, with SEED + 1000 S.

    Raises:
        InputError: `seeds` is no list of different whole numbers, or names clash.

    >>> stages = {"big": {"model": {}}, "kd": {"teachers": {"big": None}}}
    >>> expand_seeds({"stages": stages, "seeds": [0, 1], "export": "kd"})
    ... # doctest: +NORMALIZE_WHITESPACE
    {'stages': {'big@0': {'model': {}, 'variant': 'big', 'seed': 0},
                'kd@0': {'teachers': {'big': {'stage': 'big@0'}}, 'variant': 'kd', 'seed': 0},
                'big@1': {'model': {}, 'variant': 'big', 'seed': 1},
                'kd@1': {'teachers': {'big': {'stage': 'big@1'}}, 'variant': 'kd', 'seed': 1}}, 'export': 'kd@0'}
    """
    seeds, stages = content.get("seeds"), content.get("stages")
    rest = {key: value for key, value in content.items() if key != "seeds"}
    if seeds is None or not isinstance(stages, dict):
        return rest
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    ):
        raise InputError(f"seeds: give a list of whole numbers such as [0, 1, 2], not {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds: {seeds} has a number twice: give each once")
    cells = [
        name for name, stage in stages.items() if isinstance(stage, dict) and stage.get("variant") is not None
    ]
    repeated = {name: stages[name] for name in cells or stages}
    expanded = {
        name: map_stages(stage, lambda other: f"{other}@{seeds[0]}" if other in repeated else other)
        if isinstance(stage, dict)
        else stage
        for name, stage in stages.items()
        if name not in repeated
    }
    for seed, (name, stage) in product(seeds, repeated.items()):
        if f"{name}@{seed}" in expanded:
            raise InputError(f"seeds: '{name}@{seed}' is also a stage of the recipe: rename it")
        expanded[f"{name}@{seed}"] = _seeded(stage, name, seed, seeds[0], repeated)
    rest |= {"stages": _ordered(expanded) if cells else expanded}
    if _is_one(rest.get("export"), repeated):
        rest["export"] = f"{rest['export']}@{seeds[0]}"
    evaluation = rest.get("evaluation")
    if isinstance(evaluation, dict) and isinstance(evaluation.get("robustness"), list):
        named = [
            each
            for name in evaluation["robustness"]
            for each in ([f"{name}@{seed}" for seed in seeds] if _is_one(name, repeated) else [name])
        ]
        rest["evaluation"] = evaluation | {"robustness": named}
    return rest


def _is_one(name: object, stages: dict[str, Any]) -> bool:
    return isinstance(name, str) and name in stages


def _seeded(stage: Any, name: str, seed: int, first: int, repeated: dict[str, Any]) -> Any:
    if not isinstance(stage, dict):
        return stage  # the schema refuses it
    own_seed = stage.get("seed")
    if own_seed is not None and type(own_seed) is not int:
        raise InputError(f"stages.{name}.seed: give a whole number, not {own_seed!r}")
    own = map_stages(stage, lambda other: f"{other}@{seed}" if other in repeated else other)
    if _is_one(stage.get("equal_time_to"), repeated):
        own["equal_time_to"] = f"{stage['equal_time_to']}@{first}"
    # several networks of one kind differ from each other, and from every other seed
    return own | {"variant": stage.get("variant") or name, "seed": seed + 1000 * (own_seed or 0)}


def map_stages(stage: dict[str, Any], new: Callable[[str], str]) -> dict[str, Any]:
    """What a stage states, with every name of another stage replaced; values of a wrong type stay as they are.

    >>> map_stages({"teachers": {"big": {"weight": 0.5}}, "starts_from": "small"}, str.upper)
    {'teachers': {'big': {'weight': 0.5, 'stage': 'BIG'}}, 'starts_from': 'SMALL'}
    >>> map_stages({"teachers": {"both": {"ensemble": ["a", {"stage": "b", "flips": True}]}}}, str.upper)
    {'teachers': {'both': {'ensemble': ['A', {'stage': 'B', 'flips': True}]}}}
    """
    mapped = dict(stage)
    if isinstance(teachers := stage.get("teachers"), dict):
        mapped["teachers"] = {key: _mapped_teacher(key, entry, new) for key, entry in teachers.items()}
    if isinstance(methods := stage.get("methods"), dict):
        mapped["methods"] = {key: _mapped_method(entry, new) for key, entry in methods.items()}
    for key in ("starts_from", "equal_time_to", "tuned_by"):
        if isinstance(stage.get(key), str):
            mapped[key] = new(stage[key])
    return mapped


def _mapped_teacher(key: object, entry: Any, new: Callable[[str], str]) -> Any:
    stated = {} if entry is None else entry
    if not isinstance(stated, dict):
        return entry
    if isinstance(members := stated.get("ensemble"), list):
        return stated | {"ensemble": [_mapped_member(member, new) for member in members]}
    name = stated.get("stage", None if set(stated) & set(SOURCES) else key)
    if not isinstance(name, str) or new(name) == name:
        return entry
    return stated | {"stage": new(name)}


def _mapped_member(member: Any, new: Callable[[str], str]) -> Any:
    if isinstance(member, str):
        return new(member)
    name = member.get("stage") if isinstance(member, dict) else None
    return member | {"stage": new(name)} if isinstance(name, str) else member


def _mapped_method(entry: Any, new: Callable[[str], str]) -> Any:
    read = entry.get("autoencoders") if isinstance(entry, dict) else None
    if not isinstance(read, dict):
        return entry
    return entry | {
        "autoencoders": {key: new(name) if isinstance(name, str) else name for key, name in read.items()}
    }


def needed_stages(stage: dict[str, Any]) -> list[str]:
    """The other stages that a stage names.

    >>> needed_stages({"teachers": {"big": None}, "equal_time_to": "kd"})
    ['big', 'kd']
    """
    found: list[str] = []

    def note(name: str) -> str:
        found.append(name)
        return name

    map_stages(stage, note)
    return list(dict.fromkeys(found))


def teacher_names(stage: Mapping[str, Any]) -> list[str]:
    """What teaches a stage: names of stages, and folders, files and networks from elsewhere; of ensembles each member.

    >>> elsewhere = {"ensemble": [{"stage": "wide@1"}, {"onnx": "net.onnx"}]}
    >>> teacher_names({"teachers": {"big@1": None, "nnunet": {"predictions": "predicted"}, "all": elsewhere}})
    ['big@1', 'predicted', 'wide@1', 'net.onnx']
    """
    found: list[str] = []
    for key, entry in (stage.get("teachers") or {}).items():
        for member in (entry or {}).get("ensemble") or [entry or {}]:
            stated = {"stage": member} if isinstance(member, str) else member
            sources = (stated.get(source) for source in SOURCES if source != "ensemble")
            found.append(str(next(filter(None, sources), key)))
    return list(dict.fromkeys(found))


def _ordered(stages: dict[str, Any]) -> dict[str, Any]:
    """The same stages, each after those that it needs, else in their order."""
    placed: dict[str, Any] = {}
    waiting = dict(stages)
    while waiting:
        free = (
            name
            for name, stage in waiting.items()
            if not isinstance(stage, dict) or not set(needed_stages(stage)) & waiting.keys()
        )
        name = next(free, next(iter(waiting)))  # a circle is refused when the recipe is checked
        placed[name] = waiting.pop(name)
    return placed
