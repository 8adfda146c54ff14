"""DICOM RTSTRUCT: contours over a DICOM series, read as an index mask and written from one.

A position in the file is the centre of a voxel, not its corner (DICOM PS3.3 C.7.6.2): nothing is shifted by half a
voxel. A voxel belongs to a structure when its centre lies inside a contour or on it, so that outlines along the borders
of voxels and outlines through the centres of the outermost ones both give the voxels that they were drawn around.
Contours of one structure in one slice are joined by exclusive or: one inside another is a hole. So is what a keyhole
contour leaves open, which runs along a channel of no width to the hole and back (C.8.8.6).

What is written follows the borders of voxels, half a voxel around the outermost centres; holes are keyholes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.imaging import dicom
from segdistill.imaging.contours import class_colour
from segdistill.imaging.dicom_objects import make_item, new_object, reference, slices_by_place
from segdistill.imaging.dicom_series import SlicePlaces
from segdistill.imaging.polygons import trace
from segdistill.imaging.segments import Choose, Painting, Segment, segment_name
from segdistill.imaging.volume import Misfit, Volume

STORAGE = UID("1.2.840.10008.5.1.4.1.1.481.3")
_STUDY = UID("1.2.840.10008.3.1.2.3.1")
_ON = 0.02  # voxels beside a contour that count as on it: files round to a hundredth of a millimetre
_FLAT = 0.1  # slices by which a point may lie beside its slice
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def read_roi_segments(data: Dataset) -> list[Segment]:
    """The structures that an RTSTRUCT names; those without an area, such as points, are among them."""
    return [
        Segment(segment_name(item.get("ROIName"), int(item.ROINumber)), int(item.ROINumber))
        for item in data.get("StructureSetROISequence") or []
    ]


def read_rtstruct_mask(path: Path, image: Volume, choose: Choose) -> tuple[Painting, Misfit | None]:
    """The classes of an RTSTRUCT on the grid of its image.

    Points and open lines have no area and are passed over; what lies beside the image within a slice is cut off.

    Args:
        path: the file.
        image: the series as stored (`turn=False`).
        choose: gives the class of each structure.

    Returns:
        the index mask, and how far, in slices, its contours lie beside their slices; None where they do not.

    Raises:
        InputError: another frame of reference, a contour beside the slices or across them, or damage.
    """
    data = dicom.read_whole(path)
    segments = read_roi_segments(data)
    frames = {str(item.get("ReferencedFrameOfReferenceUID", "")) for item in data.StructureSetROISequence}
    places = SlicePlaces(image, {"FrameOfReferenceUID": frames.pop()} if len(frames) == 1 else None)
    index = dict(zip((each.number for each in segments), choose(segments), strict=True))
    names = {each.number: each.name for each in segments}
    painting, worst = Painting(image.geometry.shape), 0.0
    for roi in data.get("ROIContourSequence") or []:
        number = int(roi.ReferencedROINumber)
        if number not in index:
            raise InputError(f"has contours of the structure {number}, which it does not name")
        if not index[number]:
            continue
        by_slice: dict[int, list[NDArray[np.float64]]] = {}
        for points in _contours(roi):
            k, beside, contour = _placed(points, places, names[number])
            by_slice.setdefault(k, []).append(contour)
            worst = max(worst, beside)
        for k, contours in by_slice.items():
            filled = fill(contours, (image.geometry.shape[1], image.geometry.shape[2]))
            painting.add(k, filled * np.uint8(index[number]))
    return painting, Misfit.rounding(path, worst)


def _contours(roi: Dataset) -> Iterator[NDArray[np.float64]]:
    """The closed contours of a structure: (N, 3) in mm."""
    for item in roi.get("ContourSequence") or []:
        if str(item.get("ContourGeometricType", "")) not in _CLOSED:
            continue
        values = np.asarray([float(value) for value in item.ContourData], float)
        if len(values) % 3 or not np.isfinite(values).all():
            raise InputError("has a damaged contour: its numbers are no points in space")
        if len(values) >= 9:
            yield values.reshape(-1, 3)


def _placed(
    points: NDArray[np.float64], places: SlicePlaces, name: str
) -> tuple[int, float, NDArray[np.float64]]:
    """The slice of a contour, how many slices it lies beside it, and its (row, column) there: (N, 2)."""
    ahead = places.grid.in_voxels(points[0] - places.first)[:, 0]
    k = int(np.abs(ahead).argmin())
    found = places.grid.in_voxels(points - places.first[k])
    beside = float(np.abs(found[:, 0]).max())
    if not beside <= _FLAT:
        raise InputError(
            f"a contour of '{name}' lies {beside:.2f} slices beside those of {places.image.source}, or across them: "
            "take the series that it was drawn on"
        )
    return k, beside, found[:, 1:]


def fill(contours: list[NDArray[Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside closed contours, or on one of them.

    Args:
        contours: (row, column) of the points of each, (N, 2), in pixels; the centre of the first pixel is (0, 0).
        size: (H, W) of the picture; what lies outside is cut off.

    Returns:
        bool (H, W). Inside is what a line from outside reaches after an odd number of crossings.

    >>> square = np.array([[0.5, 0.5], [0.5, 2.5], [2.5, 2.5], [2.5, 0.5]])
    >>> fill([square], (4, 4)).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    crossed = np.zeros((size[0], size[1] + 1), np.int64)
    on: NDArray[np.bool_] = np.zeros(size, np.bool_)
    for contour in contours:
        for start, end in zip(contour, np.roll(contour, -1, axis=0), strict=True):
            _cross(crossed, start, end)
            _mark(on, start, end)
    inside: NDArray[np.bool_] = np.cumsum(crossed, axis=1)[:, :-1] % 2 == 1
    return inside | on


def _cross(crossed: NDArray[np.int64], start: NDArray[Any], end: NDArray[Any]) -> None:
    """Counts a crossing at the first pixel behind an edge, in each row that it passes; its lower end does not count."""
    (top, left), (bottom, right) = sorted((tuple(start), tuple(end)))
    first, last = max(int(np.ceil(top)), 0), min(int(np.ceil(bottom)), len(crossed))
    if first < last:
        rows = np.arange(first, last)
        columns = np.ceil(left + (right - left) * (rows - top) / (bottom - top))
        crossed[rows, np.clip(columns, 0, crossed.shape[1] - 1).astype(int)] += 1


def _mark(on: NDArray[np.bool_], start: NDArray[Any], end: NDArray[Any]) -> None:
    """Marks the pixels whose centres lie on an edge."""
    low = np.maximum(np.ceil(np.minimum(start, end) - _ON), 0).astype(int)
    high = np.minimum(np.floor(np.maximum(start, end) + _ON), np.subtract(on.shape, 1)).astype(int)
    if (low > high).any():
        return
    way = end - start
    steep = int(abs(way[1]) > abs(way[0]))  # the axis along which the edge is longer
    along = np.arange(low[steep], high[steep] + 1)
    share = np.clip((along - start[steep]) / way[steep], 0, 1) if way[steep] else np.zeros(len(along))
    across = start[1 - steep] + share * way[1 - steep]
    near = np.rint(across)
    is_on = (np.abs(across - near) <= _ON) & (near >= 0) & (near < on.shape[1 - steep])
    pixels = along[is_on], near[is_on].astype(int)
    on[pixels if steep == 0 else pixels[::-1]] = True


def write_rtstruct(
    mask: NDArray[np.uint8], volume: Volume, path: Path, names: Sequence[str], maker: str
) -> None:
    """Writes a mask of a DICOM series as an RTSTRUCT: closed contours, each of which refers to its slice.

    `read_rtstruct_mask` gives the mask back to the bit. A tool that takes no voxel centres, or fills keyholes, draws
    something else.

    Args:
        mask: class indices (D, H, W) on the grid of the volume as stored.
        volume: the series.
        path: of the file.
        names: of the classes, from index 1; one without a voxel is a structure without a contour.
        maker: what has made the mask, such as the name of a model; "" where a person has.

    Raises:
        InputError: the volume is no DICOM series, or the file cannot be written.
    """
    slices = slices_by_place(volume, "an RTSTRUCT")
    data = new_object(slices[0], STORAGE, "RTSTRUCT", "Structures", maker)
    data.StructureSetLabel, data.OperatorsName, data.ApprovalStatus = "SEGMENTATION", "", "UNAPPROVED"
    data.StructureSetDate, data.StructureSetTime = data.SeriesDate, data.SeriesTime
    series = make_item(
        SeriesInstanceUID=slices[0].SeriesInstanceUID,
        ContourImageSequence=[reference(each) for each in slices],
    )
    study = make_item(
        ReferencedSOPClassUID=_STUDY,
        ReferencedSOPInstanceUID=data.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    frame = data.FrameOfReferenceUID
    data.ReferencedFrameOfReferenceSequence = [
        make_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])
    ]
    data.StructureSetROISequence, data.ROIContourSequence, data.RTROIObservationsSequence = [], [], []
    for number, name in enumerate(names, start=1):
        data.StructureSetROISequence.append(
            make_item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=frame,
                ROIName=name[:64],
                ROIGenerationAlgorithm="AUTOMATIC" if maker else "MANUAL",
            )
        )
        contours = list(_drawn(mask == number, volume, slices))
        held = {"ContourSequence": contours} if contours else {}
        data.ROIContourSequence.append(
            make_item(ReferencedROINumber=number, ROIDisplayColor=list(class_colour(number)), **held)
        )
        data.RTROIObservationsSequence.append(
            make_item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType="",
                ROIInterpreter="",
            )
        )
    with atomic_write(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def _drawn(mask: NDArray[np.bool_], volume: Volume, slices: Sequence[Dataset]) -> Iterator[Dataset]:
    """The contours of a structure, slice by slice: a keyhole around each piece."""
    assert volume.positions is not None
    grid = volume.geometry
    along = np.asarray(grid.axes)[1:] * np.asarray(grid.step_mm)[1:, None]  # mm of a row and of a column
    for k in np.flatnonzero(mask.any((1, 2))).tolist():
        for outline in trace(mask[k]):
            points = volume.positions[k] + (outline.keyhole()[:, ::-1] - 0.5) @ along
            yield make_item(
                ContourImageSequence=[reference(slices[k])],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{value:.4f}" for value in points.ravel()],
            )
