"""Saturation warnings: given when there is saturation, and not otherwise."""

from __future__ import annotations

from segdistill.training.saturation import find_saturation, new_warnings


def rows(*accuracies: float, stage: int = 1) -> list[dict[str, float]]:
    return [{"epoch": float(e), f"discriminators/accuracy_{stage}": a} for e, a in enumerate(accuracies, 1)]


def test_a_perfect_discriminator_is_named_with_its_epochs() -> None:
    found = find_saturation(rows(0.7, 1.0, 0.995, 1.0, 1.0, 0.8, 1.0, 1.0, stage=3))
    assert [(warning.first, warning.last) for warning in found] == [(2, 5)]
    assert str(found[0]).startswith("discriminator 3 is perfect in epochs 2 to 5: ")
    assert "non_saturating" in str(found[0])


def test_healthy_curves_give_no_warning() -> None:
    assert find_saturation(rows(*[0.98] * 20)) == []
    healthy = [
        {"epoch": e, "area": 0.08, "area_spread": 0.05, "discriminators/accuracy_1": 0.8}
        for e in range(1, 20)
    ]
    assert find_saturation(healthy) == []
    assert find_saturation([]) == []


def test_collapsed_predictions() -> None:
    kinds = {"empty": (0.0, 0.0), "full": (1.0, 0.0), "the same area": (0.3, 0.0)}
    for word, (area, spread) in kinds.items():
        found = find_saturation([{"epoch": e, "area": area, "area_spread": spread} for e in range(1, 6)])
        assert len(found) == 1
        assert word in found[0].what
    few = find_saturation([{"epoch": e, "area": 0.3, "area_spread": 0.0} for e in (1, 2)])
    assert few == []
    without_spread = find_saturation([{"epoch": e, "area": 0.3} for e in range(1, 9)])  # batches of one image
    assert without_spread == []


def test_two_runs_are_two_warnings() -> None:
    found = find_saturation(rows(1, 1, 1, 0.5, 1, 1, 1, 1))
    assert [(warning.first, warning.last) for warning in found] == [(1, 3), (5, 8)]


def test_each_warning_is_given_once_and_in_time() -> None:
    curves = rows(0.5, 1, 1, 1, 1, 0.5, 1, 1, 1)
    told = [len(new_warnings(curves[:n])) for n in range(len(curves) + 1)]
    assert told == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
