"""DICOM SEG: masks of several segments over a DICOM series, read and written.

Sources: DICOM PS3.3 A.51 (segmentation), C.8.20.2 (segments, fractions), C.7.6.16 (functional groups of frames).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, generate_uid

from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.imaging import dicom
from segdistill.imaging.dicom_objects import make_item, new_object, reference, slices_by_place
from segdistill.imaging.dicom_series import SlicePlaces
from segdistill.imaging.segments import Choose, Painting, Segment, segment_name
from segdistill.imaging.volume import MAX_BYTES, Misfit, Volume, check_size

STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.4")


def read_seg_segments(data: Dataset) -> list[Segment]:
    """The segments that the header of a DICOM SEG describes; the background of a label map is none."""
    return [
        Segment(segment_name(item.get("SegmentLabel"), int(item.SegmentNumber)), int(item.SegmentNumber))
        for item in data.get("SegmentSequence") or []
        if int(item.SegmentNumber) > 0
    ]


def read_seg_mask(path: Path, image: Volume, choose: Choose) -> tuple[Painting, Misfit | None]:
    """The classes of a DICOM SEG on the grid of its image; slices without a frame are empty.

    Binary, fractional (foreground from a half of its largest value on) and label map; each frame lies on the slice at
    its position, wherever it stands in the file.

    Args:
        path: the file.
        image: the series as stored (`turn=False`).
        choose: gives the class of each segment.

    Returns:
        the index mask, and how it lies beside its image; None where it does not.

    Raises:
        InputError: another grid or frame of reference, a frame of a segment that is not described, or damage.
    """
    data = dicom.read_whole(path)
    count, rows, columns = int(data.get("NumberOfFrames") or 1), int(data.Rows), int(data.Columns)
    check_size((count, rows, columns), 1, 4 * MAX_BYTES)
    shared, own = data.get("SharedFunctionalGroupsSequence") or [Dataset()], _groups(data, count)
    segments = read_seg_segments(data)
    index = dict(zip((each.number for each in segments), choose(segments), strict=True))
    places = SlicePlaces(image, data)
    painting = Painting(image.geometry.shape)
    for group, values in zip(own, _frames(data, count, rows, columns), strict=True):

        def get(name: str, group: Dataset = group) -> Dataset:
            found = group.get(name) or shared[0].get(name)
            if not found:
                raise InputError(f"is a DICOM SEG without {name}: export it again")
            item: Dataset = found[0]
            return item

        k = places.slice_of(
            get("PlanePositionSequence").ImagePositionPatient,
            get("PlaneOrientationSequence").ImageOrientationPatient,
            get("PixelMeasuresSequence").PixelSpacing,
            (rows, columns),
            "a frame ",
        )
        lookup = np.zeros(1 << 16, np.uint8)
        if _is_labelmap(data):
            known = {0: 0, **index}
            present = [int(value) for value in np.unique(values)]
        else:
            present = [int(get("SegmentIdentificationSequence").ReferencedSegmentNumber)]
            known, values = index, values.astype(np.uint16) * np.uint16(present[0])
        for number in present:
            if number not in known:
                raise InputError(f"has a frame of the segment {number}, which it does not describe")
            lookup[number] = known[number]
        painting.add(k, lookup[values])
    return painting, Misfit.rounding(path, places.worst)


def _is_labelmap(data: Dataset) -> bool:
    return str(data.get("SegmentationType", "")).upper() == "LABELMAP"


def _groups(data: Dataset, count: int) -> Sequence[Dataset]:
    own: Sequence[Dataset] = data.get("PerFrameFunctionalGroupsSequence") or []
    if len(own) != count:
        raise InputError(f"holds {count} frames and describes {len(own)}: restore the file")
    return own


def _frames(data: Dataset, count: int, rows: int, columns: int) -> Iterator[NDArray[Any]]:
    """The values (H, W) of each frame: segment numbers of a label map, else whether a pixel is foreground."""
    if int(data.BitsAllocated) != 1:
        half = 1 if _is_labelmap(data) else (int(data.get("MaximumFractionalValue") or 1) + 1) // 2
        for k in range(count):
            values = dicom.decode_frame(data, k)
            if values.shape != (rows, columns):
                raise InputError("holds frames of another size than its header claims: restore the file")
            yield values if _is_labelmap(data) else values >= half
        return
    if data["PixelData"].is_undefined_length:
        raise InputError("holds compressed frames of one bit, which are not read: save it uncompressed")
    size = rows * columns
    packed = np.frombuffer(data.PixelData, np.uint8)
    if 8 * len(packed) < count * size:
        raise InputError(
            f"is cut off: {len(packed)} of {-(-count * size // 8)} bytes are there: restore the file"
        )
    for k in range(count):  # frames follow each other bit by bit, also within a byte
        first = k * size
        bits = np.unpackbits(packed[first // 8 : -(-(first + size) // 8)], bitorder="little")
        yield bits[first % 8 : first % 8 + size].reshape(rows, columns)


def write_seg(mask: NDArray[np.uint8], volume: Volume, path: Path, names: Sequence[str], maker: str) -> None:
    """Writes a mask of a DICOM series as a binary DICOM SEG: a frame for each slice that holds a class.

    Patient, study and frame of reference are those of the series; each frame refers to its slice.

    Args:
        mask: class indices (D, H, W) on the grid of the volume as stored.
        volume: the series.
        path: of the file.
        names: of the classes, from index 1.
        maker: what has made the mask, such as the name of a model, at most 64 letters; "" where a person has.

    Raises:
        InputError: the volume is no DICOM series, or the file cannot be written.
    """
    slices = slices_by_place(volume, "a DICOM SEG")
    found = [
        (number, k)
        for number in range(1, len(names) + 1)
        for k in range(len(mask))
        if (mask[k] == number).any()
    ] or [(1, 0)]  # a SEG has a frame at least
    data = _header(slices[0], maker)
    data.Rows, data.Columns, data.NumberOfFrames = mask.shape[1], mask.shape[2], len(found)
    data.SegmentSequence = [_described(number, name, maker) for number, name in enumerate(names, start=1)]
    data.ReferencedSeriesSequence = [
        make_item(
            SeriesInstanceUID=slices[0].SeriesInstanceUID,
            ReferencedInstanceSequence=[reference(each) for each in slices],
        )
    ]
    spacing = volume.spacing or volume.geometry.step_mm
    data.SharedFunctionalGroupsSequence = [
        make_item(
            PlaneOrientationSequence=[make_item(ImageOrientationPatient=slices[0].ImageOrientationPatient)],
            PixelMeasuresSequence=[
                make_item(
                    PixelSpacing=slices[0].PixelSpacing,
                    SliceThickness=round(spacing[0], 6),
                    SpacingBetweenSlices=round(spacing[0], 6),
                )
            ],
        )
    ]
    data.PerFrameFunctionalGroupsSequence = [_frame(number, k, slices[k]) for number, k in found]
    bits = np.concatenate([(mask[k] == number).ravel() for number, k in found])
    packed = np.packbits(bits, bitorder="little").tobytes()
    data.PixelData = packed + bytes(len(packed) % 2)
    with atomic_write(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def _header(first: Dataset, maker: str) -> FileDataset:
    data = new_object(first, STORAGE, "SEG", "Segmentation", maker)
    data.ContentDate, data.ContentTime = data.SeriesDate, data.SeriesTime
    data.ImageType, data.SegmentationType = ["DERIVED", "PRIMARY"], "BINARY"
    data.ContentLabel, data.ContentDescription, data.ContentCreatorName = "SEGMENTATION", "", ""
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.LossyImageCompression = 1, 1, 0, "00"
    organisation = generate_uid()
    data.DimensionOrganizationSequence = [make_item(DimensionOrganizationUID=organisation)]
    data.DimensionIndexSequence = [
        make_item(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=group,
            DimensionDescriptionLabel=label,
        )
        for pointer, group, label in (
            (0x0062000B, 0x0062000A, "ReferencedSegmentNumber"),
            (0x00200032, 0x00209113, "ImagePositionPatient"),
        )
    ]
    return data


def _described(number: int, name: str, maker: str) -> Dataset:
    origin = {"SegmentAlgorithmType": "AUTOMATIC", "SegmentAlgorithmName": maker[:64]}
    return make_item(
        SegmentNumber=number,
        SegmentLabel=name[:64],
        **(origin if maker else {"SegmentAlgorithmType": "MANUAL"}),
        SegmentedPropertyCategoryCodeSequence=[_code("123037004", "SCT", "Anatomical Structure")],
        SegmentedPropertyTypeCodeSequence=[_code("123037004", "SCT", "Anatomical Structure")],
    )


def _frame(number: int, k: int, source: Dataset) -> Dataset:
    purpose = _code("121322", "DCM", "Source image for image processing operation")
    origin = reference(source)
    origin.PurposeOfReferenceCodeSequence = [purpose]
    return make_item(
        FrameContentSequence=[make_item(DimensionIndexValues=[number, k + 1])],
        PlanePositionSequence=[make_item(ImagePositionPatient=source.ImagePositionPatient)],
        SegmentIdentificationSequence=[make_item(ReferencedSegmentNumber=number)],
        DerivationImageSequence=[
            make_item(
                DerivationCodeSequence=[_code("113076", "DCM", "Segmentation")],
                SourceImageSequence=[origin],
            )
        ],
    )


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return make_item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
