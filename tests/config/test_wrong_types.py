"""Recipes whose values have another type, and names that are no names of folders: one line, whatever it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from segdistill.config.folds import expand_folds
from segdistill.config.load import load_recipe
from segdistill.config.matrix import expand_matrix, expand_seeds
from segdistill.config.schema import parse_recipe
from segdistill.errors import InputError
from tests.experiment.tiny import RECIPE

VALUES: tuple[Any, ...] = (3, "x", [1], [[1]], {"a": 1}, None, 1.5, True)
NET = {"model": {"name": "simplified_unet"}}
WRITTEN_OUT: dict[str, Any] = {
    "name": "folds",
    "stages": {
        "t": NET | {"out_of_fold": 2},
        "codes": {
            "task": "autoencoder",
            "model": {"name": "feature_autoencoder"},
            "teachers": {"t-fold-1": {}},
        },
        "s": NET
        | {
            "task": "distillation",
            "teachers": {"t": {}},
            "methods": {"soft_prediction": {}},
            "starts_from": "t-fold-1",
        },
        "baseline": NET | {"equal_time_to": "s"},
    },
    "run": ["t", "s"],
}
MATRIX: dict[str, Any] = {
    "name": "matrix",
    "stages": {"plain": NET},
    "matrix": {
        "students": {"a": NET, "b": NET},
        "teachers": {"t": NET, "u": NET},
        "variants": {
            "baseline": {"equal_time_to": "kd"},
            "kd": {"methods": {"soft_prediction": {}}},
            "own": {
                "methods": {"feature_similarity": {"autoencoders": {"student": "plain", "t": "plain"}}},
                "teachers": {"t": {}},
                "starts_from": "plain",
            },
        },
    },
    "seeds": [0, 1],
    "evaluation": {"robustness": ["plain", "a-kd-t"]},
    "export": "plain",
}


def places(content: object, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a recipe are, outer ones first."""
    inside: Any = ()
    if isinstance(content, dict):
        inside = content.items()
    elif isinstance(content, list):
        inside = enumerate(content)
    for key, value in inside:
        yield (*above, key)
        yield from places(value, (*above, key))


def changed(content: dict[str, Any], place: tuple[Any, ...], value: object) -> dict[str, Any]:
    whole: Any = copy.deepcopy(content)
    part = whole
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = copy.deepcopy(value)
    return dict(whole)


@pytest.mark.parametrize("content", [RECIPE, WRITTEN_OUT, MATRIX], ids=lambda content: str(content["name"]))
def test_one_wrong_value_is_one_line(content: dict[str, Any]) -> None:
    """Each value of a recipe, replaced by one of each type: accepted, or refused in a line."""
    messages = []
    for place in places(content):
        for value in VALUES:
            try:
                expanded = expand_seeds(expand_folds(expand_matrix(changed(content, place, value))))
                parse_recipe(expanded, "r.yaml")
            except InputError as error:
                messages.append(str(error))
    assert len(messages) > 100
    assert [message for message in messages if "\n" in message] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "stages: {s: {model: {name: unet}, teachers: 3}}",
            "stages.s.teachers: Input should be a valid dictionary",
        ),
        ("stages: {s: {model: {name: unet}}}\nrun: 3", "run: Input should be a valid list, not 3"),
        ("stages: {s: {model: {name: unet}}}\nrun: [3]", "run.0: Input should be a valid string, not 3"),
        ("stages: 3\nmatrix: {students: {a: {}}, variants: {b: {}}}", "stages: Input should be a valid dict"),
    ],
)
def test_the_schema_names_the_key(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"name: r\n{text}\n")
    with pytest.raises(InputError) as refused:
        load_recipe(str(tmp_path / "r.yaml"))
    assert message in str(refused.value)


def test_a_change_of_stages_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: r\nstages: 3\n")
    with pytest.raises(InputError, match="the recipe has no such stage"):
        load_recipe(str(tmp_path / "r.yaml"), ["stages.s.seed=1"])


@pytest.mark.parametrize("name", ["a/b", "..", ".", ".hidden", "", "a b", "a\\b", "a\n", "ü", "a" * 101])
def test_a_stage_names_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "r", "stages": {name: NET}}))
    with pytest.raises(
        InputError, match=r"stages: .* cannot name the folder of a stage: use at most"
    ) as refused:
        load_recipe(str(tmp_path / "r.yaml"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "/tmp/r", "../r", "a/../../r", "a//b", "a/", ".", "a/ ", "a\nb"])
def test_a_recipe_names_a_folder_below_the_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": name, "stages": {"s": NET}}))
    with pytest.raises(InputError, match=r"name: .* cannot name the folder of its runs") as refused:
        load_recipe(str(tmp_path / "r.yaml"))
    assert "\n" not in str(refused.value)


def test_names_that_are_folders(tmp_path: Path) -> None:
    stages = dict.fromkeys(("a-b_c@0", "v1.5", "-x", "3"), NET)
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump({"name": "paper/a b/v1.2", "stages": stages}, sort_keys=False)
    )
    recipe = load_recipe(str(tmp_path / "r.yaml"))
    assert (recipe.name, list(recipe.stages)) == ("paper/a b/v1.2", list(stages))


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        ("data.size=100000", "from 8 to 16384, not 100000"),
        ("data.size=[32, 99999999999999999999]", "from 8 to 16384, not"),
        ("data.channels=5000", "less than or equal to 1024"),
        ("data.phantoms=1000000000", "less than or equal to 100000"),
        ("data.split.folds=100000", "less than or equal to 1000"),
        ("data.split.seed=9999999999", "less than or equal to 4294967295"),
        ("data.patches={size: 99999, count: 4}", "16384"),
        ("data.patches={size: 64, count: 100000}", "less than or equal to 1000"),
        ("fit.epochs=1000000000", "less than or equal to 1000000"),
        ("fit.steps=99999999999999999999", "less than or equal to 1000000000"),
        ("fit.batch_size=1000000", "less than or equal to 65536"),
        ("fit.accumulate=1000000", "less than or equal to 65536"),
        ("fit.workers=100000", "less than or equal to 256"),
        ("fit.views=10000000000", "less than or equal to 1000000"),
        ("fit.optimizer.lr=.inf", "finite number"),
        ("fit.clip_norm=.nan", "finite number"),
        ("seed=9999999999", "less than or equal to 4294967295"),
        ("folds=100000", "less than or equal to 1000"),
    ],
)
def test_absurd_numbers_are_refused_with_their_bound(change: str, bound: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    with pytest.raises(InputError) as refused:
        load_recipe(str(path), [change])
    message = str(refused.value)
    assert bound in message
    assert change.partition("=")[0] in message
    assert "\n" not in message
