"""The recipe of a ladder: every rung with and without a teacher, teachers that never saw what they teach."""

from __future__ import annotations

from typing import Any

import pytest

from segdistill.config.effort import DataFacts, stages_of
from segdistill.config.ladder import EFFORTS, ladder_recipe, parse_rungs
from segdistill.config.load import load_recipe
from segdistill.config.schema import Recipe
from segdistill.errors import InputError
from segdistill.models.registry import create_network


def recipe(effort: str = "quick", bare: bool = False, **options: Any) -> Recipe:
    rungs = parse_rungs(EFFORTS[effort].rungs)
    content = ladder_recipe(
        rungs,
        effort,
        DataFacts(bare, False),
        reference=next(iter(rungs)),
        margin=0.03,
        **options,
    )
    return load_recipe(content)


@pytest.mark.parametrize("effort", list(EFFORTS))
@pytest.mark.parametrize("bare", [False, True])
def test_every_rung_has_a_stage_with_and_one_without_a_teacher(effort: str, bare: bool) -> None:
    found = recipe(effort, bare)
    assert len(EFFORTS[effort].rungs) >= 4
    assert (found.folds or 0) * EFFORTS[effort].seeds >= 3  # fewer trainings can show nothing
    assert found.evaluation.margin == 0.03
    for name, model in parse_rungs(EFFORTS[effort].rungs).items():
        plain, distilled = (
            [stage for key, stage in found.stages.items() if (stage.variant or key) == wanted]
            for wanted in (name, f"{name}_distilled")
        )
        assert len(plain) == len(distilled) == EFFORTS[effort].seeds
        assert {stage.role for stage in plain} == {"baseline"}
        assert {stage.role for stage in distilled} == {"student"}
        assert all(stage.model.model_dump(exclude_unset=True) == model for stage in plain + distilled)
        for stage in distilled:
            members = stage.teachers["ensemble"].ensemble
            taught_by = {found.stages[member.stage].model.name for member in members}
            assert len(taught_by) == 2
            assert bare or all(member.out_of_fold for member in members)
            assert stage.taught_cases == ("without_mask" if bare else "all")


def test_parameters_go_from_two_million_down_to_some_ten_thousand() -> None:
    for effort in EFFORTS.values():
        counts = [
            sum(p.numel() for p in create_network(**model).parameters())
            for model in parse_rungs(effort.rungs).values()
        ]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > 2e6
        assert counts[-1] < 3e4


def test_the_reference_is_the_member_of_the_ensemble_where_images_lack_masks() -> None:
    members = recipe(bare=True).stages["lite_unet_tiny_distilled@0"].teachers["ensemble"].ensemble
    assert [member.stage for member in members] == ["simplified_unet@0", "larger@0", "teacher@0"]


def test_a_teacher_from_elsewhere_replaces_those_that_are_trained() -> None:
    found = recipe(outside={"onnx": "big.onnx", "trained_on": "none"}, seeds=3, folds=4)
    assert {stage.role for stage in found.stages.values()} == {"baseline", "student"}
    (teacher,) = found.stages["lite_unet_tiny_distilled@2"].teachers.values()
    assert (teacher.onnx or "").endswith("big.onnx")
    assert found.folds == 4
    some = recipe(outside={"onnx": "big.onnx"}, plain_only=["simplified_unet"]).stages
    assert "simplified_unet@0" in some
    assert "simplified_unet_distilled@0" not in some
    single = recipe(outside={"onnx": "big.onnx"}, seeds=0)
    assert single.folds is None
    assert list(single.stages)[:2] == ["simplified_unet", "simplified_unet_distilled"]


def test_teachers_take_the_share_of_the_steps_that_distill_gives_them() -> None:
    for effort, level in EFFORTS.items():
        found, known = recipe(effort), stages_of(effort, DataFacts())
        for kind in ("larger", "teacher"):
            stage = next(value for name, value in found.stages.items() if name.startswith(kind))
            share = known["stages"][kind]["fit"]["steps"] / known["fit"]["steps"]
            assert stage.fit == {"steps": int(level.steps * share)}
        assert found.stages["lite_unet_tiny@0"].fit == {}


def test_a_faster_rung_takes_more_steps_but_not_the_slowest_nor_the_teachers() -> None:
    found = recipe(longer={"simplified_unet": 1, "lite_unet_huge": 2, "lite_unet_tiny": 4}).stages
    assert found["lite_unet_huge@0"].fit == {"steps": 800}
    assert found["lite_unet_tiny_distilled@0"].fit == found["lite_unet_tiny@0"].fit == {"steps": 1600}
    assert found["simplified_unet@0"].fit == found["lite_unet_medium@0"].fit == {}


def test_names_that_clash_are_refused() -> None:
    rungs = {"teacher": {"name": "unet"}, "small": {"name": "enet"}}
    with pytest.raises(InputError, match="rungs: 'teacher' is also a stage of the recipe: rename it"):
        ladder_recipe(rungs, "quick", DataFacts(), reference="small", margin=0.02)
    with pytest.raises(InputError, match="ends in _distilled"):
        parse_rungs({"a_distilled": {"name": "unet"}, "b": {"name": "enet"}})
