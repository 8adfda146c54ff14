"""Masks that name their structures themselves (3D Slicer, DICOM SEG and RTSTRUCT), and how these become classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.classes import MaskClass, Reading, few, stated_name
from segdistill.registry import nearest

SUFFIXES = (".seg.nrrd", ".dcm", ".dicom")
"""Endings (lower case) of mask files of volumes that name their structures."""


@dataclass(frozen=True)
class Segment:
    """A structure in a mask file.

    Attributes:
        name: as the file states it, made usable as the name of a class.
        number: its value, of a 3D Slicer file in its layer.
        layer: of a 3D Slicer file; segments of different layers may share voxels and values.
    """

    name: str
    number: int
    layer: int = 0


Choose = Callable[[Sequence[Segment]], list[int]]
"""The segments of a file -> the index of the class of each, 0 for the background."""


def names_structures(path: Path) -> bool:
    """Whether a mask file of a volume names its structures, by its ending; without one, by its beginning.

    >>> names_structures(Path("a.seg.nrrd")), names_structures(Path("a.nrrd"))
    (True, False)
    """
    if path.name.lower().endswith(SUFFIXES):
        return True
    if path.suffix and not path.suffix[1:].isdecimal():
        return False
    # files of a DICOM archive have no ending, or a number
    from segdistill.imaging.dicom_series import is_drawn

    return is_drawn(path)


def class_of_segments(
    segments: Sequence[Segment],
    reading: Reading,
    index: int,
    source: Path,
    unknown: dict[str, Path] | None = None,
) -> list[int]:
    """The index of the class of each segment, 0 for the background.

    A class without values takes the segments of its name, whatever the case of its letters; segments that no class
    names are background then. A class with values takes the segments of these numbers.

    Args:
        segments: of one file.
        reading: the classes; without any, every segment is foreground.
        index: the class to which the table gives the whole file; 0: none. It takes its segment of this name, or its
            only one.
        source: the file, for errors.
        unknown: gets the names of segments that no class names, each with the file.

    Raises:
        InputError: a number that no class has, or that two segments share; a file of one class that has several
            segments, none of its name.

    >>> from segdistill.imaging.classes import parse_classes
    >>> found = [Segment("Liver", 1), Segment("cyst", 2)]
    >>> class_of_segments(found, Reading(parse_classes(["cyst", "liver"])), 0, Path("a.seg.nrrd"))
    [2, 1]
    """
    if index:
        return _of_one_class(segments, reading.classes[index - 1].name, index, source)
    if not reading.classes and not reading.is_named:
        return [1] * len(segments)
    bare = {each.name.casefold(): k for k, each in enumerate(reading.classes, start=1) if not each.values}
    numbers = [segment.number for segment in segments]
    by_number = not reading.classes or any(each.values for each in reading.classes)
    found = []
    for segment in segments:
        named = bare.get(segment.name.casefold(), 0)
        if not named and by_number:
            if numbers.count(segment.number) > 1:
                raise InputError(
                    f"{source}: several segments have the value {segment.number}: name the classes by the names of "
                    f"the segments instead ({few(each.name for each in segments)})"
                )
            named = int(reading.index_of([segment.number], source)[0])
        elif not named and unknown is not None:
            unknown[segment.name] = source
        found.append(named)
    return found


def _of_one_class(segments: Sequence[Segment], name: str, index: int, source: Path) -> list[int]:
    named = [segment.name.casefold() == name.casefold() for segment in segments]
    if not any(named) and len(segments) > 1:
        raise InputError(
            f"{source}: is of the class '{name}', and none of its {len(segments)} segments has this name "
            f"({few(each.name for each in segments)}): correct the name"
        )
    return [index * (is_named or len(segments) == 1) for is_named in named]


def meant(names: Iterable[str], known: Iterable[str]) -> str:
    """The part of a message that names the classes which unknown segments are probably called after; "" without one.

    >>> meant(["lvier", "lung"], ["liver", "cyst"]), meant(["lung"], ["liver"])
    ("; for 'lvier' did you mean 'liver'?", '')
    """
    small = {name.casefold(): name for name in known}
    near = [(name, nearest(name.casefold(), small)) for name in names]
    return "".join(f"; for '{name}' did you mean '{small[found[0]]}'?" for name, found in near[:9] if found)


def stated_classes(files: Sequence[Sequence[Segment]]) -> tuple[MaskClass, ...]:
    """The classes of a table by the names of the segments in its mask files, in the order of their first use.

    >>> [each.name for each in stated_classes([[Segment("liver", 1)], [Segment("Liver", 2), Segment("cyst", 1)]])]
    ['liver', 'cyst']
    """
    names: dict[str, str] = {}
    for segments in files:
        for segment in segments:
            names.setdefault(segment.name.casefold(), segment.name)
    return tuple(MaskClass(name) for name in names.values())


def segment_name(text: object, number: int) -> str:
    """The name of a segment as a class can have it; "segment 3" where the file states none.

    >>> segment_name("tumour; core ", 1), segment_name("", 3)
    ('tumour core', 'segment 3')
    """
    return stated_name(str(text or "")) or f"segment {number}"


class Painting:
    """An index mask that is put together from parts; where two classes have a voxel, the later class has it.

    Attributes:
        labels: uint8 (D, H, W), 0 for the background.
        overlaps: how often a voxel of one class was also of another.

    >>> painting = Painting((1, 1, 3))
    >>> painting.add(0, np.array([[2, 2, 0]], np.uint8))
    >>> painting.add(0, np.array([[0, 1, 1]], np.uint8))
    >>> painting.labels.tolist(), painting.overlaps
    ([[[2, 2, 1]]], 1)
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.labels: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self.overlaps = 0

    def add(self, where: Any, indices: NDArray[np.uint8]) -> None:
        """Adds class indices at a slice number, or at slices of all axes."""
        before = self.labels[where]
        self.overlaps += int(np.count_nonzero((before > 0) & (indices > 0) & (before != indices)))
        np.maximum(before, indices, out=before)
