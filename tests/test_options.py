"""What a recipe may give for an annotation, and what it is told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import pytest
from torch import nn

from segdistill.distillation import METHODS
from segdistill.distillation.weighting import WEIGHTINGS
from segdistill.errors import InputError
from segdistill.losses import LOSSES, create_loss
from segdistill.models.registry import NETWORKS
from segdistill.options import fit_option, options_of


@pytest.mark.parametrize(
    ("value", "hint", "fitted"),
    [
        (3, float, 3.0),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([[1, 2], [3, 4]], tuple[tuple[int, int], ...], ((1, 2), (3, 4))),
        (("a",), str | Sequence[str], ["a"]),
        ("a", str | Sequence[str], "a"),
        (None, Sequence[str] | None, None),
        ({"a": 1}, Mapping[str, float], {"a": 1.0}),
        (2, Literal[1, 2], 2),
        (object, Any, object),
    ],
)
def test_what_fits(value: Any, hint: Any, fitted: Any) -> None:
    found = fit_option("it", value, hint)
    assert found == fitted
    assert type(found) is type(fitted)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "it is True: it must be int"),
        (float("nan"), float, "it is nan: it must be float"),
        ("3", int, "it is '3': it must be int"),
        (1, bool, "it is 1: it must be bool"),
        ([1, "a"], tuple[int, ...], "it is 'a': it must be int"),
        ([1], tuple[int, int], r"it is \[1\]: it must be a list of 2 int"),
        ("ab", Sequence[str], "it is 'ab': it must be a list of str"),
        (3, Mapping[str, float] | None, "it is 3: it must be a mapping or none"),
        (True, Literal[1, 2], "it is True: choose from 1, 2"),
    ],
)
def test_what_does_not_is_told_in_words(value: Any, hint: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_option("it", value, hint)


def test_what_a_builder_takes() -> None:
    def made(width: int, *rest: str, depth: float = 1, **more: int) -> None: ...

    def types(builder: Callable[..., Any]) -> dict[str, Any]:
        return {name: option.annotation for name, option in options_of(builder).items()}

    assert types(made) == {"width": int, "depth": float}
    assert options_of(made)["depth"].default == 1
    assert types(partial(made, 1)) == {"depth": float}
    assert types(nn.Flatten) == {"start_dim": int, "end_dim": int}
    assert types(lambda width: None) == {"width": Any}
    with pytest.raises(InputError, match="has no option 'weight': known: none"):
        create_loss("cross_entropy", weight=3)


@pytest.mark.parametrize(
    "builder",
    [
        *(
            pytest.param(part.build, id=name)
            for each in (LOSSES, METHODS, WEIGHTINGS)
            for name, part in each.items()
        ),
        *(pytest.param(part.build, id=name) for name, part in NETWORKS.items()),
    ],
)
def test_whatever_is_registered_declares_its_options(builder: Callable[..., Any]) -> None:
    """An option without annotation could not be checked, and a YAML file can say no other types than these."""
    for name, option in options_of(builder).items():
        with pytest.raises(InputError, match=rf"{name} is .*: (it must be|choose from)"):
            fit_option(name, object(), option.annotation)
