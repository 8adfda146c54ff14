"""Your own images: a folder with images/ and masks/, or images with masks beside them; classes are
optional.
"""

from __future__ import annotations

import re
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import (
    find_root,
    list_images,
    natural_key,
    require_pairs,
    subfolder,
)
from segdistill.errors import InputError

IMAGES = ("images", "image", "imgs", "img", "original", "originals", "pictures")
MASKS = (
    "masks",
    "mask",
    "gt",
    "ground_truth",
    "groundtruth",
    "labels",
    "label",
    "annotations",
    "segmentations",
)
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_MASK_WORD = r"(?:masks?|gt|seg|segmentation|label|annotation|anno|ann|ground_?truth|lesion|tumou?r)"
_MASK_END = re.compile(rf"^(?P<key>.+?)[ _.-]+{_MASK_WORD}(?:[ _.-]?\d+)?$", re.IGNORECASE)
_MASK_START = re.compile(rf"^{_MASK_WORD}[ _.-]+(?P<key>.+)$", re.IGNORECASE)
_IMAGE_AFFIX = re.compile(r"^(?:images?|img|im)[ _.-]+|[ _.-]+(?:images?|img|im)$", re.IGNORECASE)


def mask_key(stem: str) -> str:
    """The image's name inside a mask's name.

    >>> [mask_key(stem) for stem in ("7_mask_1", "mask-7", "7.gt", "case 7_seg", "7")]
    ['7', '7', '7', 'case 7', '7']
    """
    match = _MASK_END.match(stem) or _MASK_START.match(stem)
    return match["key"] if match else stem


def image_key(stem: str) -> str:
    """An image's name without an image prefix or suffix.

    >>> image_key("img_7"), image_key("7")
    ('7', '7')
    """
    return _IMAGE_AFFIX.sub("", stem) or stem


def pair(images: list[Path], masks: list[Path]) -> dict[Path, tuple[Path, ...]]:
    """Finds every image's masks by name: the same stem first, then without the usual prefixes and suffixes.

    Raises:
        InputError: a mask without image, or two images that a mask could belong to.
    """
    by_stem: dict[str, list[Path]] = {}
    by_key: dict[str, list[Path]] = {}
    for image in images:
        by_stem.setdefault(image.stem, []).append(image)
        by_key.setdefault(image_key(image.stem), []).append(image)
    found: dict[Path, list[Path]] = {image: [] for image in images}
    left: list[Path] = []
    for mask in masks:
        key = mask_key(mask.stem)
        owners = (
            by_stem.get(mask.stem)
            or by_stem.get(key)
            or by_key.get(key)
            or by_key.get(image_key(mask.stem))
            or []
        )
        if len(owners) > 1:
            names = " and ".join(str(owner) for owner in owners[:2])
            raise InputError(f"{mask}: belongs to {names} alike: give images and masks distinct names")
        if owners:
            found[owners[0]].append(mask)
        else:
            left.append(mask)
    require_pairs(left)
    return {image: tuple(files) for image, files in found.items()}


@register_dataset(
    "folder",
    "Your own images: a folder with images/ and masks/",
    how_to_get=(
        "Put pictures into images/ and masks of the same names into masks/ (several masks: "
        "7_mask.png, "
        "7_mask_1.png); sub-folders of both become labels."
    ),
)
def index(path: Path) -> list[Case]:
    """Cases of a folder, in one of these layouts (each also inside train/, val/, test/, which then fill
    `split`):

    images/ + masks/ · images/CLASS/ + masks/CLASS/ (the class becomes the label) · images with masks beside
    them (`7.png`, `7_mask.png`). Mask names equal the image's, or add mask, gt, seg, label, ... before or
    after it.

    Raises:
        InputError: no such layout, no image, or a mask without image.
    """
    root = find_root(
        path, _fits, "images/ and masks/ (or images with masks beside them, such as 7.png and 7_mask.png)"
    )
    parts = _split_folders(root)
    if parts:
        cases = [
            case
            for folder, split in parts
            for case in _index_plain(folder, prefix=f"{folder.name}/", split=split)
        ]
    else:
        cases = _index_plain(root)
    if not cases:
        raise InputError(f"{root}: no images: put them into {root / 'images'}")
    return cases


def _fits(folder: Path) -> bool:
    return is_plain(folder) or bool(_split_folders(folder))


def _split_folders(folder: Path) -> list[tuple[Path, str]]:
    found = [
        (child, _SPLITS[child.name.lower()]) for child in folder.iterdir() if child.name.lower() in _SPLITS
    ]
    order = {"train": 0, "val": 1, "test": 2}
    return sorted(
        (part for part in found if part[0].is_dir() and is_plain(part[0])), key=lambda part: order[part[1]]
    )


def is_plain(folder: Path) -> bool:
    """Whether a folder holds images and masks itself, in one of the layouts of `index`."""
    if subfolder(folder, IMAGES) and subfolder(folder, MASKS):
        return True
    files = list_images(folder)
    stems = {file.stem for file in files}
    return any(mask_key(file.stem) != file.stem and mask_key(file.stem) in stems for file in files)


def _index_plain(folder: Path, prefix: str = "", split: str = "") -> list[Case]:
    image_folder, mask_folder = subfolder(folder, IMAGES), subfolder(folder, MASKS)
    cases: list[Case] = []
    if image_folder is None or mask_folder is None:
        files = list_images(folder)
        stems = {file.stem for file in files}
        masks = [file for file in files if mask_key(file.stem) != file.stem and _looks_like_mask(file, stems)]
        images = [file for file in files if file not in set(masks)]
        return _cases(images, masks, prefix, split, "")
    classes = sorted(
        (child for child in image_folder.iterdir() if child.is_dir()), key=lambda p: natural_key(p.name)
    )
    mask_classes = {child.name.lower() for child in mask_folder.iterdir() if child.is_dir()}
    cases += _cases(list_images(image_folder), list_images(mask_folder), prefix, split, "")
    for child in classes:
        masks_of_class = subfolder(mask_folder, [child.name.lower()])
        mask_classes.discard(child.name.lower())
        masks = list_images(masks_of_class) if masks_of_class else []
        cases += _cases(list_images(child), masks, f"{prefix}{child.name}/", split, child.name)
    for name in sorted(mask_classes):
        require_pairs(list_images(subfolder(mask_folder, [name]) or mask_folder))
    return cases


def _looks_like_mask(file: Path, stems: set[str]) -> bool:
    return mask_key(file.stem) in stems or _MASK_END.match(file.stem) is not None


def _cases(images: list[Path], masks: list[Path], prefix: str, split: str, label: str) -> list[Case]:
    names: dict[str, Path] = {}
    for image in images:
        if image.stem in names:
            raise InputError(f"{image} and {names[image.stem].name} have the same stem: rename one of them")
        names[image.stem] = image
    pairs = pair(images, masks)
    return [Case(prefix + image.stem, image, pairs[image], label=label, split=split) for image in images]
