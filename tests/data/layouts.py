"""Predictions on disk, laid out as nnU-Net, TotalSegmentator and MONAI lay them out; by libraries other than ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from scipy.ndimage import gaussian_filter

from segdistill.data.case import Case
from tests.data.pictures import noise, save
from tests.imaging.volumes import write_itk

Shape = tuple[int, int, int]
DIRECTION = (-1, 0, 0, 0, 1, 0, 0, 0, -1)
"""Columns run to the right and slices to the feet: neither as DICOM shows them nor as nibabel likes them."""


def softmax_of(labels: np.ndarray, classes: int, sigma: float = 0.7) -> np.ndarray:
    """Soft maps (C, ...) of a label map, adding up to 1, as a network would give them."""
    axes = tuple(range(labels.ndim))
    soft = [
        gaussian_filter((labels == k).astype(np.float64), sigma, axes=axes) + 1e-4 for k in range(classes)
    ]
    stacked = np.stack(soft)
    return stacked / stacked.sum(axis=0)


def two_organs(shape: Shape = (6, 14, 12)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[1:4, 2:9, 2:6] = 1
    labels[2:5, 5:12, 6:11] = 2
    return labels


def volume_cases(folder: Path, ids: Sequence[str] = ("ct_1", "ct_2"), suffix: str = "_0000") -> list[Case]:
    """Volumes as nnU-Net wants its images."""
    return [
        Case(
            name,
            write_itk(
                folder / "imagesTr" / f"{name}{suffix}.nii.gz",
                np.random.default_rng(k).integers(0, 900, (6, 14, 12)).astype(np.int16),
                direction=DIRECTION,
            ),
        )
        for k, name in enumerate(ids)
    ]


def picture_cases(
    folder: Path, ids: Sequence[str] = ("us1", "us2"), size: tuple[int, int] = (48, 40)
) -> list[Case]:
    return [
        Case(name, save(folder / "images" / f"{name}.png", noise(k, *size))) for k, name in enumerate(ids)
    ]


def dataset_json(folder: Path, labels: Mapping[str, object], ending: str = ".nii.gz", **more: object) -> None:
    content = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": 2,
        "file_ending": ending,
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "plans.json").write_text(
        json.dumps({"dataset_name": "Dataset001", "image_reader_writer": "SimpleITKIO"})
    )


def nnunet(
    folder: Path,
    name: str,
    probabilities: np.ndarray,
    segmentation: np.ndarray,
    image: Path | None = None,
    dtype: type[np.floating] = np.float32,
) -> Path:
    """NAME.npz, NAME.pkl and NAME.nii.gz, or NAME.png where there is no volume's `image`; returns the array's file."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", probabilities=probabilities.astype(dtype))
    (folder / f"{name}.pkl").write_bytes(
        b"cos\nsystem\n(S'exit 1'\ntR."
    )  # would run a command if it were opened
    if image is None:
        Image.fromarray(segmentation[0].astype(np.uint8)).save(folder / f"{name}.png")
    else:
        written = sitk.GetImageFromArray(segmentation.astype(np.uint8))
        written.CopyInformation(sitk.ReadImage(str(image)))
        sitk.WriteImage(written, str(folder / f"{name}.nii.gz"), useCompression=True)
    return folder / f"{name}.npz"


def nifti_like(image: Path, values: np.ndarray, path: Path, extension: str = "") -> Path:
    """Writes (D, H, W), or classes first, with an image's affine; classes become the last axis."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = nibabel.load(image).affine
    written = nibabel.Nifti1Image(values.transpose(3, 2, 1, 0) if values.ndim == 4 else values.T, affine)
    if extension:
        written.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, extension.encode()))
    nibabel.save(written, path)
    return path


def label_table(names: Mapping[int, str]) -> str:
    """The table that TotalSegmentator's option --ml puts into the header."""
    rows = "\n".join(
        f'<Label Key="{key}" Red="1.0" Green="0.0" Blue="0.5" Alpha="1"><![CDATA[{name}]]></Label>'
        for key, name in names.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>   '
        f'<VolumeInformation Index="0">   <LabelTable>\n{rows}\n  </LabelTable>  <StudyMetaDataLinkSet>  '
        "</StudyMetaDataLinkSet>  <VolumeType><![CDATA[Label]]></VolumeType>   </VolumeInformation></CaretExtension>\n"
    )


def totalsegmentator(folder: Path, case: Case, labels: np.ndarray, names: Mapping[int, str]) -> None:
    """CASE/spleen.nii.gz and so on: one mask for each class, also where it is empty."""
    for key, name in names.items():
        nifti_like(case.image, (labels == key).astype(np.uint8), folder / case.id / f"{name}.nii.gz")
    (folder / case.id / "statistics.json").write_text("{}")


def monai(folder: Path, case: Case, values: np.ndarray, postfix: str = "trans") -> Path:
    """SUBJECT/SUBJECT_trans.nii.gz, SUBJECT the name of the image's file."""
    subject = case.image.name.removesuffix(".nii.gz")
    return nifti_like(case.image, values.astype(np.float32), folder / subject / f"{subject}_{postfix}.nii.gz")
