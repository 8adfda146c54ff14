"""Stages that are chosen from the data."""

from __future__ import annotations

import pytest

from segdistill.config.effort import DataFacts
from segdistill.config.load import load_recipe
from segdistill.config.schema import DataRecipe
from segdistill.data.plan import VolumePlan
from segdistill.errors import InputError


@pytest.mark.parametrize("effort", ["quick", "normal", "patient"])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("imagenet", [False, True])
def test_teachers_are_unlike_and_never_teach_what_they_have_seen(
    effort: str, bare: bool, imagenet: bool
) -> None:
    recipe = load_recipe("distill", {"effort": effort}, lambda _: DataFacts(bare, imagenet))
    students = [stage for stage in recipe.stages.values() if stage.role == "student"]
    assert len(students) == (3 if effort == "patient" else 1)
    for student in students:
        members = student.teachers["ensemble"].ensemble
        networks = {recipe.stages[member.stage].model.name for member in members}
        # where all have masks the baseline has seen what the teachers teach, and is none of them
        assert len(networks) == (3 if bare else 2)
        assert "simplified_unet" in networks
        assert ("unet_efficientnet_lite" in networks) == imagenet
        assert all(member.flips for member in members)
        if bare:
            assert student.taught_cases == "without_mask"
        else:
            assert all(member.out_of_fold for member in members)
        seeds = {
            (recipe.stages[m.stage].model.name, recipe.seed_of(m.stage), m.stage.split("-fold")[0])
            for m in members
        }
        assert len({seed[:2] for seed in seeds}) == len(seeds)  # no two are the same training
    assert recipe.plan
    assert {recipe.stages[name].role for name in recipe.stages} >= {"teacher", "student", "baseline"}


def test_facts_are_looked_up_in_the_data_that_the_call_names() -> None:
    seen: list[DataRecipe] = []

    def facts(data: DataRecipe) -> DataFacts:
        seen.append(data)
        return DataFacts()

    load_recipe("distill", {"effort": "quick", "size": 64, "data.unlabelled": "more"}, facts)
    assert (seen[0].size, seen[0].unlabelled) == (64, "more")
    load_recipe("distill", {"size": 64, "effort": None}, facts)
    assert len(seen) == 1  # without effort nothing is looked up


def test_distill_alone_takes_an_ensemble_where_it_is_worth_its_time() -> None:
    def stages(bare: bool, **changes: object) -> set[str]:
        return set(load_recipe("distill", changes, lambda _: DataFacts(without_mask=bare)).stages)

    written = {"teacher", "baseline", "student", "baseline_equal_time"}
    assert stages(False) == written
    assert stages(True) == {"baseline", "larger", "teacher", "student"}
    assert stages(True, effort=None) == written
    assert "teacher-fold-1" in stages(False, outside={"onnx": "big.onnx"})


def test_the_teacher_that_is_written_out_starts_from_imagenet_where_it_can() -> None:
    def teacher(imagenet: bool, **changes: object) -> tuple[str, str | None]:
        model = (
            load_recipe("distill", changes, lambda _: DataFacts(imagenet=imagenet)).stages["teacher"].model
        )
        return model.name, model.pretrained

    assert teacher(True) == ("unet_efficientnet_lite", "imagenet")
    assert teacher(False) == teacher(True, effort=None) == ("resnet_attention_unet", None)
    assert teacher(True, teacher="unet")[0] == "unet"
    assert teacher(True, **{"stages.teacher.model.depth": 34}) == ("resnet_attention_unet", None)


def test_the_calls_own_changes_come_last() -> None:
    recipe = load_recipe("distill", {"effort": "quick", "stages.student.model.name": "unet", "fit.steps": 7})
    assert recipe.stages["student"].model.name == "unet"
    assert recipe.fit.steps == 7
    by_epochs = load_recipe("distill", {"effort": "quick", "epochs": 3})
    assert (by_epochs.fit.steps, by_epochs.fit.epochs) == (None, 3)
    for made in (recipe, by_epochs):  # a length that the call states is that of the teachers, too
        assert not any("steps" in stage.fit for stage in made.stages.values())


def test_a_teacher_from_elsewhere_joins_the_ensemble() -> None:
    recipe = load_recipe(
        "distill", {"effort": "quick", "outside": {"predictions": "there", "trained_on": "all"}}
    )
    members = recipe.stages["student"].teachers["ensemble"].ensemble
    assert members[-1].predictions == "there" or str(members[-1].predictions).endswith("/there")
    assert members[-1].weight == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"effort": "qick"}, "effort is 'qick': did you mean 'quick'"),
        ({"effort": None, "outside": {"onnx": "a.onnx"}}, "outside belongs to effort"),
        ({"effort": "quick", "outside": "a.onnx"}, "outside: give what a teacher states"),
    ],
)
def test_bad_values_are_one_line(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_recipe("distill", changes)


def test_volumes_that_lie_close_together_get_networks_of_volumes() -> None:
    def facts(data: DataRecipe) -> DataFacts:
        return DataFacts(volumes=VolumePlan((2.0, 1.0, 1.0), (16, 32, 32), (16, 30, 30), 9, (0.0, 1.0)))

    whole = load_recipe("distill", {"data.intensity": "ct"}, facts)
    assert whole.data.dimensions == 3
    assert whole.data.preprocess().intensity is not None
    assert (whole.data.sides, whole.data.spacing) == ((16, 32, 32), [2.0, 1.0, 1.0])
    assert whole.stages["student"].model.name == "lite_unet"
    assert whole.stages["student"].targets == "case"
    for slices in ({"data.dimensions": 2}, {"student": "unet"}, {"size": 64}, {"effort": None}):
        assert load_recipe("distill", slices, facts).data.dimensions == 2


def test_a_spacing_means_volumes_and_is_the_one_they_are_planned_with() -> None:
    seen: list[DataRecipe] = []

    def facts(data: DataRecipe) -> DataFacts:
        seen.append(data)
        return DataFacts(volumes=VolumePlan((2.0, 2.0, 2.0), (16, 32, 32), (16, 30, 30), 9, (0.0, 1.0)))

    found = load_recipe("distill", {"data.spacing": [2, 2, 2], "student": "lite_unet"}, facts)
    assert (seen[0].dimensions, seen[0].spacing) == (3, [2, 2, 2])
    assert (found.data.dimensions, found.data.sides, found.data.channels) == (3, (16, 32, 32), 3)
    assert "channels" not in found.data.model_fields_set  # it is chosen from the data
    assert found.stages["teacher"].model.name == "unet"
    assert found.stages["student"].targets == "case"
    own = load_recipe("distill", {"data.size": [8, 16, 16]}, facts)
    assert (own.data.sides, own.data.spacing) == ((8, 16, 16), [2.0, 2.0, 2.0])
    stated = load_recipe("distill", {"data.dimensions": 3}, facts)
    assert (stated.data.sides, stated.stages["baseline"].model.name) == ((16, 32, 32), "lite_unet")
    quick = load_recipe("distill", {"effort": "quick"}, facts)
    assert quick.data.dimensions == 3
    assert {stage.model.name for stage in quick.stages.values()} == {"lite_unet", "unet"}
    assert (quick.fit.augment, quick.fit.batch_size) == ("volume", 2)
    members = quick.stages["student"].teachers["ensemble"].ensemble
    assert not any(member.flips for member in members)


PLAN = VolumePlan((2.0, 1.0, 1.0), (16, 32, 32), (16, 30, 30), 9, (0.0, 1.0))
OWN = {
    "base": "distill",
    "stages": {
        "teacher": None,
        "student": {"targets": "case", "teachers": {"teacher": None, "big": {"onnx": "b.onnx"}}},
    },
}


@pytest.mark.parametrize("facts", [DataFacts(without_mask=True), DataFacts(), DataFacts(volumes=PLAN)])
def test_stages_that_a_recipe_states_are_replaced_by_no_effort(facts: DataFacts) -> None:
    recipe = load_recipe(OWN, facts=lambda _: facts)
    assert list(recipe.stages["student"].teachers) == ["big"]
    assert recipe.data.dimensions == 2
    with pytest.raises(InputError, match="effort=quick would replace the stages that the recipe states"):
        load_recipe(OWN, {"effort": "quick"}, lambda _: facts)
    with pytest.raises(InputError, match="effort: quick chooses the stages, and the recipe states its own"):
        load_recipe(OWN | {"effort": "quick"}, facts=lambda _: facts)
    with pytest.raises(InputError, match="would replace the stages"):
        load_recipe("lightbtseg/cpu", {"effort": "quick"}, lambda _: facts)
    chosen = load_recipe({"base": "distill", "effort": "quick"}, facts=lambda _: DataFacts(without_mask=True))
    assert "larger" in chosen.stages
