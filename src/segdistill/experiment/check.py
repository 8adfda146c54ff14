"""Refuses a recipe that cannot be trained before anything runs: every part is built once without memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from segdistill.config.schema import MemberRecipe, Recipe, StageRecipe
from segdistill.data.augment import make_augment
from segdistill.data.case import Case
from segdistill.data.store import Store
from segdistill.distillation import create_weighting
from segdistill.distillation.methods.lightvessel import FeatureAutoEncoders
from segdistill.errors import InputError
from segdistill.experiment.build import (
    build_autoencoders,
    labelled_model,
    make_methods,
    mask_methods,
    require_joint,
    with_class_count,
)
from segdistill.experiment.evaluation import NO_SCORES
from segdistill.experiment.inputs import OpenedPredictions, file_facts, stage_cases, trained_on
from segdistill.experiment.stage import build_network, encoder_of
from segdistill.experiment.teachers import require_usable
from segdistill.losses import create_loss
from segdistill.models.discriminator import RECEPTIVE_FIELD
from segdistill.models.network import shapes_only
from segdistill.models.pretrained import require_encoder_weights
from segdistill.models.registry import network_facts
from segdistill.stats.verdict import SEEDS
from segdistill.training.adversarial import discriminator_sizes, make_discriminators, stage_shapes
from segdistill.training.distillation import build_learned_parts


def require_cases(recipe: Recipe, name: str, cases: list[Case]) -> None:
    """Refuses a stage without training cases, or with a teacher of labels that no training case has.

    Raises:
        InputError: names the stage, the class or site, and what there is.
    """
    stage = recipe.stages[name]
    found = stage_cases(recipe, name, cases, "train")
    require_joint(stage, name, found)
    _require_masks(stage, name, found)
    labels = {case.label for case in found}
    if stage.routing == "all" and not stage.finetune_teachers:
        return  # every teacher teaches every image
    for key, teacher in stage.teachers.items():
        if teacher.labels and not labels & set(teacher.labels):
            raise InputError(
                f"stage {name}: teacher '{key}' teaches images labelled {', '.join(teacher.labels)}, but the training "
                f"cases are {', '.join(sorted(labels)) or 'without labels'}"
            )


def _require_masks(stage: StageRecipe, name: str, cases: list[Case]) -> None:
    """InputError where all methods of a student need masks, and no case that is taught has one."""
    taught = [case for case in cases if not (stage.taught_cases == "without_mask" and case.has_reference)]
    if stage.methods and not any(case.has_reference for case in taught):
        needing = mask_methods(stage)
        if len(needing) == len(stage.methods):
            raise InputError(
                f"stage {name}: {', '.join(needing)} {'needs' if len(needing) == 1 else 'need'} masks, and none of the "
                "images that its teachers teach has one: add the method soft_mask, or set taught_cases: all"
            )


def require_outside(recipe: Recipe, stages: list[str], cases: list[Case], opened: OpenedPredictions) -> None:
    """Refuses teachers from elsewhere whose files are not there, or whose predictions do not fit the training cases.

    Args:
        recipe: of the run.
        stages: those that will be trained.
        cases: with their splits.
        opened: folders of predictions, each of which is opened once.

    Raises:
        InputError: as `file_facts` and `trained_on`.
    """
    for member, known in _outside(recipe, stages, cases):
        file_facts(member, known, opened)
        trained_on(recipe, member, cases, opened)


def require_outside_models(
    recipe: Recipe, stages: list[str], cases: list[Case], opened: OpenedPredictions
) -> None:
    """Loads every teacher from elsewhere once, so that one that cannot be used stops the run before it starts.

    Raises:
        InputError: as `require_usable`.
    """
    for member, known in _outside(recipe, stages, cases):
        require_usable(recipe, member, known, opened)


def _outside(
    recipe: Recipe, stages: list[str], cases: list[Case]
) -> Iterator[tuple[MemberRecipe, list[Case]]]:
    """Teachers from elsewhere, each once with the cases that it is asked for, though several stages have it."""
    seen = set()
    for name in stages:
        train = stage_cases(recipe, name, cases, "train")
        for teacher in recipe.stages[name].teachers.values():
            known = [*train, *stage_cases(recipe, name, cases, "val")] if teacher.weigh_by else train
            for member in teacher.members:
                key = member.model_dump_json(), tuple(case.id for case in known)
                if member.is_outside and key not in seen:
                    seen.add(key)
                    yield member, known


def require_classes(recipe: Recipe, name: str, cases: list[Case], store: Store) -> None:
    """Refuses a stage in whose training cases a class of the masks does not occur.

    Raises:
        InputError: names the stage and the classes.
    """
    names = recipe.data.class_names[1:]
    if len(names) < 2 or recipe.stages[name].task == "autoencoder":
        return
    found = [case for case in stage_cases(recipe, name, cases, "train") if case.has_reference]
    seen = frozenset().union(*(store.classes(case.id) for case in found))
    missing = [each for k, each in enumerate(names, start=1) if k not in seen]
    if found and missing:
        raise InputError(
            f"stage {name}: no training case holds the class {', '.join(missing)}: remove it from data.classes, or "
            "divide the cases in another way (data.split.seed)"
        )


def check_parts(recipe: Recipe, stages: list[str]) -> None:
    """Builds every part of the stages once without memory, so that a wrong option stops the run before it starts.

    Raises:
        InputError: an unknown network, loss, method, option, feature or augmentation, images of a size that a
            network does not take, or pretrained weights that are not there, have another hash or do not fit; names
            the stage.
    """
    recipe = with_class_count(recipe)
    volumes = recipe.data.dimensions == 3
    if len(recipe.data.class_names) > 2 and recipe.evaluation.needs_scores:
        raise InputError(NO_SCORES)
    if volumes and recipe.evaluation.robustness:
        raise InputError(
            "evaluation.robustness disturbs pictures and slices: remove it, or set data.dimensions=2"
        )
    built: dict[str, nn.Module] = {}
    for name in stages:
        stage = recipe.stages[name]
        try:
            create_loss(stage.loss.name, **stage.loss.options)
            with shapes_only():
                _check_networks(recipe, stage, built)
            make_augment(recipe.fit_settings(name).augment)
            _check_pretrained(stage, recipe.data.channels)
        except InputError as error:
            raise InputError(f"stage {name}: {error}") from error
        except (RuntimeError, OverflowError, TypeError) as error:
            if "overflow" not in f"{type(error).__name__} {error}".lower():
                raise
            raise InputError(
                f"stage {name}: a network of this size cannot be built: lower its widths or data.channels"
            ) from error


def _check_networks(recipe: Recipe, stage: StageRecipe, built: dict[str, nn.Module]) -> None:
    """Networks and what they must have of each other, on the meta device; `built` holds those of other stages."""

    def network(of: StageRecipe) -> nn.Module:
        key = labelled_model(of).model_dump_json()
        if key not in built:
            built[key] = without_weights(of, recipe.data.channels)
        return built[key]

    segments = stage.task != "autoencoder" and stage.joint_settings is None
    if segments and (kind := network_facts(stage.model.name).kind) in ("classifier", "discriminator"):
        raise InputError(
            f"{stage.model.name} is a {kind}, but a stage with task: {stage.task} needs a network that segments: "
            "segdistill list networks"
        )
    _require_count(recipe, stage)
    teachers = {
        name: network(recipe.stages[teacher.stage]) if stage.targets == "view" else None
        for name, teacher in stage.teachers.items()
    }
    if stage.task == "autoencoder":
        for name, teacher in teachers.items():
            assert teacher is not None  # auto-encoders have no targets by case
            build_autoencoders(stage.model, teacher, name)
        return
    student = network(stage)
    _require_dimensions(recipe, stage, student)
    _require_size(recipe.data.sides, student)
    if stage.task in ("supervised", "joint"):
        return
    if stage.task == "adversarial":
        channels, size = recipe.data.channels, recipe.data.height_width
        shapes = stage_shapes(student, channels, size)
        make_discriminators(stage.adversarial_settings, shapes, channels, size)
        return

    def codes(name: str, trained: str) -> FeatureAutoEncoders:
        learned = recipe.stages[trained]
        (source,) = learned.taught_by
        return build_autoencoders(learned.model, network(recipe.stages[source]), source)

    weighting = create_weighting(stage.weighting.name, **stage.weighting.options)
    build_learned_parts(student, teachers, make_methods(stage, codes), weighting, stage.combine)


def _require_dimensions(recipe: Recipe, stage: StageRecipe, student: nn.Module) -> None:
    """InputError where a network takes pictures, and the recipe has volumes, or the reverse, or where the task knows
    only pictures.
    """
    if recipe.data.dimensions == 2:
        if getattr(student, "dimensions", 2) == 3:
            raise InputError(
                f"{stage.model.name} takes volumes with these options: set data.dimensions=3, or the model's "
                "dimensions to 2"
            )
        return
    if stage.task not in ("supervised", "distillation"):
        raise InputError(f"task: {stage.task} is for pictures and slices: set data.dimensions=2")
    if getattr(student, "dimensions", 3) != 3:
        raise InputError(
            f"{stage.model.name} takes pictures and slices: of volumes use unet or lite_unet, or set data.dimensions=2"
        )


def _require_count(recipe: Recipe, stage: StageRecipe) -> None:
    """InputError where a network has another number of classes than the masks."""
    names, classes = recipe.data.class_names, stage.model.options.get("classes", 2)
    if stage.task in ("autoencoder", "joint") or classes == len(names) or (len(names) == 2 and classes == 1):
        return
    if len(names) == 2:
        raise InputError(
            f"model.classes is {classes}, but masks have background and one kind of foreground: "
            "use 2, or 1 for a single sigmoid logit"
        )
    raise InputError(
        f"model.classes is {classes}, but the masks hold {len(names)} classes ({', '.join(names)}): remove "
        "model.classes"
    )


def without_weights(stage: StageRecipe, channels: int) -> nn.Module:
    """The network of a stage without its pretrained weights; for shapes, on the meta device too."""
    return build_network(labelled_model(stage).model_copy(update={"pretrained": None}), channels)


def _check_pretrained(stage: StageRecipe, channels: int) -> None:
    """Pretrained weights against the encoder that they are meant for."""
    model = stage.model
    if model.pretrained is None:
        return
    if stage.task == "autoencoder":
        raise InputError("auto-encoders take no pretrained weights: remove model.pretrained")
    with shapes_only():
        network = without_weights(stage, channels)
    require_encoder_weights(encoder_of(network, model.name), model.pretrained, model.sha256)


def _require_size(size: tuple[int, ...], network: nn.Module) -> None:
    divisor, smallest = int(getattr(network, "size_divisor", 1)), int(getattr(network, "smallest", 1))
    sides = [-(-max(side, smallest) // divisor) * divisor for side in size]
    if sides != list(size):
        divided = all(side % divisor == 0 for side in size)
        rule = f"below {smallest} pixels" if divided else f"not a multiple of {divisor}"
        fitting = str(sides[0] if len(set(sides)) == 1 else sides)
        raise InputError(f"image size {'x'.join(map(str, size))} is {rule}; use size={fitting}")


def recipe_warnings(recipe: Recipe, stages: list[str]) -> list[str]:
    """What to know before the stages are trained; their parts have been checked.

    >>> from segdistill.config.load import load_recipe
    >>> recipe = load_recipe("distill", ["seeds=[0]"])
    >>> recipe_warnings(recipe, list(recipe.stages))
    ['1 seed: a verdict needs at least three']
    """
    return [*_few_seeds(recipe, stages), *_small_maps(recipe, stages)]


def _few_seeds(recipe: Recipe, stages: list[str]) -> list[str]:
    """Students and baselines that are compared over fewer trainings, of seeds and folds, than a verdict needs."""
    compared = [recipe.stages[name] for name in stages if recipe.stages[name].role in ("student", "baseline")]
    seeds = Counter(stage.variant for stage in compared if stage.variant is not None)
    if not {"student", "baseline"} <= {stage.role for stage in compared if stage.variant is not None}:
        return []
    fewest = min(seeds.values())
    needed = {2: "two", 3: "three"}.get(SEEDS, str(SEEDS))
    found = f"{fewest} seed{'s' if fewest > 1 else ''}"
    return [f"{found}: a verdict needs at least {needed}"] if fewest * (recipe.folds or 1) < SEEDS else []


def _small_maps(recipe: Recipe, stages: list[str]) -> list[str]:
    """Discriminators whose patches are larger than their maps: one line for all stages, with the smallest map."""
    size, channels = recipe.data.height_width, recipe.data.channels
    small: dict[str, tuple[int, int]] = {}
    for name in stages:
        stage = recipe.stages[name]
        if stage.task != "adversarial":
            continue
        with shapes_only():
            shapes = stage_shapes(without_weights(stage, channels), channels, size)
        sizes = discriminator_sizes(stage.adversarial_settings, shapes, size)
        smallest = min(sizes, key=min, default=None)
        if smallest is not None and min(smallest) < RECEPTIVE_FIELD:
            small[name] = smallest
    if not small:
        return []
    height, width = min(small.values(), key=min)
    named = f"stage{'s' if len(small) > 1 else ''} {', '.join(small)}"
    return [
        f"{named}: discriminators see maps of {height}x{width}, smaller than the {RECEPTIVE_FIELD}x{RECEPTIVE_FIELD} "
        "pixels of each of their logits: they classify maps as a whole, not patches"
    ]
