"""LabelMe's JSON (Wada, labelme): a file per image with shapes and their labels."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, is_hidden, list_folders, list_images, natural_key
from segdistill.data.datasets.folder import split_name, split_of
from segdistill.data.shapes import Annotated, DrawnCases, ImageFiles, Shape, draw_cases, number, rings_of
from segdistill.errors import InputError
from segdistill.files import shown
from segdistill.imaging.polygons import ellipse

_LINES = ("line", "point", "points", "linestrip")


def _is_file(file: Path) -> bool:
    content = file.read_bytes()
    return b'"shapes"' in content and b'"imagePath"' in content


def _fits(folder: Path) -> bool:
    return any(_is_file(file) for file in folder.glob("*.json") if not is_hidden(file.name))


@register_dataset(
    "labelme",
    "LabelMe JSON: a file of shapes per image",
    how_to_get="A folder with NAME.json beside NAME.png, as labelme saves them; folders below it are taken too.",
    sign=_fits,
)
def index(path: Path, masks: str = "") -> DrawnCases:
    """Cases of LabelMe's files; folders named train, val and test become the splits.

    Polygons, rectangles, circles and masks are read; lines and points cover nothing and are counted. Points lie
    between the corners of pixels (see `imaging.polygons`). The labels are the classes, in alphabetical order; where
    two overlap the later wins. A file without shapes says that there is nothing to find; a picture without a file has
    no reference.

    Args:
        path: the folder of the files, or one above it.
        masks: the folder to draw the masks into; by default index_masks in the data set's folder.

    Raises:
        InputError: no such file, a damaged one, an unknown kind of shape, or an image that is missing.
    """
    root = find_root(path, _fits_below, "JSON files of LabelMe with shapes and imagePath")
    folder = Path(masks) if masks else root / "index_masks"
    files = ImageFiles(root, without=folder)
    images: dict[Path, Annotated] = {}
    lines = 0
    for place in _places(root, folder):
        split = split_of(place, root)
        for image in list_images(place):
            images.setdefault(image, Annotated(image, None, split))
        for file in sorted(place.glob("*.json"), key=lambda file: natural_key(file.name)):
            if not is_hidden(file.name) and _is_file(file):
                found, skipped = _read(file, files, split)
                other = images.get(found.image)
                if other is not None and other.source is not None:
                    raise InputError(
                        f"{shown(file)}: is of {found.image.name}, as {shown(other.source)} is: keep one of the two"
                    )
                images[found.image] = found
                lines += skipped
    names = sorted({shape.name for each in images.values() for shape in each.shapes or ()}, key=natural_key)
    notes = [f"{lines} lines and points cover no pixel and are not drawn"] if lines else []
    return draw_cases(list(images.values()), names, folder, notes)


def _fits_below(folder: Path) -> bool:
    """Whether files lie in a folder, or in folders of splits in it."""
    return _fits(folder) or any(
        split_name(child.name) and _fits(child) for child in folder.iterdir() if child.is_dir()
    )


def _places(folder: Path, without: Path) -> list[Path]:
    below = [child for child in list_folders(folder) if child.resolve() != without.resolve()]
    return [folder, *(place for child in below for place in _places(child, without))]


def _read(file: Path, files: ImageFiles, split: str) -> tuple[Annotated, int]:
    """What one file holds, and how many lines and points."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        listed, name = content["shapes"], str(content["imagePath"])
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: is damaged ({type(error).__name__}): save it again, or remove it"
        ) from error
    if not isinstance(listed, list) or not all(isinstance(each, dict) and "label" in each for each in listed):
        raise InputError(f"{file}: a shape has no label: save it again, or remove it")
    beside = file.parent / name.replace("\\", "/")
    image = beside if beside.is_file() else files.find(name, file)
    shapes = [_shape(each, str(file)) for each in listed if each.get("shape_type") not in _LINES]
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = None
    if height is not None and width is not None:
        size = int(number(height, str(file))), int(number(width, str(file)))
    return Annotated(image, shapes, split, size, file), len(listed) - len(shapes)


def _shape(entry: dict[str, Any], where: str) -> Shape:
    name, kind, points = str(entry["label"]), entry.get("shape_type") or "polygon", entry.get("points")
    if kind == "polygon":
        return Shape(name, (rings_of(points, where),))
    try:
        (left, top), (right, bottom) = np.asarray(points, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{shown(where)}: a {shown(str(kind))} needs two points: correct it") from error
    if kind == "rectangle":
        return Shape(name, (rings_of([left, top, right, top, right, bottom, left, bottom], where),))
    if kind == "circle":
        radius = float(np.hypot(right - left, bottom - top))
        return Shape(name, (rings_of(ellipse((float(left), float(top)), (radius, radius)), where),))
    if kind == "mask":
        try:
            with Image.open(io.BytesIO(base64.b64decode(entry["mask"])), formats=["PNG"]) as image:
                bitmap = np.asarray(image.convert("L")) > 0
        except (OSError, ValueError, KeyError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{shown(where)}: a mask in it is damaged: save it again") from error
        return Shape(name, bitmap=bitmap, corner=(round(left), round(top)))
    raise InputError(
        f"{shown(where)}: shapes of the kind {shown(str(kind)[:40])} are not read: draw polygons, rectangles, circles "
        "or masks"
    )
