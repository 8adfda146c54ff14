"""CVAT's XML for images, version 1.1: polygons, masks, boxes and ellipses by image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, is_hidden, natural_key
from segdistill.data.datasets.folder import split_name
from segdistill.data.shapes import Annotated, DrawnCases, ImageFiles, Shape, draw_cases, number, rings_of
from segdistill.errors import InputError
from segdistill.files import shown
from segdistill.imaging.polygons import ellipse, turned
from segdistill.imaging.rle import decode_runs

_SHAPES = ("polygon", "mask", "box", "ellipse")
_NOT_DRAWN = ("polyline", "points", "cuboid", "skeleton")


def _tables(folder: Path) -> list[Path]:
    files = [file for file in folder.glob("*.xml") if not is_hidden(file.name) and _is_table(file)]
    return sorted(files, key=lambda file: natural_key(file.name))


def _is_table(file: Path) -> bool:
    content = file.read_bytes()
    return b"<annotations>" in content[:4096] and b"<image " in content


@register_dataset(
    "cvat",
    "CVAT for images 1.1: XML with polygons and masks",
    how_to_get="Export 'CVAT for images 1.1' with the images: annotations.xml, and the images in folders beside it.",
    sign=lambda folder: bool(_tables(folder)),
)
def index(path: Path, masks: str = "") -> DrawnCases:
    """Cases of CVAT's annotations.xml; an image's subset (Train, ...) is its split.

    Polygons, masks (run lengths along the rows of their box), boxes and ellipses, also turned ones, are read;
    polylines, points, cuboids and skeletons are counted. Points lie between the corners of pixels (see
    `imaging.polygons`). The labels of the task are the classes, in its order; where two overlap the later wins,
    whatever their z_order. An image without shapes holds nothing to find.

    Args:
        path: the folder of the XML file, or one above it.
        masks: the folder to draw the masks into; by default index_masks in the data set's folder.

    Raises:
        InputError: no such file, a damaged one or one with a document type, a label that the task does not list, or
            an image that is missing.
    """
    root = find_root(path, lambda folder: bool(_tables(folder)), "CVAT's annotations.xml")
    folder = Path(masks) if masks else root / "index_masks"
    files = ImageFiles(root, without=folder)
    names: dict[str, None] = {}
    images: list[Annotated] = []
    skipped: Counter[str] = Counter()
    for table in _tables(root):
        top = _parse(table)
        labels = [(each.findtext("name") or "").strip() for each in top.iter("label")]
        names.update(dict.fromkeys(label for label in labels if label))
        for entry in top.iter("image"):
            images.append(_image(entry, names, files, table))
            skipped.update(child.tag for child in entry if child.tag in _NOT_DRAWN)
    notes = [f"{count} shapes of the kind {kind} are not drawn" for kind, count in sorted(skipped.items())]
    return draw_cases(images, list(names), folder, notes)


def _parse(table: Path) -> ElementTree.Element:
    """The file's elements; a document type, which could declare entities, is refused before it is read."""
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise InputError(f"{table}: declares a document type, which CVAT's files do not have: remove it")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(table.read_bytes(), True)
        return builder.close()
    except expat.ExpatError as error:
        raise InputError(f"{table}: is damaged ({error}): export it again") from error


def _image(entry: ElementTree.Element, names: dict[str, None], files: ImageFiles, table: Path) -> Annotated:
    where = f"{table}: image {entry.get('name', '?')}"
    size = int(number(entry.get("height"), where)), int(number(entry.get("width"), where))
    shapes = []
    for child in entry:
        if child.tag not in _SHAPES:
            continue
        label = child.get("label", "")
        if label not in names:
            raise InputError(
                f"{shown(where)} has the label {shown(label)!r}, which the task does not list: add it to labels in meta"
            )
        shapes.append(_shape(child, label, where))
    subset = split_name(entry.get("subset", ""))
    return Annotated(files.find(entry.get("name", ""), table, subset), shapes, subset, size, table)


def _shape(entry: ElementTree.Element, label: str, where: str) -> Shape:
    def at(*keys: str) -> list[float]:
        return [number(entry.get(key), f"{where}: {entry.tag}: {key}") for key in keys]

    degrees = number(entry.get("rotation", "0"), where)
    if entry.tag == "polygon":
        points = entry.get("points", "").replace(";", ",").split(",")
        return Shape(label, (rings_of(points, where),))
    if entry.tag == "box":
        left, top, right, bottom = at("xtl", "ytl", "xbr", "ybr")
        ring = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        return Shape(label, (turned(ring, ((left + right) / 2, (top + bottom) / 2), degrees),))
    if entry.tag == "ellipse":
        x, y, radius_x, radius_y = at("cx", "cy", "rx", "ry")
        return Shape(label, (ellipse((x, y), (radius_x, radius_y), degrees),))
    left, top, width, height = (int(value) for value in at("left", "top", "width", "height"))
    counts = [int(number(count, where)) for count in entry.get("rle", "").split(",")]
    try:
        return Shape(label, bitmap=decode_runs(counts, (height, width), columns=False), corner=(left, top))
    except InputError as error:
        raise InputError(f"{shown(where)}: {error}") from error
