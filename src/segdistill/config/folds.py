"""Out-of-fold teachers: one network per fold of the training cases, each trained without its fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.config.schema import MemberRecipe, Recipe, TeacherRecipe
from segdistill.data.case import Case, select
from segdistill.data.splits import in_folds, keep_locations
from segdistill.errors import InputError

MOST_FOLDS = 1000


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
        if type(count) is not int or not 2 <= count <= MOST_FOLDS:
            raise InputError(
                f"stages.{name}.out_of_fold: {count!r} is no number of folds: use 2 to {MOST_FOLDS}, such as 5"
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
    for key in ("starts_from", "equal_time_to", "tuned_by"):
        if _is_several(stage.get(key), names):
            raise InputError(f"stages.{name}.{key}: '{stage[key]}' is several stages: name one of them")
    teachers: dict[str, Any] = {}
    given = stage.get("teachers")
    for key, teacher in given.items() if isinstance(given, dict) else ():
        entry = {} if teacher is None else teacher
        if isinstance(entry, dict) and isinstance(entry.get("ensemble"), list):
            members = [own for member in entry["ensemble"] for own in _member_folds(member, names)]
            teachers[key] = entry | {"ensemble": members}
            continue
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


def _member_folds(member: Any, names: dict[object, list[str]]) -> list[Any]:
    """A member of an ensemble, or the stages that it has become."""
    stated = {"stage": member} if isinstance(member, str) else member
    source = stated.get("stage") if isinstance(stated, dict) else None
    if not _is_several(source, names):
        return [member]
    return [stated | {"stage": own, "out_of_fold": True} for own in names[source]]


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
    columns = [
        [
            any(known)
            for known in zip(*(_known(recipe, m, cases, all_cases) for m in teacher.members), strict=True)
        ]
        for teacher in recipe.stages[name].teachers.values()
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def families(recipe: Recipe, teacher: TeacherRecipe) -> list[tuple[str, list[int]]]:
    """What counts as one in a teacher: (name, positions of its members).

    The stages that one with `out_of_fold` has become count together as one member.
    """
    found: dict[str, tuple[str, list[int]]] = {}
    for k, member in enumerate(teacher.members):
        source = member.predictions or member.onnx or member.network
        name = recipe.variant(member.stage) if source is None else Path(source).name
        fold = recipe.stages[member.stage].out_of_fold if member.out_of_fold else None
        key = f"{name}\0{k}"
        if fold is not None:
            key, name = (own.replace(f"-fold-{fold.fold}", "", 1) for own in (member.stage, name))
        found.setdefault(key, (name, []))[1].append(k)
    return list(found.values())


def member_weights(
    recipe: Recipe,
    teacher: TeacherRecipe,
    cases: Sequence[Case],
    all_cases: Sequence[Case],
    weights: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """The share (N, M) of each member of a teacher in its prediction of each case; 0 in a row that none may teach.

    Of those that count together as one (`families`), a case that they trained on is predicted by the one that did not
    see it, any other by all of them alike.

    Args:
        recipe: with the teacher's stages.
        teacher: one of a stage of the recipe.
        cases: what it predicts.
        all_cases: of the experiment, which the folds are made of; none where no case is a training case.
        weights: of each member, instead of what the recipe states.
    """
    if weights is None:
        weights = teacher.stated_weights
    known = np.array([_known(recipe, member, cases, all_cases) for member in teacher.members], float).T
    shares = np.zeros_like(known)
    for _, columns in families(recipe, teacher):
        there = known[:, columns]
        share = there / np.maximum(there.sum(axis=1, keepdims=True), 1)
        shares[:, columns] = share * [weights[k] for k in columns]
    total = shares.sum(axis=1, keepdims=True)
    return shares / np.where(total > 0, total, 1)


def _known(
    recipe: Recipe, member: MemberRecipe, cases: Sequence[Case], all_cases: Sequence[Case]
) -> list[bool]:
    """Whether a member may teach each case: a stage of a fold teaches what it did not train on."""
    own = recipe.stages[member.stage].out_of_fold if member.out_of_fold else None
    if own is None:
        return [True] * len(cases)
    if not all_cases:  # of cases that are in no fold
        return [True] * len(cases)
    fold = folds_of(all_cases, own.folds, recipe.data.split.seed)
    joint = recipe.stages[member.stage].joint_settings
    share = recipe.locations_of(member.stage)
    located = keep_locations(list(all_cases), share, recipe.data.locations_seed)
    seen = {case.id for case in located if case.has_reference or (joint is not None and case.label)}
    return [fold[case.id] == own.fold or case.id not in seen for case in cases]
