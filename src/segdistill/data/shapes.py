"""Images whose structures are given as polygons or run lengths, and the index masks that are drawn of them.

A case's masks are files, so each image is drawn once, as a palette PNG, when such a data set is indexed.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from segdistill.data.case import Case
from segdistill.data.datasets.base import is_hidden, list_folders
from segdistill.data.pack import file_names
from segdistill.errors import InputError
from segdistill.files import shown, write_text
from segdistill.imaging.classes import BACKGROUND, Classes, MaskClass, few, parse_classes
from segdistill.imaging.contours import save_indices
from segdistill.imaging.picture import Mask
from segdistill.imaging.polygons import Ring, fill_rings
from segdistill.imaging.read import READABLE_SUFFIXES, image_size

_OUTSIDE = 0.01
"""Pixels by which a corner may lie outside before it is told: shares of an image are rounded."""
_IGNORE = "ignore"
_MARK = "drawn-by-segdistill.txt"
_NOTE = "segdistill data index drew these masks. It replaces them when it runs again.\n"


@dataclass(frozen=True, eq=False)
class Shape:
    """What one annotation covers: polygons, or a bitmap.

    Attributes:
        name: its class, as the file names it.
        polygons: see `imaging.polygons`; together they cover what any of them does.
        bitmap: bool (h, w), which lies at `corner`.
        corner: (column, row) of the bitmap's first pixel.

    >>> Shape("liver", (np.array([(0, 0), (2, 0), (2, 1), (0, 1)], float),)).draw((2, 3)).astype(int).tolist()
    [[1, 1, 0], [0, 0, 0]]
    """

    name: str
    polygons: tuple[Ring, ...] = ()
    bitmap: Mask | None = None
    corner: tuple[int, int] = (0, 0)

    def draw(self, size: tuple[int, int]) -> Mask:
        """Its pixels, bool (H, W), in an image of (height, width) `size`; the rest is clipped."""
        mask: Mask = np.zeros(size, np.bool_)
        if self.bitmap is None:
            for ring in self.polygons:
                mask |= fill_rings([ring], size)
            return mask
        (left, top), (height, width) = self.corner, self.bitmap.shape
        here = mask[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        rows, columns = max(-top, 0), max(-left, 0)
        here[:] = self.bitmap[rows : rows + here.shape[0], columns : columns + here.shape[1]]
        return mask

    def leaves(self, size: tuple[int, int]) -> bool:
        """Whether a part of it lies outside of the image."""
        if self.bitmap is not None:
            low = np.array(self.corner)
            high = low + self.bitmap.shape[::-1]
        else:
            points = np.concatenate(self.polygons)
            low, high = points.min(axis=0), points.max(axis=0)
        return bool((low < -_OUTSIDE).any() or (high > np.array(size[::-1]) + _OUTSIDE).any())


@dataclass(frozen=True, eq=False)
class Annotated:
    """An image and what is annotated in it.

    Attributes:
        image: its file.
        shapes: none: there is nothing to find; None: the image is not annotated.
        split: "train", "val", "test" or "".
        size: (height, width) that the annotation states; None: it states none.
        source: the file of the annotation, for messages.
    """

    image: Path
    shapes: Sequence[Shape] | None
    split: str = ""
    size: tuple[int, int] | None = None
    source: Path | None = None


class DrawnCases(list[Case]):
    """Cases whose masks were drawn, and `notes`: a line each on what is to be known of the drawing."""

    notes: Sequence[str] = ()


def draw_cases(
    images: Sequence[Annotated], names: Sequence[str], folder: Path, notes: Iterable[str] = ()
) -> DrawnCases:
    """Draws the index mask of every annotated image into a folder: 0 background, k for the k-th class.

    Where classes overlap, the later of `names` wins. A class called background draws nothing. The same annotations give
    the same files.

    Args:
        images: in the order of the cases.
        names: the classes as the files name them, in order.
        folder: to draw into; new, empty, or drawn into before.
        notes: lines to put before those of the drawing.

    Raises:
        InputError: a class that cannot be named, an image that cannot be read or has another size than its annotation
            states, a folder with other files.
    """
    for each in images:
        if found_name := next(
            (shape.name for shape in each.shapes or () if _bare(shape.name) == _IGNORE), ""
        ):
            raise InputError(
                f"{shown(each.source or each.image)}: has shapes labelled '{shown(found_name)}', which would count as "
                "a structure: remove these shapes (their pixels become background), or give them a class"
            )
    names = [name for name in names if _bare(name) not in (BACKGROUND, _IGNORE)]
    classes = _classes(names)
    _prepare(folder)
    cases = _named(images)
    told: Counter[str] = Counter()
    found = DrawnCases()
    for each, case, stem in zip(images, cases, file_names(cases), strict=True):
        masks: tuple[Path, ...] = ()
        if each.shapes is not None:
            masks = (folder / f"{stem}.png",)
            save_indices(_drawn(each, names, told), masks[0], len(names))
        found.append(Case(case.id, case.image, masks, split=case.split, classes=classes))
    used = {shape.name for each in images for shape in each.shapes or ()}
    empty = sum(each.shapes is not None and not each.shapes for each in images)
    lines = {
        "shapes reach out of their image and are clipped": told["clipped"],
        "shapes cover no pixel": told["nothing"],
        "pixels belong to two classes: the later class has them": told["overlap"],
        "shapes of the class background draw nothing": told["background"],
        "images are annotated with no shape: there is nothing to find in them": empty,
    }
    found.notes = [*notes, *(f"{count} {line}" for line, count in lines.items() if count)]
    if unused := [name for name in names if name not in used]:
        found.notes.append(
            f"no shape is of the class {few(unused)}: --classes keeps the classes that it names"
        )
    return found


def _bare(name: str) -> str:
    """A class's name without the underscores of LabelMe's own `__ignore__` and `_background_`."""
    return name.strip().strip("_").lower()


def _drawn(image: Annotated, names: Sequence[str], told: Counter[str]) -> NDArray[np.uint8]:
    size = image_size(image.image)
    if image.size is not None and image.size != size:
        stated, true = (f"{height} x {width}" for height, width in (image.size, size))
        raise InputError(
            f"{shown(image.source or image.image)}: states {stated} pixels for {image.image.name}, which has {true}: "
            f"{_turned(image) or 'restore the image that was annotated'}"
        )
    mask = np.zeros(size, np.uint8)
    for index, name in enumerate(names, start=1):
        drawn = np.zeros(size, np.bool_)
        for shape in image.shapes or ():
            if shape.name == name:
                own = shape.draw(size)
                told["clipped"] += shape.leaves(size)
                told["nothing"] += not own.any()
                drawn |= own
        told["overlap"] += int(np.count_nonzero(drawn & (mask > 0)))
        mask[drawn] = index
    told["background"] += sum(shape.name not in names for shape in image.shapes or ())
    return mask


def _turned(image: Annotated) -> str:
    """What to do where the picture's EXIF orientation swaps the sides that the annotation states; else ""."""
    if image.size != image_size(image.image)[::-1]:
        return ""
    with contextlib.suppress(OSError), Image.open(image.image) as picture:
        if picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):
            return (
                "its EXIF orientation turns it, which the annotation probably did not heed: remove it from "
                "the picture"
            )
    return ""


def _classes(names: Sequence[str]) -> Classes:
    """The classes with names that a table can hold, and their indices as values."""
    usable = [
        re.sub(r"[;=,:/\\\"'\s]+", " ", name).strip()[:60] or f"class {k}" for k, name in enumerate(names, 1)
    ]
    return parse_classes([MaskClass(name, (k,)) for k, name in enumerate(usable, start=1)])


def _prepare(folder: Path) -> None:
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).is_file())
    ):
        raise InputError(
            f"{folder}: masks are drawn here, but it holds other files: name a new folder with --masks FOLDER"
        )
    write_text(folder / _MARK, _NOTE)


def _named(images: Sequence[Annotated]) -> list[Case]:
    """Cases named by their images; where two have one stem, by the folders above as well."""
    stems = Counter(each.image.stem for each in images)
    above = os.path.commonpath([each.image.parent for each in images]) if images else ""
    return [
        Case(
            each.image.stem if stems[each.image.stem] == 1 else each.image.relative_to(above).as_posix(),
            each.image,
            split=each.split,
        )
        for each in images
    ]


def rings_of(points: object, where: str) -> Ring:
    """A ring of a list of numbers x, y, x, y, ..., or of pairs.

    Args:
        points: as the file holds them.
        where: of the file, for messages.

    Raises:
        InputError: not numbers, an odd number of them, or fewer than three points.

    >>> rings_of([0, 0, 2, 0, 2, 1], "a.json").tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 1.0]]
    """
    try:
        values = np.asarray(points, np.float64).ravel()
    except (TypeError, ValueError):
        values = np.zeros(0)
    if len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
        raise InputError(f"{shown(where)}: a polygon needs at least three points x, y in numbers: correct it")
    return values.reshape(-1, 2)


def number(value: Any, where: str) -> float:
    """A number of an annotation.

    Raises:
        InputError: it is none.

    >>> number("1.5", "a.xml")
    1.5
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{shown(where)}: {value!r} is not a number: restore the annotation")
    return found


class ImageFiles:
    """The pictures below a folder, found by the end of their path, as annotations name them."""

    def __init__(self, root: Path, without: Path | None = None) -> None:
        """Lists them; `without` is a folder that is no part of them, such as that of drawn masks."""
        self.root = root
        self._by_name: dict[str, list[Path]] = {}
        for file in _pictures(root, without):
            self._by_name.setdefault(file.name.lower(), []).append(file)

    def find(self, name: str, source: Path, split: str = "") -> Path:
        """The file that an annotation calls `name`.

        Args:
            name: a file name, or a path of which the folders above may be missing here.
            source: the annotation, for messages.
            split: of several files the one in a folder of this name is taken.

        Raises:
            InputError: none, or several.
        """
        parts = [part.lower() for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")]
        found = self._by_name.get(parts[-1], []) if parts else []
        if len(found) > 1:
            most = max(_shared(file, parts) for file in found)
            found = [file for file in found if _shared(file, parts) == most]
        if len(found) > 1 and split:
            found = [
                file for file in found if any(split in part.lower() for part in file.parts[:-1])
            ] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{shown(source)}: {shown(name)} is there {len(found)} times ({shown(found[0])}, {shown(found[1])}): "
                "keep one"
            )
        raise InputError(
            f"{shown(source)}: {shown(name)} is not below {shown(self.root)}: put the images there"
        )


def _pictures(folder: Path, without: Path | None) -> Iterator[Path]:
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix.lower() in READABLE_SUFFIXES and not is_hidden(file.name):
            yield file
    for child in list_folders(folder):
        if without is None or child.resolve() != without.resolve():
            yield from _pictures(child, without)


def _shared(file: Path, parts: Sequence[str]) -> int:
    """How many parts at the end of a path are these."""
    own = [part.lower() for part in file.parts]
    count = 0
    while count < min(len(own), len(parts)) and own[-1 - count] == parts[-1 - count]:
        count += 1
    return count
