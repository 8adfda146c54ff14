"""Recipes from YAML files: bundled ones, a user's own, and changes from the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from segdistill.config.effort import (
    FROM_SCRATCH,
    IMAGENET,
    DataFacts,
    effort_for,
    stages_of,
    volume_data,
)
from segdistill.config.folds import expand_folds
from segdistill.config.matrix import expand_matrix, expand_seeds
from segdistill.config.schema import DataRecipe, Recipe, RecipeFile, merge, parse_data, parse_recipe
from segdistill.data.plan import VolumePlan
from segdistill.errors import InputError
from segdistill.files import real_path
from segdistill.plugins import load_plugins
from segdistill.registry import near_names, nearest

# what users change most -> its place in the recipe; `epochs` also reaches stages with epochs or steps of their own
SHORTCUTS = {
    "size": "data.size",
    "dataset": "data.dataset",
    "channels": "data.channels",
    "labels": "data.labels",
    "epochs": "fit.epochs",
    "batch_size": "fit.batch_size",
    "precision": "fit.precision",
    "augment": "fit.augment",
    "lr": "fit.optimizer.lr",
    "teacher": "stages.teacher.model.name",
    "student": "stages.student.model.name",
}


NAMES = ("labels", "sites", "counts", "external")
"""Keys of names that users choose, which YAML may take for numbers, dates or truth values: 3, 012, no."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers, so that 1e-3 is one, no key twice, and the names of NAMES as they are written."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1 and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' twice", node.start_mark)
        for key, value in node.value:
            if key.value in NAMES:
                _keep_text(value)
        return super().construct_mapping(node, deep)


def _keep_text(node: yaml.Node) -> None:
    """Makes the items of a list, or the keys of a mapping, text."""
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        items = [key for key, _ in node.value]
    for item in items:
        if isinstance(item, yaml.ScalarNode) and item.tag.rpartition(":")[2] in (
            "int",
            "float",
            "bool",
            "timestamp",
        ):
            item.tag = "tag:yaml.org,2002:str"


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"),
    list("-+.0123456789"),
)


def bundled_recipes() -> dict[str, str]:
    """Name -> what it is about, of every recipe in the package.

    >>> "distill" in bundled_recipes()
    True
    """
    found = {}
    for name, path in sorted(_bundled_paths().items()):
        found[name] = str(_read_yaml(path).get("about", "")).strip()
    return found


def load_recipe(
    source: str | Path | Mapping[str, Any],
    changes: Sequence[str] | Mapping[str, Any] = (),
    facts: Callable[[DataRecipe], DataFacts] | None = None,
) -> Recipe:
    """Reads a recipe and runs its plugins: call it only for a recipe that the user wants to run.

    Args:
        source: a bundled name such as "lightbtseg/cpu", a path that ends in .yaml, or the content of a recipe.
        changes: dotted key, or short name of SHORTCUTS -> value; or "key=value" each, where the value is YAML.
        facts: finds what decides the stages of a recipe with `effort`; by default all images have masks.

    Raises:
        InputError: no such recipe, not YAML, an unknown key, a wrong type, or a plugin that fails.

    >>> load_recipe("distill", ["epochs=3"]).fit.epochs
    3
    >>> load_recipe("distill", {"epochs": 3, "stages.student.about": "small"}).stages["student"].about
    'small'
    """
    name = "recipe" if isinstance(source, Mapping) else str(source)
    content = (
        _with_base({"name": name, **source}, Path(), ())
        if isinstance(source, Mapping)
        else _resolve(name, Path(), ())
    )
    given = changes if isinstance(changes, Mapping) else parse_changes(changes)
    content = _with_effort(content, given, facts, name)
    for key, value in given.items():
        content = _apply(content, key, value)
    for key in ("effort", "outside"):
        content.pop(key, None)
    if "epochs" in given:
        content = _with_epochs(content, given)
    content = _in_folder(Path(), _with_size_of_patches(content, given))
    load_plugins(_plugins(content, name))
    try:
        content = expand_seeds(expand_folds(expand_matrix(content)))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return parse_recipe(content, name)


def _with_effort(
    content: dict[str, Any],
    changes: Mapping[str, Any],
    facts: Callable[[DataRecipe], DataFacts] | None,
    name: str,
) -> dict[str, Any]:
    """The content with the stages that its effort chooses; they replace its own."""
    content = _with_part(content, changes, "outside")
    effort, outside = (changes.get(key, content.get(key)) for key in ("effort", "outside"))
    if effort is None:
        if outside is not None:
            raise InputError(
                f"{name}: outside belongs to effort: set effort=normal, or add it to a stage's teachers"
            )
        return content
    if content.get("effort") is None and _OWN & set(content):
        raise InputError(
            f"{name}: effort={effort} would replace the stages that the recipe states: leave effort away, or run "
            "distill"
        )
    if outside is not None and not isinstance(outside, dict):
        raise InputError(
            f"{name}: outside: give what a teacher states, such as {{onnx: big.onnx}}, not {outside!r}"
        )
    stated = content.get("data") or {}
    content = _with_part(content, changes, "data")
    parsed = parse_data(content.get("data") or {}, name)
    found = _found(parsed, changes, facts)
    volumes = found.volumes is not None or parsed.dimensions == 3
    if volumes:
        content = content | {"data": _of_volumes(stated, found.volumes)}
    if str(effort) == "auto" and volumes and outside is None:
        return _for_volumes(content)
    chosen = effort_for(str(effort), found, outside)
    if chosen is None:
        return _from_imagenet(content, changes) if found.imagenet else content
    built = with_length(stages_of(chosen, found, outside), changes)
    fit = merge(content.get("fit") or {}, built.pop("fit", {}))
    return content | built | {"fit": fit}


def _from_imagenet(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The stages that `distill` writes out, with a teacher that starts from ImageNet, where nothing else is stated."""
    keys = {SHORTCUTS.get(key, key) for key in changes}
    teacher = content.get("stages", {}).get("teacher", {})
    if teacher.get("model") != FROM_SCRATCH or any(
        key.startswith("stages.teacher") or key == "stages" for key in keys
    ):
        return content
    about = "EfficientNet-Lite 0 that starts from ImageNet, trained on all images"
    own = teacher | {"about": about, "model": dict(IMAGENET)}
    return content | {"stages": content["stages"] | {"teacher": own}}


def _with_part(content: dict[str, Any], changes: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The content with those changes that concern one part of it."""
    for key, value in changes.items():
        if SHORTCUTS.get(key, key).partition(".")[0] == part:
            content = _apply(content, key, value)
    return content


def with_length(built: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What an effort chose, where the call states epochs or steps: its length is that of every stage.

    >>> chosen = {"fit": {"steps": 600}, "stages": {"larger": {"fit": {"steps": 200}}}}
    >>> with_length(chosen, {"epochs": 2})
    {'fit': {}, 'stages': {'larger': {'fit': {}}}}
    """
    lengths = {SHORTCUTS.get(key, key) for key in changes} & {"fit.epochs", "fit.steps"}
    if lengths:
        for stage in built["stages"].values():
            stage.get("fit", {}).pop("steps", None)
    if "fit.epochs" in lengths:
        built["fit"].pop("steps")
    return built


def _found(
    data: DataRecipe, changes: Mapping[str, Any], facts: Callable[[DataRecipe], DataFacts] | None
) -> DataFacts:
    """What is known of the data; `volumes` where networks see patches of volumes."""
    found = DataFacts() if facts is None else facts(data)
    return replace(found, volumes=None) if data.dimensions == 2 and chooses_slices(changes) else found


def _with_epochs(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The short name `epochs` means all stages, those too that state epochs or steps of their own.

    A change that names a stage stays. `fit.epochs` means the recipe's own alone.
    """

    def reached(place: str, part: Any) -> Any:
        fit = part.get("fit") if isinstance(part, dict) else None
        own = f"{place}.fit.epochs", f"{place}.fit.steps", f"{place}.fit", place
        if not isinstance(fit, dict) or not {"epochs", "steps"} & set(fit) or {*own} & set(changes):
            return part
        kept = {key: value for key, value in fit.items() if key != "steps"}
        return {**part, "fit": {**kept, "epochs": changes["epochs"]}}

    def reached_all(place: str, parts: Any) -> Any:
        if not isinstance(parts, dict):
            return parts
        return {name: reached(f"{place}.{name}", part) for name, part in parts.items()}

    whole = dict(content)
    if isinstance(fit := content.get("fit"), dict) and "fit.steps" not in changes:
        whole["fit"] = {key: value for key, value in fit.items() if key != "steps"}
    if "stages" in content:
        whole["stages"] = reached_all("stages", content["stages"])
    if isinstance(matrix := content.get("matrix"), dict):
        whole["matrix"] = {axis: reached_all(f"matrix.{axis}", parts) for axis, parts in matrix.items()}
    return whole


def chooses_slices(changes: Mapping[str, Any]) -> bool:
    """Whether changes that state no volumes choose networks, or the size at which these see pictures and slices.

    >>> chooses_slices({"size": 128}), chooses_slices({"fit.steps": 9})
    (True, False)
    """
    keys = {SHORTCUTS.get(key, key) for key in changes}
    return any(key.startswith(("stages", "data.dimensions", "data.size", "data.patches")) for key in keys)


def _of_volumes(data: Mapping[str, Any], plan: VolumePlan | None) -> dict[str, Any]:
    """The part on data for networks of volumes: what is not stated for volumes is as planned, or left to the data."""
    own = parse_data(data, "data").dimensions == 3
    kept = {key: value for key, value in data.items() if own or key not in ("size", "channels")}
    return {"dimensions": 3} | ({} if plan is None else volume_data(plan)) | kept


def _for_volumes(content: dict[str, Any]) -> dict[str, Any]:
    """The content with the stages of volumes/distill."""
    whole = _resolve("volumes/distill", Path(), ())
    parts = {key: whole[key] for key in ("fit", "stages", "evaluation", "export")}
    return {key: value for key, value in content.items() if key != "run"} | parts


def _plugins(content: dict[str, Any], name: str) -> list[str]:
    """Checked here, because plugins run before the recipe is: they may register what it names."""
    plugins = content.get("plugins", [])
    if not isinstance(plugins, list) or not all(isinstance(plugin, str) for plugin in plugins):
        raise InputError(f"{name}: plugins: give a list of files and modules, not {plugins!r}")
    return plugins


def _with_size_of_patches(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Where the network sees patches, a change of `size` alone is also that of `data.patches.size`."""
    given = {SHORTCUTS.get(key, key): value for key, value in changes.items()}
    data = content.get("data")
    if "data.size" not in given or not isinstance(data, dict) or not isinstance(data.get("patches"), dict):
        return content
    if "data.patches.size" in given or "size" in (given.get("data.patches") or ()):
        return content
    return merge(content, {"data": {"patches": {"size": data["size"]}}})


def _in_folder(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Files that a recipe names are relative to its folder; those of `--set` to the current one."""
    data, plugins, stages = content.get("data"), content.get("plugins"), content.get("stages")
    external, outside = content.get("external"), content.get("outside")
    if isinstance(outside, dict):
        content = content | {"outside": _teacher_in_folder(folder, outside)}
    if isinstance(data, dict):
        content = content | {"data": _with_paths(folder, data, ("table", "unlabelled"))}
    if isinstance(external, dict):
        content = content | {"external": _with_paths(folder, external, list(external))}
    if isinstance(stages, dict):
        content = content | {
            "stages": {key: _stage_in_folder(folder, stage) for key, stage in stages.items()}
        }
    if isinstance(plugins, list):
        places = [str((folder / each).absolute()) if str(each).endswith(".py") else each for each in plugins]
        content = content | {"plugins": places}
    return content


def _stage_in_folder(folder: Path, stage: Any) -> Any:
    teachers = stage.get("teachers") if isinstance(stage, dict) else None
    if not isinstance(teachers, dict):
        return stage
    placed = {key: _teacher_in_folder(folder, teacher) for key, teacher in teachers.items()}
    return stage | {"teachers": placed}


def _teacher_in_folder(folder: Path, teacher: Any) -> Any:
    if not isinstance(teacher, dict):
        return teacher
    if isinstance(teacher.get("ensemble"), list):
        teacher = teacher | {"ensemble": [_teacher_in_folder(folder, each) for each in teacher["ensemble"]]}
    words = teacher.get("trained_on") in ("all", "none", "unknown")
    return _with_paths(folder, teacher, _FILES if words else (*_FILES, "trained_on"))


_FILES = ("predictions", "onnx", "weights", "table")


def _with_paths(folder: Path, content: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    there = {
        key: str((folder / content[key]).absolute()) for key in keys if isinstance(content.get(key), str)
    }
    return content | there


def recipe_file(name: str) -> Path:
    """The file of a bundled recipe.

    Raises:
        InputError: unknown name, with the near ones.

    >>> recipe_file("demo").name
    'demo.yaml'
    """
    bundled = _bundled_paths()
    if name not in bundled:
        raise InputError(f"unknown recipe '{name}': {near_names(name, bundled)}")
    return bundled[name]


def _bundled_paths() -> dict[str, Path]:
    root = Path(str(resources.files("segdistill") / "recipes"))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.yaml")}


def _resolve(name: str, near: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    """A recipe's content on top of that of its `base`: a bundled recipe, or a file relative to the recipe's folder."""
    bundled = _bundled_paths()
    path = bundled.get(name, near / name)
    if name not in bundled and path.suffix not in (".yaml", ".yml"):
        raise InputError(f"unknown recipe '{name}': {_instead_of(name, near, bundled)}")
    place = str(real_path(path))
    if place in seen:
        raise InputError(
            f"{name}: recipes are based on each other in a circle: {' -> '.join([*seen, place])}"
        )
    return _with_base(_read_yaml(path), path.parent, (*seen, place))


_OWN = {"stages", "matrix"}
"""Where a recipe states what is trained; `effort` chooses it from the data instead."""


def _with_base(content: dict[str, Any], folder: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    content = _in_folder(folder, content)
    if _OWN & set(content) and content.get("effort", "auto") not in (None, "auto"):
        raise InputError(
            f"effort: {content['effort']} chooses the stages, and the recipe states its own: remove one of them"
        )
    base = content.pop("base", None)
    if base is None:
        return content
    if _OWN & set(content):  # whoever states stages has chosen: the base's effort replaces none of them
        content = {"effort": None} | content
    below = _resolve(str(base), folder, seen)
    both = {key: [*below[key], *content[key]] for key in ("plugins",) if key in below and key in content}
    return merge(below, content | both)


def _instead_of(name: str, near: Path, bundled: dict[str, Path]) -> str:
    """What an unknown name may mean, for the message."""
    if name and (near / f"{name}.yaml").is_file():
        return f"did you mean {near / f'{name}.yaml'}?"
    if name and (near / name).exists():
        return f"a recipe is a name (segdistill list recipes) or a .yaml file; for data there is --data {near / name}"
    if nearest(name, bundled):
        return near_names(name, bundled)
    return "segdistill list recipes shows the names; or give a .yaml file"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except FileNotFoundError as error:
        raise InputError(f"no recipe file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read recipe {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {_where(error)}") from error
    except RecursionError:
        raise InputError(f"{path} is not a recipe: its lists or keys are nested too deeply") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a recipe: it has no keys")
    return content


def _where(error: yaml.YAMLError) -> str:
    """Line, column and problem."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return place + " ".join(str(problem or error).split())


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Key -> value of texts "key=value", where the value is YAML.

    Raises:
        InputError: another form.

    >>> parse_changes(["lr=1e-3"])
    {'lr': 0.001}
    """
    found = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise InputError(
                f"--set {change}: write key=value, such as epochs=20 or stages.student.model.name=unet"
            )
        try:
            last = key.rpartition(".")[2]
            found[key] = (
                yaml.load(f"{last}: {text}", _Loader)[last] if last in NAMES else yaml.load(text, _Loader)
            )
        except (yaml.YAMLError, RecursionError) as error:
            raise InputError(f"--set {change[:100]}: the value is not YAML") from error
    return found


def _apply(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    change = f"{key}={value}"
    key = SHORTCUTS.get(key, key)
    if "." not in key and key not in RecipeFile.model_fields:
        raise InputError(
            f"--set {change}: unknown key: {near_names(key, [*SHORTCUTS, *RecipeFile.model_fields])}"
        )
    place = key.split(".")
    if place[0] == "stages":
        _require_stage(content.get("stages"), place[1:], value, change)
    for part in reversed(place):
        value = {part: value}
    return merge(content, value)


def _require_stage(stages: object, place: list[str], value: object, change: str) -> None:
    """A change concerns a stage of the recipe, or states a whole new one."""
    named = [str(name) for name in stages] if isinstance(stages, dict) else []
    is_new = len(place) == 1 and isinstance(value, dict) and "model" in value
    if not is_new and (not place or place[0] not in named):
        known = near_names("".join(place[:1]), named)
        raise InputError(
            f"--set {change}: the recipe has no such stage: {known}; a new one needs a model: "
            "stages.NAME={model: {name: unet}}"
        )
