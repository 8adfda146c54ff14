"""Teachers that never saw the case: one per fold of the training cases, each trained without its fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segdistill.config.schema import Recipe
from segdistill.data.case import Case, select
from segdistill.data.splits import in_folds
from segdistill.errors import InputError


def expand_folds(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's content in which every stage with `out_of_fold: K` has become K stages, each without a fold.

    A stage that names it as a teacher is taught by all K, each on the cases that it never saw; so is one whose
    method is read through its auto-encoders. A value of a wrong type is left for the schema to refuse.

    Raises:
        InputError: `out_of_fold` is no number of folds, or a stage needs that very stage, which is not trained then.

    >>> stages = {"t": {"model": {"name": "unet"}, "out_of_fold": 2}, "s": {"teachers": [{"stage": "t"}]}}
    >>> expanded = expand_folds({"stages": stages})["stages"]
    >>> list(expanded), expanded["s"]["teachers"][1]
    (['t-fold-1', 't-fold-2', 's'], {'stage': 't-fold-2', 'unseen': True})
    """
    stages = content.get("stages")
    if not isinstance(stages, dict):
        return content
    counts = {
        name: stage["out_of_fold"]
        for name, stage in stages.items()
        if isinstance(stage, dict) and stage.get("out_of_fold") is not None
    }
    for name, count in counts.items():
        if type(count) is not int or count < 2:
            raise InputError(
                f"stages.{name}.out_of_fold: {count!r} is no number of folds: use 2 or more, such as 5"
            )
    made: dict[str, Any] = {}
    for name, stage in stages.items():
        if name not in counts:
            made[name] = _taught_by_all(name, stage, counts) if isinstance(stage, dict) else stage
            continue
        plain = {key: value for key, value in stage.items() if key != "out_of_fold"}
        about = plain.get("about") or name
        for fold in range(1, counts[name] + 1):
            own = {
                "about": f"{about}, without fold {fold}",
                "held_out": {"fold": fold, "folds": counts[name]},
            }
            made[fold_name(name, fold)] = plain | own
    named = content.get("run")
    if not isinstance(named, list):
        return content | {"stages": made}
    run = [each for name in named for each in (_names(name, counts) if _is_several(name, counts) else [name])]
    return content | {"stages": made, "run": run}


def fold_name(stage: str, fold: int) -> str:
    """The name of the stage that leaves out a fold, counted from 1.

    >>> fold_name("teacher", 2)
    'teacher-fold-2'
    """
    return f"{stage}-fold-{fold}"


def _is_several(stage: object, counts: Mapping[str, int]) -> bool:
    return isinstance(stage, str) and stage in counts


def _names(stage: str, counts: Mapping[str, int]) -> list[str]:
    return [fold_name(stage, fold) for fold in range(1, counts[stage] + 1)]


def _taught_by_all(name: str, stage: dict[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    teachers: list[Any] = []
    given = stage.get("teachers")
    for teacher in given if isinstance(given, list) else []:
        if not isinstance(teacher, dict) or not _is_several(teacher.get("stage"), counts):
            teachers.append(teacher)
            continue
        if stage.get("task") == "autoencoder":
            raise InputError(
                f"stages.{name}: auto-encoders learn from one network, and '{teacher['stage']}' is several: name one, "
                f"such as {fold_name(teacher['stage'], 1)}"
            )
        teachers += [teacher | {"stage": each, "unseen": True} for each in _names(teacher["stage"], counts)]
    for key in ("starts_from", "equal_time_to"):
        if _is_several(stage.get(key), counts):
            raise InputError(f"stages.{name}.{key}: '{stage[key]}' is several stages: name one of them")
    return stage | ({"teachers": teachers} if teachers else {})


def folds_of(cases: Sequence[Case], folds: int, seed: int) -> dict[str, int]:
    """Training case -> its fold, counted from 1; groups whole, labels and sites stratified.

    Raises:
        InputError: fewer groups than folds.
    """
    train = select(cases, split="train")
    if (groups := len({case.group_key for case in train})) < folds:
        instead = f"set out_of_fold: {groups}, or add cases" if groups > 1 else "add cases, or leave it out"
        raise InputError(f"out_of_fold: {groups} training group(s) make no {folds} folds: {instead}")
    return in_folds(train, folds, seed)


def speaks(recipe: Recipe, name: str, cases: Sequence[Case], all_cases: Sequence[Case]) -> list[list[bool]]:
    """Whether each teacher of a stage may speak for each of its training cases: a row per case, one column each.

    Args:
        recipe: with the stage.
        name: of the stage.
        cases: its training cases.
        all_cases: of the experiment, which the folds are made of.
    """
    columns = []
    for teacher in recipe.stages[name].teachers:
        held_out = recipe.stages[teacher.stage].held_out
        if not teacher.unseen or held_out is None:
            columns.append([True] * len(cases))
            continue
        fold = folds_of(all_cases, held_out.folds, recipe.data.split.seed)
        columns.append([fold[case.id] == held_out.fold for case in cases])
    return [list(row) for row in zip(*columns, strict=True)]
