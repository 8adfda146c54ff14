"""Out-of-fold teachers: one network per fold of the training cases, each trained without its fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segdistill.config.schema import Recipe
from segdistill.data.case import Case, select
from segdistill.data.splits import in_folds
from segdistill.errors import InputError


def expand_folds(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's content in which every stage with `out_of_fold: K` has become K stages, each without one fold.

    A stage that names it as a teacher gets all K, each for the cases that it did not train on. Values of a wrong type
    are left for the schema to refuse.

    Raises:
        InputError: `out_of_fold` is no number of folds, or a stage needs that very stage, which is not trained then.

    >>> stages = {"t": {"model": {"name": "unet"}, "out_of_fold": 2}, "s": {"teachers": {"t": {"weight": 0.5}}}}
    >>> expanded = expand_folds({"stages": stages})["stages"]
    >>> list(expanded), expanded["t-fold-1"]["out_of_fold"], expanded["s"]["teachers"]["t-fold-2"]
    (['t-fold-1', 't-fold-2', 's'], {'fold': 1, 'folds': 2}, {'weight': 0.5, 'stage': 't-fold-2', 'out_of_fold': True})
    """
    stages = content.get("stages")
    if not isinstance(stages, dict):
        return content
    names: dict[object, list[str]] = {}
    for name, stage in stages.items():
        count = stage.get("out_of_fold") if isinstance(stage, dict) else None
        if count is None or isinstance(count, dict):  # a dictionary is one fold already
            continue
        if type(count) is not int or count < 2:
            raise InputError(
                f"stages.{name}.out_of_fold: {count!r} is no number of folds: use 2 or more, such as 5"
            )
        names[name] = [fold_name(name, fold) for fold in range(1, count + 1)]
    expanded: dict[str, Any] = {}
    for name, stage in stages.items():
        if name not in names:
            expanded[name] = _with_all_folds(name, stage, names) if isinstance(stage, dict) else stage
            continue
        for fold, own_name in enumerate(names[name], 1):
            own = {
                "about": f"{stage.get('about') or name}, without fold {fold}",
                "out_of_fold": {"fold": fold, "folds": len(names[name])},
            }
            expanded[own_name] = stage | own
            if stage.get("variant") is not None:
                expanded[own_name]["variant"] = fold_name(stage["variant"], fold)
    changed: dict[str, Any] = {"stages": expanded}
    if isinstance(run := content.get("run"), list):
        changed["run"] = [
            each for name in run for each in (names[name] if _is_several(name, names) else [name])
        ]
    return content | changed


def fold_name(stage: str, fold: int) -> str:
    """The name of the stage that does not train on a fold, counted from 1.

    >>> fold_name("teacher", 2)
    'teacher-fold-2'
    """
    return f"{stage}-fold-{fold}"


def _is_several(stage: object, names: dict[object, list[str]]) -> bool:
    return isinstance(stage, str) and stage in names


def _with_all_folds(name: str, stage: dict[str, Any], names: dict[object, list[str]]) -> dict[str, Any]:
    for key in ("starts_from", "equal_time_to"):
        if _is_several(stage.get(key), names):
            raise InputError(f"stages.{name}.{key}: '{stage[key]}' is several stages: name one of them")
    teachers: dict[str, Any] = {}
    given = stage.get("teachers")
    for key, teacher in given.items() if isinstance(given, dict) else ():
        entry = {} if teacher is None else teacher
        source = entry.get("stage", key) if isinstance(entry, dict) else None
        if not _is_several(source, names):
            teachers[key] = teacher
            continue
        if stage.get("task") == "autoencoder":
            raise InputError(
                f"stages.{name}: auto-encoders learn from one network, and '{source}' is several: name one, such as "
                f"{names[source][0]}"
            )
        for fold, own in enumerate(names[source], 1):
            teachers[fold_name(key, fold)] = entry | {"stage": own, "out_of_fold": True}
    return stage | ({"teachers": teachers} if teachers else {})


def folds_of(cases: Sequence[Case], folds: int, seed: int) -> dict[str, int]:
    """Training case -> its fold, counted from 1; groups whole, labels and sites stratified.

    Raises:
        InputError: fewer groups than folds.
    """
    train = select(cases, split="train")
    if (groups := len({case.group_key for case in train})) < folds:
        instead = (
            f"set out_of_fold: {groups}, or add cases" if groups > 1 else "add cases, or remove out_of_fold"
        )
        raise InputError(f"out_of_fold: {folds} folds need as many training groups, not {groups}: {instead}")
    return in_folds(train, folds, seed)


def may_teach(
    recipe: Recipe, name: str, cases: Sequence[Case], all_cases: Sequence[Case]
) -> list[list[bool]]:
    """Whether each teacher of a stage teaches each of its training cases: a row per case, one column each.

    Args:
        recipe: with the stage.
        name: of the stage.
        cases: its training cases.
        all_cases: of the experiment, which the folds are made of.
    """
    columns = []
    for teacher in recipe.stages[name].teachers.values():
        own = recipe.stages[teacher.stage].out_of_fold
        if not teacher.out_of_fold or own is None:
            columns.append([True] * len(cases))
            continue
        fold = folds_of(all_cases, own.folds, recipe.data.split.seed)
        columns.append([fold[case.id] == own.fold for case in cases])
    return [list(row) for row in zip(*columns, strict=True)]
