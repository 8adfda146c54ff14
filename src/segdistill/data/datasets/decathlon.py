"""A task of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 13, 2022), or a dataset in
the layout of nnU-Net (Isensee et al., Nature Methods 18, 2021), which follows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segdistill.data.case import Case, unnamed
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, natural_key, require_pairs
from segdistill.errors import InputError
from segdistill.imaging.classes import Classes, MaskClass, parse_classes
from segdistill.imaging.read import READABLE_SUFFIXES
from segdistill.imaging.read_volume import VOLUME_SUFFIXES, is_volume
from segdistill.imaging.several import Channel

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
_SUFFIXES = (*VOLUME_SUFFIXES, *sorted(READABLE_SUFFIXES))
_WHOLE = -1  # number of a file that holds all channels

Files = dict[int, Path]
"""Number of the channel, from 0, -> its file."""


@dataclass(frozen=True)
class _Declared:
    """What dataset.json states: the classes, none where it does not tell; the training images, where it lists them; the
    names of the channels.
    """

    classes: Classes = ()
    channels: tuple[str, ...] = ()
    images: tuple[str, ...] = ()


@register_dataset(
    "decathlon",
    "Medical Segmentation Decathlon, one task (Antonelli et al. 2022), or a dataset of nnU-Net",
    how_to_get=(
        "Download a task, such as Task09_Spleen.tar (41 labelled CT), from "
        "medicaldecathlon.com and unpack it. CC BY-SA 4.0; cite the paper. Or give a folder of nnU-Net with imagesTr, "
        "labelsTr and dataset.json."
    ),
    published={"": 41},
    sign=lambda folder: (folder / "imagesTr").is_dir() and (folder / "labelsTr").is_dir(),
)
def index(path: Path, task: str = "") -> list[Case]:
    """Cases of one task: imagesTr/NAME.nii.gz with labelsTr/NAME.nii.gz, or nnU-Net's imagesTr/NAME_0000.nii.gz.

    Several channels lie in one file of four dimensions (Decathlon), or in NAME_0000, NAME_0001 and so on (nnU-Net).

    dataset.json beside them may be the Decathlon's (labels as value: name, and a list of the training pairs, of
    which only those are taken) or nnU-Net's (labels as name: value). A label beyond its classes becomes an error when
    the mask is read. Images of the test set (imagesTs) are skipped where they have no labels; those with labels in
    labelsTs have the split test, and the others then train. nnU-Net's regions, which overlap, become
    their parts, which do not (`parts_of`).

    Args:
        path: the task's folder, or one above it.
        task: the start of the folder's name where there are several, such as "Task09".

    Raises:
        InputError: not a task, several tasks, a case without one of the channels, a dataset.json that is neither, a
            listed file that is missing, or a mask without image.
    """

    def fits(folder: Path) -> bool:
        return folder.name.startswith(task) and all(
            (folder / part).is_dir() for part in ("imagesTr", "labelsTr")
        )

    root = find_root(
        path,
        fits,
        "a Decathlon task or an nnU-Net dataset with imagesTr and labelsTr"
        + (f" named {task}" if task else ""),
    )
    declared = _declared(root / "dataset.json")
    masks = _masks(root / "labelsTr")
    images = _images(root / "imagesTr", masks)
    if declared.images:
        images = _listed(root, declared.images, images)
    tested = _tested(root)
    channels = _channel_names([*images.values(), *(files for files, _ in tested.values())], declared.channels)

    def case(name: str, files: Files, mask: Path | None, split: str, key: str = "") -> Case:
        found = _channels(name, files, channels)
        drawn = (mask,) if mask else ()
        plain = Case(key or name, found[0].path, drawn, site=root.name, split=split, classes=declared.classes)
        return replace(plain, channels=found) if channels else plain

    split = "train" if tested else ""
    cases = [case(name, files, masks.pop(name.lower(), None), split) for name, files in images.items()]
    if not declared.images:
        require_pairs(list(masks.values()))
    for name, (files, mask) in tested.items():
        cases.append(case(name, files, mask, "test", f"imagesTs/{name}" if name in images else name))
    return cases


def _masks(folder: Path) -> dict[str, Path]:
    """Name of the case in small letters -> its mask."""
    return {_stem(file).lower(): file for file in _files(folder)}


def _tested(root: Path) -> dict[str, tuple[Files, Path]]:
    """Name of the case -> its files by channel and its mask, of the images of the test set that have labels."""
    if not (root / "imagesTs").is_dir() or not (root / "labelsTs").is_dir():
        return {}
    masks = _masks(root / "labelsTs")
    if not masks:
        return {}
    images = _images(root / "imagesTs", masks)
    found = {
        name: (files, masks.pop(name.lower())) for name, files in images.items() if name.lower() in masks
    }
    require_pairs(list(masks.values()))
    return found


def _images(folder: Path, masks: dict[str, Path]) -> dict[str, Files]:
    """Name of the case -> its files by channel, of one without number -1; where masks are named without it, a number of
    four digits is nnU-Net's channel.
    """
    files = {_stem(file): file for file in _files(folder)}
    if not files:
        raise InputError(f"{folder}: holds no images that are read: {', '.join(_SUFFIXES)}")
    matches = {stem: _CHANNEL.match(stem) for stem in files}
    if not any(
        match and stem.lower() not in masks and match["case"].lower() in masks
        for stem, match in matches.items()
    ):
        return {stem: {_WHOLE: file} for stem, file in files.items()}
    images: dict[str, Files] = {}
    for stem, file in files.items():
        match = matches[stem]
        if match is None or stem.lower() in masks:
            images[stem] = {_WHOLE: file}
        else:
            images.setdefault(match["case"], {})[int(match["channel"])] = file
    return images


def _channel_names(images: Sequence[Files], declared: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the channels, none where cases have one without a name, or are pictures of one, or of red, green and
    blue in one file.
    """
    most = max(max(files) for files in images) + 1
    names = declared or unnamed(max(most, 1))
    in_one = most <= 1 and not any(is_volume(file) for files in images for file in files.values())
    is_plain = in_one or declared in ((), ("image",))
    return () if (len(names) == 1 and is_plain) or (len(names) == 3 and in_one) else names


def _channels(name: str, files: Files, channels: tuple[str, ...]) -> tuple[Channel, ...]:
    """Where the channels of a case lie; of one image its file.

    Raises:
        InputError: one is missing, or there are more than have names.
    """
    last = max(files)
    if last >= max(len(channels), 1):
        raise InputError(
            f"{files[last]}: is channel {last + 1} of a case, and dataset.json names {len(channels) or 1}: name all in "
            '"channel_names", or move the file away'
        )
    if _WHOLE in files and len(files) > 1:
        raise InputError(f"{files[_WHOLE]}: case '{name}' has files with and without the number of a channel")
    if len(channels) < 2:
        return (Channel(channels[0] if channels else "image", files[last]),)
    if _WHOLE in files:
        return tuple(Channel(each, files[_WHOLE], part) for part, each in enumerate(channels, start=1))
    for number, each in enumerate(channels):
        if number not in files:
            there = files[last]
            raise InputError(
                f"case '{name}' lacks the channel {each}: {there.parent / f'{name}_{number:04d}'}"
                f"{there.name[len(_stem(there)) :]} is not there: restore it, or move the case's other files away"
            )
    return tuple(Channel(each, files[number]) for number, each in enumerate(channels))


def _listed(root: Path, listed: tuple[str, ...], images: dict[str, Files]) -> dict[str, Files]:
    """The images that dataset.json lists; nnU-Net's first version lists them without the channel's number."""
    found: dict[str, Files] = {}
    missing: list[Path] = []
    for name in listed:
        file = root / name
        stem = _stem(file)
        place = {_WHOLE: file} if file.is_file() else images.get(stem)
        if place is None:
            missing.append(file)
        else:
            found[stem] = place
    if missing:
        raise InputError(
            f"{missing[0]}: listed in dataset.json, but not there ({len(missing)} of {len(listed)} are missing): "
            "unpack the whole task, or remove dataset.json"
        )
    return found


def _files(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(_SUFFIXES) and not file.name.startswith(".")
    ]
    return sorted(files, key=lambda file: natural_key(file.name))


def _stem(file: Path) -> str:
    """The name without the ending of an image.

    >>> _stem(Path("imagesTr/a.b_0000.nii.gz"))
    'a.b_0000'
    """
    ending = max((end for end in _SUFFIXES if file.name.lower().endswith(end)), key=len, default="")
    return file.name[: len(file.name) - len(ending)]


def _declared(path: Path) -> _Declared:
    """What dataset.json states, in the Decathlon's form or in nnU-Net's; nothing without it."""
    if not path.is_file():
        return _Declared()
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is damaged ({type(error).__name__}): restore the file, or remove it"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise InputError(
            f"{path}: is neither the Decathlon's dataset.json nor nnU-Net's, since it states no labels: add "
            '"labels": {"background": 0, "organ": 1}, or remove the file'
        )
    _require_order(content, path)
    return _Declared(_classes(content["labels"], path), _stated_channels(content), _training(content, path))


def _require_order(content: dict[str, Any], path: Path) -> None:
    """InputError where nnU-Net's regions lack the values that they are painted with."""
    labels, order = content["labels"], content.get("regions_class_order", [])
    if not any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        return
    count = sum(value not in (0, [0]) for value in labels.values())
    if not isinstance(order, list) or len(order) != count:
        given = f"lists {len(order)} values" if isinstance(order, list) and order else "is missing"
        raise InputError(
            f"{path}: labels hold {count} regions, and regions_class_order {given}: restore the file as nnU-Net has it"
        )


def _stated_channels(content: dict[str, Any]) -> tuple[str, ...]:
    """The names of the channels, in the order of their numbers; none where dataset.json does not tell."""
    stated = content.get("channel_names", content.get("modality", {}))
    if isinstance(stated, dict):
        keys = sorted(stated, key=lambda key: (not str(key).isdecimal(), natural_key(str(key))))
        stated = [stated[key] for key in keys]
    names = [
        _usable(str(name), (number,))
        for number, name in enumerate(stated if isinstance(stated, list) else [], 1)
    ]
    return tuple(name if names.count(name) == 1 else f"{name} {k}" for k, name in enumerate(names, start=1))


def _classes(labels: dict[str, Any], path: Path) -> Classes:
    """The classes by their values, which are keys (Decathlon) or values (nnU-Net); of regions, their parts."""
    if all(str(key).isdecimal() for key in labels):
        named = [(str(name), [key]) for key, name in labels.items()]
    elif "ignore" in labels:
        raise InputError(
            f"{path}: declares a label 'ignore', which would count as background: remove it from the masks (0), then "
            "from dataset.json"
        )
    else:
        named = [(name, entry if isinstance(entry, list) else [entry]) for name, entry in labels.items()]
    values = [str(value) for _, several in named for value in several]
    if not all(value.isdecimal() and int(value[:4]) <= 255 for value in values):
        raise InputError(
            f'{path}: labels must be whole numbers from 0 to 255, as in "organ": 1: correct them'
        )
    listed = [(name, tuple(sorted(int(value) for value in several) or ())) for name, several in named]
    named_sets = {
        _usable(name, several): frozenset(several) for name, several in listed if several and 0 not in several
    }
    if len(named_sets) < sum(bool(several) and 0 not in several for _, several in listed):
        raise InputError(f"{path}: two labels have one name: rename one")
    try:
        return parse_classes(parts_of(named_sets))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parts_of(regions: Mapping[str, frozenset[int]]) -> list[MaskClass]:
    """Regions that share values as parts that do not: the values that lie in the same regions, named by these.

    Args:
        regions: name -> the values that it holds.

    >>> nested = {"tumour": frozenset({1, 2, 3}), "core": frozenset({2, 3}), "enhancing": frozenset({3})}
    >>> [part.text for part in parts_of(nested)]
    ['tumour without core=1', 'core without enhancing=2', 'enhancing=3']
    >>> [part.text for part in parts_of({"left": frozenset({1, 2}), "right": frozenset({2, 3})})]
    ['left without right=1', 'left and right=2', 'right without left=3']
    """
    parts: dict[tuple[str, ...], list[int]] = {}
    for value in sorted(frozenset().union(*regions.values())):
        parts.setdefault(tuple(name for name, held in regions.items() if value in held), []).append(value)
    return [MaskClass(_part_name(regions, around), tuple(values)) for around, values in parts.items()]


def _part_name(regions: Mapping[str, frozenset[int]], around: tuple[str, ...]) -> str:
    """What the smallest of the regions around a part have in common, without the largest of the others in them."""
    inner = [name for name in around if not any(regions[other] < regions[name] for other in around)]
    within = frozenset().union(*(regions[name] for name in inner))
    others = [name for name, held in regions.items() if name not in around and held & within]
    outer = [name for name in others if not any(regions[name] < regions[other] for other in others)]
    return " and ".join(inner) + (f" without {' or '.join(outer)}" if outer else "")


def _usable(name: str, values: tuple[int, ...]) -> str:
    """A class's name without characters that a table cannot hold."""
    return re.sub(r"[;=,:/\\\"'\s]+", " ", name).strip()[:60] or f"class {values[0]}"


def _training(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    """The images of the list `training`; none where there is no list."""
    listed = content.get("training", [])
    entries = listed if isinstance(listed, list) else [None]
    names = [str(entry["image"]) for entry in entries if isinstance(entry, dict) and "image" in entry]
    if len(names) < len(entries):
        raise InputError(
            f'{path}: its list "training" must hold entries such as {{"image": "./imagesTr/a.nii.gz", "label": '
            '"./labelsTr/a.nii.gz"}: correct it, or remove the list'
        )
    if any(".." in Path(name).parts or Path(name).is_absolute() for name in names):
        raise InputError(f"{path}: lists files outside of its folder: unpack the task again")
    return tuple(sorted((name.removeprefix("./") for name in names), key=natural_key))
