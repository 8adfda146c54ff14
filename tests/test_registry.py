"""A registry: names, options, descriptions, and what it refuses."""

from __future__ import annotations

import pytest

from segdistill.errors import InputError
from segdistill.registry import Registry


def sizes() -> Registry[float]:
    registry: Registry[float] = Registry("size")

    @registry.register("half", "half of it", unit="mm")
    def half(of: float, digits: int = 3) -> float:
        """Half.

        Args:
            of: the whole.
        """
        if of < 0:
            raise ValueError("of must not be negative")
        return round(of / 2, digits)

    return registry


def test_parts_are_built_with_checked_options() -> None:
    assert sizes().create("half", of=3) == 1.5
    assert sizes().build("half", {"of": 3.33333, "digits": 1}) == 1.7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("haf", {}, "unknown size 'haf': did you mean 'half'?"),
        ("x", {}, "unknown size 'x': known: half"),
        ("half", {"off": 1.0}, "size 'half' has no option 'off': did you mean 'of'?"),
        ("half", {"of": "a"}, "size 'half': of is 'a': it must be float"),
        ("half", {"of": 1.0, "digits": True}, "size 'half': digits is True: it must be int"),
        ("half", {"of": -1.0}, "size 'half': of must not be negative"),
        ("half", {}, "size 'half': .* missing 1 required positional argument: 'of'"),
    ],
)
def test_what_is_wrong_is_one_line(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sizes().build(name, options)


def test_a_description_has_options_defaults_types_and_source() -> None:
    found = sizes().describe("half")
    assert found.pop("text").startswith("Half.")
    assert found == {
        "kind": "size",
        "name": "half",
        "summary": "half of it",
        "source": __name__,
        "options": {"of": {"type": "float"}, "digits": {"type": "int", "default": 3}},
        "facts": {"unit": "mm"},
    }


def test_a_name_belongs_to_one_part() -> None:
    registry = sizes()

    def other() -> float:
        return 0.0

    with pytest.raises(
        InputError, match=f"size 'half' is registered by {__name__} and by {__name__}: rename one"
    ):
        registry.register("half")(other)
    registry.register("zero")(other)
    registry.register("zero")(other)  # the same one again, as when its file is run again
    assert registry.names() == list(registry) == ["half", "zero"]
    assert registry["zero"].summary == ""


def test_options_without_annotation_take_anything() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("same")(lambda it=None: it)
    assert registry.create("same", it={"a": 1}) == {"a": 1}
