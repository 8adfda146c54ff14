"""Masks that name their structures, as hospitals and 3D Slicer lay them: beside or inside the folders of images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from segdistill.data.case import Case
from segdistill.data.datasets import create_dataset
from segdistill.data.index import detect_format, index_folder
from segdistill.data.opened import open_case
from segdistill.errors import InputError
from segdistill.imaging.classes import class_names
from segdistill.imaging.dicom_seg import write_seg
from segdistill.imaging.nrrd import write_nrrd_mask
from segdistill.imaging.read_volume import read_volume, read_volume_mask
from segdistill.imaging.rtstruct import write_rtstruct
from tests.imaging.volumes import blocks, organ, write_itk, write_series

NAMES = ("liver", "cyst")
Write = Callable[..., None]
OVER = {"SEG": write_seg, "RTSTRUCT": write_rtstruct}


def series(place: Path, seed: int, frame: str = "") -> Path:
    """A series of its own, with its study and frame of reference."""
    uid = generate_uid()
    write_series(
        place,
        blocks(seed=seed),
        series=uid,
        StudyInstanceUID=generate_uid(),
        FrameOfReferenceUID=frame or generate_uid(),
    )
    return place


def mask(seed: int) -> np.ndarray:
    return organ() + np.roll(organ(), seed, axis=1) * np.uint8(1)


def draw(write: Write, image: Path, path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(mask(seed), read_volume(image, turn=False), path, NAMES, "")
    return path


def labels_of(case: Case) -> np.ndarray:
    volume = read_volume(case.image, turn=False)
    return np.asarray(read_volume_mask(case.masks, volume, case.reading))


@pytest.mark.parametrize("modality", ["SEG", "RTSTRUCT"])
@pytest.mark.parametrize("inside", [False, True])
def test_dicom_objects_beside_or_inside_their_series(tmp_path: Path, modality: str, inside: bool) -> None:
    for k in (1, 2):
        patient = tmp_path / f"patient{k}"
        place = series(patient if inside else patient / "MR", k)
        draw(OVER[modality], place, (patient if inside else patient / modality) / "x.dcm", k)
    found = index_folder("auto", tmp_path)
    assert "taken as segmentations" in found.findings[0].message
    assert not found.unused
    assert [case.id for case in found.cases] == [
        f"patient{k}" if inside else f"patient{k}/MR" for k in (1, 2)
    ]
    for k, case in enumerate(found.cases, start=1):
        assert class_names(case.classes) == NAMES
        assert np.array_equal(labels_of(case), mask(k))
        assert case.group_key == f"patient{k}"


@pytest.mark.parametrize("name", ["T1post", "hippocampus_crop"])
@pytest.mark.parametrize("modality", ["SEG", "RTSTRUCT"])
def test_dicom_objects_over_real_series(tmp_path: Path, name: str, modality: str, data_root: Path) -> None:
    place = tmp_path / "patient" / "study" / name
    shutil.copytree(data_root / "mr_dicom" / name, place)
    image = read_volume(place, turn=False)
    drawn = np.zeros(image.geometry.shape, np.uint8)
    drawn[2:9, 5:20, 7:20], drawn[6:12, 12:25, 10:25] = 1, 2
    OVER[modality](drawn, image, place / "drawn", NAMES, "")
    (case,) = index_folder("auto", tmp_path).cases
    assert case.masks == (place / "drawn",)  # whatever its name
    assert np.array_equal(labels_of(case), drawn)


def test_an_object_goes_to_the_series_that_it_states(tmp_path: Path) -> None:
    frame = generate_uid()
    t1, t2 = (series(tmp_path / "p1" / name, k, frame) for k, name in enumerate(("T1", "T2")))
    seg = draw(write_seg, t2, tmp_path / "p1" / "objects" / "a.dcm", 1)
    data = dcmread(seg)
    for folder in (t1, t2):  # of one study
        for file in folder.iterdir():
            one = dcmread(file)
            one.StudyInstanceUID = "1.2.3"
            one.save_as(file)
    (case,) = create_dataset("segmentations", tmp_path)
    assert case.image == t2
    data.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.9"
    data.save_as(seg)
    with pytest.raises(InputError, match="2 series have its frame of reference") as caught:
        create_dataset("segmentations", tmp_path)
    assert "\n" not in str(caught.value)
    shutil.rmtree(t1)
    (case,) = create_dataset("segmentations", tmp_path)  # the only series of its frame of reference
    assert case.image == t2
    shutil.copytree(t2, tmp_path / "copy")
    del data.ReferencedSeriesSequence
    data.FrameOfReferenceUID = "1.2.8"
    data.save_as(seg)
    with pytest.raises(InputError, match="is not there, and none has its frame of reference: put the series"):
        create_dataset("segmentations", tmp_path)


@pytest.mark.parametrize("volume", ["MR.nii.gz", "MR", "image/MR.nrrd"])
def test_segmentations_of_3d_slicer_in_a_folder_per_patient(tmp_path: Path, volume: str) -> None:
    for k in (1, 2):
        place = tmp_path / f"p{k}" / volume
        if volume == "MR":
            series(place, k)
        else:
            write_itk(place, blocks(seed=k))
        image = read_volume(place, turn=False)
        write_nrrd_mask(mask(k), image, tmp_path / f"p{k}" / "Segmentation.seg.nrrd", NAMES)
    found = index_folder("auto", tmp_path)
    assert "taken as segmentations" in found.findings[0].message
    for k, case in enumerate(found.cases, start=1):
        assert (case.id.split("/")[0], case.group_key) == (f"p{k}", f"p{k}")
        assert np.array_equal(labels_of(case), mask(k))
    write_itk(tmp_path / "p1" / "T2.nii.gz", blocks(seed=3))
    if volume == "MR.nii.gz":
        with pytest.raises(InputError, match="which of 2 volumes it belongs to cannot be told"):
            index_folder("auto", tmp_path)
        (tmp_path / "p1" / "Segmentation.seg.nrrd").rename(tmp_path / "p1" / "MR.seg.nrrd")
        (tmp_path / "p2" / "Segmentation.seg.nrrd").rename(tmp_path / "p2" / "Segment.seg.nrrd")
        assert [case.image.name for case in create_dataset("segmentations", tmp_path)] == ["MR.nii.gz"] * 2


def test_names_that_fit_stay_own_images(tmp_path: Path) -> None:
    for k in (1, 2):
        image = write_itk(tmp_path / f"p{k}.nii.gz", blocks(seed=k))
        write_nrrd_mask(mask(k), read_volume(image, turn=False), tmp_path / f"p{k}.seg.nrrd", NAMES)
        place = series(tmp_path / "dicom" / "images" / f"s{k}", k)
        draw(write_seg, place, tmp_path / "dicom" / "masks" / f"s{k}.dcm", k)
    assert detect_format(tmp_path / "dicom") == "folder"
    assert len(index_folder("auto", tmp_path / "dicom").cases) == 2
    shutil.rmtree(tmp_path / "dicom")
    assert detect_format(tmp_path) == "folder"
    assert np.array_equal(open_case(index_folder("auto", tmp_path).cases[0]).reference > 0, mask(1) > 0)
