"""A model file on volumes: the mask lies where the volume lies, whatever its format and orientation."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from segdistill.errors import InputError
from segdistill.imaging.grid import VolumePreprocess
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.preprocess import Preprocess
from segdistill.imaging.read_volume import read_segments, read_volume, read_volume_mask
from segdistill.runtime import predict
from segdistill.runtime.predictor import Predictor, slice_levels
from segdistill.runtime.write import draw_sheet, shown_slices, unique_stems, volume_row, write_volume
from tests.experiment.tiny import segdistill
from tests.imaging.volumes import dicom_slice, write_itk, write_series
from tests.runtime.small_model import INFO, build, save

SHAPE = (5, 48, 32)
INFO_OF_VOLUMES = replace(INFO, preprocess=Preprocess((48, 32), intensity=Intensity("window", -100.0, 300.0)))
DIRECTIONS = {
    "as DICOM": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "rows to the front": (1, 0, 0, 0, -1, 0, 0, 0, 1),
    "all axes turned round": (-1, 0, 0, 0, -1, 0, 0, 0, -1),
    "rows and columns swapped": (0, 1, 0, 1, 0, 0, 0, 0, 1),
    "sagittal": (0, 0, 1, 1, 0, 0, 0, -1, 0),
}


def bright_box() -> tuple[np.ndarray, np.ndarray]:
    """Voxels whose brightness the model file takes for a lesion, in no symmetrical place."""
    box = np.zeros(SHAPE, bool)
    box[1:3, 5:20, 18:30] = True
    return np.where(box, 290, -90).astype(np.int16), box


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "m.onnx", build(INFO_OF_VOLUMES))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_mask_lies_where_the_volume_lies(direction: str, tmp_path: Path, model: Path) -> None:
    voxels, box = bright_box()
    path = write_itk(
        tmp_path / "v.mha", voxels, (0.5, 0.7, 3.0), DIRECTIONS[direction], origin=(12.5, -40.0, 7.25)
    )
    predictor = Predictor(model)
    prediction = predictor.predict_volume(path)
    if direction == "as DICOM":
        assert np.array_equal(prediction.mask > 0, box)
    levels = slice_levels(predictor.info.preprocess.intensity, prediction.volume.turned())
    mask, _ = write_volume(prediction, levels, "v", tmp_path / "out")
    image, answer = sitk.ReadImage(str(path)), sitk.ReadImage(str(mask))
    assert answer.GetSize() == image.GetSize()
    assert answer.GetSpacing() == pytest.approx(image.GetSpacing(), rel=1e-6)
    assert answer.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-4)
    assert answer.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
    inside = sitk.GetArrayFromImage(image)[sitk.GetArrayFromImage(answer) > 0]
    assert inside.size > 0.9 * box.sum()
    assert (inside == 290).mean() > 0.95
    assert prediction.millilitres == pytest.approx(prediction.voxels * 0.5 * 0.7 * 3 / 1000)
    ours = read_volume(mask, turn=False)
    assert ours.geometry.differs(prediction.volume.geometry) == ""
    assert np.array_equal(ours.voxels, prediction.mask)


def test_nifti_keeps_its_affine(tmp_path: Path, model: Path) -> None:
    voxels, _ = bright_box()
    angle = np.radians(20)
    affine = np.diag([0.5, 0.7, 3.0, 1.0])
    affine[:2, :2] = [[0.5 * np.cos(angle), -0.7 * np.sin(angle)], [0.5 * np.sin(angle), 0.7 * np.cos(angle)]]
    affine[:3, 3] = (-80.5, 12.25, 300.0)
    path = tmp_path / "v.nii.gz"
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    answer = segdistill("predict", model, path, "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    found = nibabel.load(tmp_path / "out" / "v.nii.gz")
    assert found.shape == image.shape
    assert np.allclose(found.affine, nibabel.load(path).affine, atol=1e-4)
    assert found.get_data_dtype() == np.uint8
    assert np.allclose(found.get_qform(), found.get_sform(), atol=1e-3)


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path, model: Path) -> None:
    path = write_itk(tmp_path / "v.mha", bright_box()[0])
    for out in ("a", "b"):
        assert segdistill("predict", model, path, "-o", tmp_path / out).code == 0
    assert (tmp_path / "a/v.nii.gz").read_bytes() == (tmp_path / "b/v.nii.gz").read_bytes()


def test_a_folder_of_everything(tmp_path: Path, model: Path) -> None:
    """Pictures, volumes and a series side by side; a series is one volume, named after its folder."""
    voxels, box = bright_box()
    folder = tmp_path / "in"
    series = write_series(folder / "patient" / "series.3", voxels)
    write_itk(folder / "b" / "v.mhd", voxels)
    Image.fromarray(np.where(box[1], 250, 10).astype(np.uint8)).save(folder / "p.png")
    out = folder / "out"
    for _ in range(2):  # what the first call wrote is no input of the second
        answer = segdistill("predict", model, folder, "-o", out, "--json")
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)["predictions"]
        assert [Path(row["file"]).name for row in told] == ["v.mhd", "p.png", "series.3"]
    assert sorted(path.name for path in out.iterdir()) == [
        "p.png",
        "p_overlay.png",
        "predictions.csv",
        "predictions.jsonl",
        "series.3.nii.gz",
        "series.3_overlay.png",
        "v.nii.gz",
        "v_overlay.png",
    ]
    assert told[2]["voxels"] == told[0]["voxels"] == box.sum()
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    image, mask = reader.Execute(), sitk.ReadImage(str(out / "series.3.nii.gz"))
    assert mask.GetOrigin() == pytest.approx(image.GetOrigin())
    assert np.array_equal(sitk.GetArrayFromImage(image) == 290, sitk.GetArrayFromImage(mask) > 0)
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["area_px"] != "" for row in rows] == [False, True, False]
    assert rows[0]["slices"] == "5"


def test_dicom_files_that_are_no_volume_stay_pictures(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    voxels, _ = bright_box()
    for k in range(2):
        data = dicom_slice(voxels[k], 3.0 * k, series=f"1.2.{k}")
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    answer = segdistill("predict", model, folder, "-o", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert [row.get("slices") for row in json.loads(answer.out)["predictions"]] == [None, None]


def test_dicom_seg_of_a_series(tmp_path: Path, model: Path) -> None:
    voxels, box = bright_box()
    folder = tmp_path / "in"
    series = write_series(folder / "series.3", voxels)
    write_itk(folder / "v.mhd", voxels)
    out = folder / "out"
    assert segdistill("predict", model, folder, "-o", out).code == 0
    for continued in (False, True):
        found = segdistill("predict", model, folder, "-o", out, "--dicom-seg", "--json")
        assert (found.code, len(json.loads(found.out)["predictions"])) == (0, 2), found.err
        assert "1 of 2 inputs are no DICOM series" in found.err
        assert ("2 of 2 images were done by an earlier call" in found.err) == continued
    assert [path.name for path in out.glob("*.dcm")] == ["series.3.seg.dcm"]
    image = read_volume(series, turn=False)
    assert np.array_equal(read_volume_mask([out / "series.3.seg.dcm"], image), box)
    assert [each.name for each in read_segments(out / "series.3.seg.dcm")] == ["lesion"]
    assert segdistill("predict", model, folder, "-o", out).code == 0
    assert not list(out.glob("*.dcm"))


def test_volumes_that_cannot_be_used(tmp_path: Path, model: Path) -> None:
    voxels, _ = bright_box()
    good = write_itk(tmp_path / "good.mha", voxels)
    broken = write_series(tmp_path / "broken", voxels)
    (broken / "IM0004.dcm").unlink()
    answer = segdistill("predict", model, good, broken, "-o", tmp_path / "out")
    assert answer.code == 4
    assert "slice(s) are missing" in answer.err
    assert (tmp_path / "out" / "good.nii.gz").exists()
    assert not (tmp_path / "out" / "broken.nii.gz").exists()
    answer = segdistill("predict", model, broken, "-o", tmp_path / "other")
    assert answer.code == 2
    assert not (tmp_path / "other").exists()
    own = tmp_path / "own"
    own.mkdir()
    nifti = own / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([0.5, 0.6, 3, 1])), nifti)
    before = nifti.read_bytes()
    answer = segdistill("predict", model, nifti, "-o", own)
    assert answer.code == 2
    assert "is an input and would be replaced" in answer.line
    predictor = Predictor(model)
    found = predictor.predict_volume(nifti)
    with pytest.raises(InputError, match="would replace its own volume"):
        write_volume(found, slice_levels(predictor.info.preprocess.intensity, found.volume), "v", own)
    assert nifti.read_bytes() == before


def test_slices_of_the_sheet(tmp_path: Path, model: Path) -> None:
    mask = np.zeros((40, 8, 8), np.uint8)
    mask[3:33, 2:6, 2:6] = 1
    slices = shown_slices(mask)
    assert (slices[0], slices[-1], len(slices)) == (3, 32, 12)
    assert slices == sorted(set(slices))
    assert shown_slices(mask[:2]) == [0, 1]
    sheet = draw_sheet(mask, lambda k: np.full((8, 8), 100, np.uint8))
    assert sheet.shape == (3 * (256 + 14), 4 * 256 + 3 * 4, 3)
    assert (sheet == (255, 176, 0)).all(axis=2).sum() > 12 * 400  # twelve outlines of 128 pixels a side


def test_rows_of_unknown_spacing(tmp_path: Path, model: Path) -> None:
    path = write_itk(tmp_path / "v.mha", bright_box()[0], spacing=(1.0, 1.0, 1.0))
    prediction = Predictor(model).predict_volume(path)
    row = volume_row(prediction, 0.5)
    assert (row["voxels"], row["volume_ml"], row["spacing_source"]) == (prediction.voxels, None, None)
    nothing = Predictor(model, threshold=1.0).predict_volume(path)
    assert (nothing.voxels, nothing.mean_probability) == (0, None)


def test_stems_of_volumes(tmp_path: Path) -> None:
    (tmp_path / "series.1").mkdir()
    names = [tmp_path / "series.1", "a/v.nii.gz", "b/v.nii.gz", "v.mhd", "v.png"]
    assert unique_stems(names) == ["series.1", "v", "v_2", "v_3", "v_4"]


def test_voxels_of_unknown_size_are_told_in_one_line(tmp_path: Path, model: Path) -> None:
    voxels, box = bright_box()
    lost = write_itk(tmp_path / "lost.mhd", voxels, spacing=(1.0, 1.0, 1.0))
    known = write_itk(tmp_path / "known.mhd", voxels, spacing=(0.5, 0.6, 3.0))
    Image.fromarray(np.where(box[1], 250, 10).astype(np.uint8)).save(tmp_path / "p.png")
    alone = segdistill("predict", model, lost, "-o", tmp_path / "a", "--json")
    assert alone.code == 0, alone.err
    assert json.loads(alone.out)["predictions"][0]["volume_ml"] is None
    (line,) = alone.err.splitlines()
    assert line.startswith(f"note: {lost} has no voxel size in its header: volumes are given in voxels only")
    assert "write the true spacing into the header" in line
    both = segdistill("predict", model, lost, known, tmp_path / "p.png", "-o", tmp_path / "b")
    (line,) = both.err.splitlines()
    assert line.startswith(f"note: 1 of 2 volumes ({lost}, ...) have no voxel size in their headers")
    assert segdistill("predict", model, known, tmp_path / "p.png", "-o", tmp_path / "c").err == ""


@pytest.fixture
def model_of_volumes(tmp_path: Path) -> Path:
    names = ("background", "a", "b")
    preprocess = VolumePreprocess((16, 16, 16), (1.0, 1.0, 1.0), intensity=Intensity())
    post = Postprocess(classes=names)
    info = replace(INFO, input_channels=1, classes=names, preprocess=preprocess, postprocess=post)
    return save(tmp_path / "volumes.onnx", build(info, 3))


def test_a_volume_with_too_large_a_grid_fails_alone(tmp_path: Path, model_of_volumes: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    voxels = np.arange(30**3, dtype=np.int16).reshape(30, 30, 30)
    for name, side in (("a", 1.0), ("huge", 40.0), ("z", 1.0)):
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([side, side, side, 1.0])), data / f"{name}.nii.gz")
    done = segdistill("predict", model_of_volumes, data, "-o", tmp_path / "out")
    assert done.code == 4
    assert "huge.nii.gz: its 30 x 30 x 30 voxels of 40 x 40 x 40 mm become 1200 x 1200 x 1200" in done.err
    assert "at most 8 GB are allowed" in done.err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "z.nii.gz"]


@pytest.mark.parametrize("where", ["network", "write"])
def test_too_little_memory_for_one_volume_is_its_own_failure(
    tmp_path: Path, model_of_volumes: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, side in (("a", 20), ("large", 40), ("z", 20)):
        voxels = np.arange(side**3, dtype=np.float32).reshape(side, side, side)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), data / f"{name}.nii.gz")

    def full(real: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
        def fails(*given: Any) -> Any:
            if size(*given) > 20**3:
                raise MemoryError("Unable to allocate 6.44 GiB")
            return real(*given)

        return fails

    if where == "network":
        real = VolumePreprocess.planes
        monkeypatch.setattr(VolumePreprocess, "planes", full(real, lambda _, prepared, __: prepared.size))
    else:
        real = predict.write_volume  # type: ignore[attr-defined]
        monkeypatch.setattr(predict, "write_volume", full(real, lambda found, *_: found.mask.size))
    done = segdistill("predict", model_of_volumes, data, "-o", tmp_path / "out")
    assert done.code == 4
    reason = "its 40 x 40 x 40 voxels take 0.0 GB of memory, and there is less"
    assert (
        f"large.nii.gz: {reason if where == 'network' else 'there is too little memory for it'}" in done.err
    )
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "z.nii.gz"]
