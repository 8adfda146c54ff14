"""Small volumes on disk for tests, written by independent libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from segdistill.imaging.classes import MaskClass

ORGAN = (MaskClass("organ", (1,)),)


def blocks(shape: tuple[int, int, int] = (5, 12, 10), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-200, 900, shape).astype(np.int16)


def organ(shape: tuple[int, int, int] = (5, 12, 10)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[1:4, 3:8, 2:6] = 1
    return mask


def write_itk(
    path: Path,
    array: np.ndarray,
    spacing: tuple[float, float, float] = (0.5, 0.6, 3.0),
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
    origin: tuple[float, float, float] = (-10.0, 5.0, 20.0),
    compress: bool = False,
) -> Path:
    """Writes (D, H, W); spacing and direction are ITK's: x, y, z."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


def dicom_slice(
    values: np.ndarray, z: float, series: str = "1.2.3.4", number: int = 1, **tags: object
) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = series, "1.2.3", "CT"
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelSpacing, data.SliceThickness, data.InstanceNumber = [0.6, 0.5], 3.0, number
    data.ImagePositionPatient, data.ImageOrientationPatient = [-10.0, 5.0, z], [1, 0, 0, 0, 1, 0]
    data.RescaleIntercept, data.RescaleSlope = -1024, 1
    data.PixelData = (values.astype(np.int32) + 1024).astype(np.int16).tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def write_series(folder: Path, array: np.ndarray, step: float = 3.0, **tags: object) -> Path:
    """One file per slice, named in an order that is not theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, values in enumerate(array):
        name = f"IM{(k * 7) % len(array):04}.dcm"
        dicom_slice(values, 20.0 + step * k, number=k + 1, **tags).save_as(
            folder / name, enforce_file_format=True
        )
    return folder
