"""COCO's JSON (Lin et al., Microsoft COCO, ECCV 2014): polygons and run lengths by instance, with their categories."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, natural_key
from segdistill.data.datasets.folder import SPLIT_FOLDERS
from segdistill.data.shapes import Annotated, DrawnCases, ImageFiles, Shape, draw_cases, number, rings_of
from segdistill.errors import InputError
from segdistill.files import shown
from segdistill.imaging.rle import decode_runs, unpack_runs

_PARTS = ("images", "annotations", "categories")


def _tables(folder: Path) -> list[Path]:
    """The JSON files of COCO in a folder, or in its folder annotations."""
    places = [place for place in (folder, folder / "annotations") if place.is_dir()]
    files = [file for place in places for file in place.glob("*.json") if not file.name.startswith(".")]
    return sorted((file for file in files if _is_table(file)), key=lambda file: natural_key(file.name))


def _is_table(file: Path) -> bool:
    content = file.read_bytes()
    return all(f'"{part}"'.encode() in content for part in _PARTS)


@register_dataset(
    "coco",
    "COCO JSON: polygons and run lengths",
    how_to_get=(
        "Export 'COCO' or 'COCO 1.0' from an annotation tool: a JSON file with images, annotations and categories, in "
        "the folder of the images, above it, or in annotations/."
    ),
    sign=lambda folder: bool(_tables(folder)),
)
def index(path: Path, masks: str = "") -> DrawnCases:
    """Cases of COCO's JSON files; several files, such as instances_train.json and instances_val.json, give the splits.

    All instances of a category are one class, in the order of the categories' ids; where classes overlap the later
    wins. Polygons lie between the corners of pixels (see `imaging.polygons`); run lengths go down the columns; crowds
    count as any instance. An image without annotations holds nothing to find.

    Args:
        path: the folder of the JSON file, of its folder annotations, or one above it.
        masks: the folder to draw the masks into; by default index_masks in the data set's folder.

    Raises:
        InputError: no such file, a damaged one, an annotation of a category or image that it does not list, or without
            polygons and run lengths, or an image that is missing.
    """
    root = find_root(
        path, lambda folder: bool(_tables(folder)), "a JSON file with images, annotations and categories"
    )
    folder = Path(masks) if masks else root / "index_masks"
    files = ImageFiles(root, without=folder)
    names: dict[int, str] = {}
    images: list[Annotated] = []
    crowds = 0
    for table in _tables(root):
        content = _content(table)
        _add_categories(names, content["categories"], table)
        images += _images(content, names, files, table)
        crowds += sum(bool(_field(each, "iscrowd", table, 0)) for each in content["annotations"])
    told = [f"{crowds} annotations are crowds, which count as their class"] if crowds else []
    return draw_cases(images, [names[key] for key in sorted(names)], folder, told)


def _content(table: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(table.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{table}: is damaged ({type(error).__name__}): export it again, or remove it"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in _PARTS):
        raise InputError(f"{table}: is not COCO's: it needs the lists {', '.join(_PARTS)}: export it again")
    return content


def _field(entry: Any, key: str, table: Path, default: Any = None) -> Any:
    found = entry.get(key, default) if isinstance(entry, dict) else None
    if found is None:
        raise InputError(f"{table}: an entry has no '{key}': {str(entry)[:80]}: export it again")
    return found


def _add_categories(names: dict[int, str], categories: Sequence[Any], table: Path) -> None:
    for each in categories:
        key, name = int(number(_field(each, "id", table), str(table))), str(_field(each, "name", table))
        if names.setdefault(key, name) != name:
            raise InputError(
                f"{table}: category {key} is {shown(name)} here and {shown(names[key])} in another file: give one "
                "of the files"
            )


def _images(
    content: dict[str, list[Any]], names: dict[int, str], files: ImageFiles, table: Path
) -> list[Annotated]:
    words = re.findall(r"[a-z]+", table.stem.lower())
    split = next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), "")
    sizes: dict[str, tuple[int, int] | None] = {}
    entries: dict[str, str] = {}
    for image in content["images"]:
        key = str(_field(image, "id", table))
        if key in entries:
            both = f"{shown(entries[key])} and {shown(str(_field(image, 'file_name', table)))}"
            raise InputError(f"{table}: two images have the id {key}, {both}: give each its own id")
        stated = [image.get(side) for side in ("height", "width")]
        rows, columns = (0 if side is None else int(number(side, str(table))) for side in stated)
        sizes[key] = None if None in stated else (rows, columns)
        entries[key] = str(_field(image, "file_name", table))
    shapes: dict[str, list[Shape]] = {key: [] for key in entries}
    for each in content["annotations"]:
        key, category = (
            str(_field(each, "image_id", table)),
            number(_field(each, "category_id", table), str(table)),
        )
        where = f"{table}: annotation {each.get('id', '?')}"
        if category not in names:
            raise InputError(
                f"{where} has the category {category:g}, which no one named: add it to categories, or remove the "
                "annotation"
            )
        if key not in entries:
            raise InputError(f"{where} is of the image {key}, which images does not list: export it again")
        shapes[key].append(_shape(names[int(category)], each.get("segmentation"), sizes[key], where))
    return [
        Annotated(files.find(name, table, split), shapes[key], split, sizes[key], table)
        for key, name in entries.items()
    ]


def _shape(name: str, segmentation: Any, size: tuple[int, int] | None, where: str) -> Shape:
    if isinstance(segmentation, dict):
        counts, stated = segmentation.get("counts"), segmentation.get("size")
        if isinstance(counts, str):
            counts = unpack_runs(counts)
        if not isinstance(counts, list) or not all(isinstance(count, int) for count in counts):
            raise InputError(f"{where}: its run lengths are no list of whole numbers: export it again")
        size = size or _size(stated, where)
        if stated is not None and _size(stated, where) != size:
            raise InputError(
                f"{where}: its run lengths state the size {stated}, its image {list(size)}: export it again"
            )
        try:
            return Shape(name, bitmap=decode_runs(counts, size))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    if not isinstance(segmentation, list) or not segmentation:
        raise InputError(f"{where} has neither polygons nor run lengths: draw it, or remove the annotation")
    return Shape(name, polygons=tuple(rings_of(polygon, where) for polygon in segmentation))


def _size(stated: Any, where: str) -> tuple[int, int]:
    if not isinstance(stated, list) or len(stated) != 2:
        raise InputError(
            f"{where}: its run lengths need a size [height, width], not {stated}: export it again"
        )
    return int(number(stated[0], where)), int(number(stated[1], where))
