"""Options of another type, or without meaning, are refused when a method is made, not in the middle of training."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from segdistill.distillation import METHODS, WEIGHTINGS, create_method, create_weighting
from segdistill.errors import InputError

OPTIONS = [(name, option) for name, part in {**METHODS, **WEIGHTINGS}.items() for option in part.options]


def made(name: str, **options: Any) -> object:
    return create_method(name, **options) if name in METHODS else create_weighting(name, **options)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_no_option_takes_just_anything(name: str, option: str) -> None:
    with pytest.raises(InputError, match=rf"{option}\b"):
        made(name, **{option: {"a": 1}})


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_default_is_of_its_own_type(name: str, option: str) -> None:
    if name == "feature_similarity":  # has no default for its auto-encoders
        return
    part = METHODS.get(name) or WEIGHTINGS[name]
    made(name, **{option: inspect.signature(part.build).parameters[option].default})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("intra_class", {"classes": "x"}),
        ("intra_class", {"classes": 1}),
        ("prototypes", {"classes": True}),
        ("protokd", {"classes": 0}),
        ("cross_image", {"grid": 2.5}),
        ("skd", {"nodes": "2"}),
        ("fitnet", {"layers": [1]}),
        ("soft_prediction", {"temperature": "hot"}),
        ("soft_prediction", {"classes": "x"}),
        ("adaptive_factors", {"steps": 1.5}),
    ],
)
def test_what_would_have_failed_in_the_training(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        made(name, **options)


def test_whole_numbers_and_lists_are_what_yaml_gives() -> None:
    made("soft_prediction", temperature=4)
    made("attention_transfer", exponent=2, layers=["encoder", "dec1"])
    made("cirkd", layers=("decoder",), temperature=1)
