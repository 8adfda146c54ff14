"""What DICOM objects over a series share: patient, study, device and references to its slices."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from segdistill.errors import InputError
from segdistill.imaging import dicom
from segdistill.imaging.dicom_series import series_files
from segdistill.imaging.volume import Volume

_REQUIRED = (  # there in every file, if empty
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
_KEPT = (*_REQUIRED, "PatientAge", "StudyDescription", "FrameOfReferenceUID")
_TAGS = [
    *_KEPT,
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
]


def slices_by_place(volume: Volume, what: str) -> list[Dataset]:
    """The headers of the series, in the order of the volume's slices; `what` refers to them.

    Raises:
        InputError: the volume is no DICOM series.
    """
    if not volume.is_series:
        raise InputError(f"{volume.source}: is no DICOM series: {what} refers to the slices of one")
    assert volume.positions is not None
    headers = [dicom.read_tags(file, _TAGS) for file in series_files(volume.source)]
    found = []
    for position in volume.positions:
        beside = [float(np.abs(np.subtract(each.ImagePositionPatient, position)).max()) for each in headers]
        found.append(headers[int(np.argmin(beside))])
    return found


def new_object(first: Dataset, storage: UID, modality: str, description: str, maker: str) -> FileDataset:
    """A DICOM object of patient, study and frame of reference of a series, in a series of its own.

    Args:
        first: the header of one of its slices.
        storage: the class of the object.
        modality: its own, such as SEG.
        description: of its series.
        maker: what has made it, such as the name of a model; "" where a person has.
    """
    from segdistill import __version__

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, storage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data, now = FileDataset("", {}, file_meta=meta, preamble=bytes(128)), datetime.now()
    data.SpecificCharacterSet = "ISO_IR 192"
    for name in _KEPT:
        if name in first or name in _REQUIRED:
            setattr(data, name, first.get(name, ""))
    data.setdefault("FrameOfReferenceUID", generate_uid())
    data.SOPClassUID, data.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.SeriesNumber, data.InstanceNumber = generate_uid(), 1000, 1
    data.Modality, data.SeriesDescription = modality, description
    data.SeriesDate, data.SeriesTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    data.Manufacturer, data.ManufacturerModelName = "segdistill", maker[:64] or "segdistill"
    data.SoftwareVersions, data.DeviceSerialNumber = __version__, "0"
    return data


def reference(source: Dataset) -> Dataset:
    """A reference to a slice."""
    return make_item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)


def make_item(**values: Any) -> Dataset:
    """An item of a sequence with these elements."""
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found
