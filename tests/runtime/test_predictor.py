from __future__ import annotations

import csv
import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging.contours import outline
from segdistill.imaging.picture import Picture, Spacing
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.read import read_picture
from segdistill.runtime.predictor import Prediction, Predictor
from segdistill.runtime.write import COLUMNS, prediction_row, unique_stems, write_prediction, write_rows
from tests.runtime.small_model import INFO, build, save


def bright_square(height: int = 90, width: int = 110) -> np.ndarray:
    pixels = np.full((height, width), 40, np.uint8)
    pixels[30:60, 20:80] = 220
    return pixels


def test_mask_has_the_pictures_own_size(tmp_path: Path) -> None:
    predictor = Predictor(save(tmp_path / "m.onnx"), threads=1)
    pixels = bright_square()
    prediction = predictor.predict_pixels(pixels)
    assert prediction.mask.shape == prediction.probability.shape == pixels.shape
    truth = pixels > 128
    overlap = 2 * (truth & (prediction.mask == 1)).sum() / (truth.sum() + prediction.mask.sum())
    assert overlap > 0.95
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(predictor.predict(tmp_path / "a.png").mask, prediction.mask)
    assert prediction.mean_probability is not None
    assert prediction.mean_probability > 0.9
    with pytest.raises(UnreadableImage):
        predictor.predict(tmp_path / "absent.png")


def test_one_plane_gives_the_mask_of_two(tmp_path: Path) -> None:
    two = Predictor(save(tmp_path / "two.onnx")).predict_pixels(bright_square())
    one = Predictor(save(tmp_path / "one.onnx", build(planes=1))).predict_pixels(bright_square())
    assert np.array_equal(one.mask, two.mask)


def test_three_classes_and_a_threshold(tmp_path: Path) -> None:
    names = ("background", "a", "b")
    info = replace(INFO, classes=names, postprocess=Postprocess(classes=names))
    three = Predictor(save(tmp_path / "three.onnx", build(info, planes=3))).predict_pixels(bright_square())
    assert set(np.unique(three.mask)) == {0, 2}
    path = save(tmp_path / "two.onnx")
    areas = [
        int(Predictor(path, threshold=t).predict_pixels(bright_square()).mask.sum())
        for t in (0.01, 0.5, 0.99)
    ]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[2]
    with pytest.raises(InputError, match="threshold"):
        Predictor(path, threshold=1.5)


def test_planes_that_do_not_fit_the_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not fit"):
        Predictor(save(tmp_path / "m.onnx", build(planes=3))).predict_pixels(bright_square())


def made(shape: tuple[int, int] = (20, 30)) -> Prediction:
    mask = np.zeros(shape, np.uint8)
    mask[5:15, 10:20] = 1
    return Prediction(mask, np.where(mask, 0.75, 0.25).astype(np.float32))


def test_files_of_a_prediction(tmp_path: Path) -> None:
    prediction = made()
    picture = Picture(np.full((20, 30), 9, np.uint8), None, Path("x.png"))
    mask_path, overlay_path = write_prediction(prediction, picture, "x", tmp_path / "new")
    assert np.array_equal(np.asarray(Image.open(mask_path)), prediction.mask * 255)
    overlay = np.asarray(Image.open(overlay_path))
    rim = outline(prediction.mask)
    assert (overlay[~rim] == 9).all()
    assert (overlay[rim] != 9).any(axis=1).all()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["x.png", "x_overlay.png"]
    labels = Prediction(prediction.mask * np.uint8(2), prediction.probability)
    assert np.asarray(Image.open(write_prediction(labels, picture, "y", tmp_path)[0])).max() == 2


def test_the_picture_itself_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (30, 20), 9).save(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="would replace its own picture"):
        write_prediction(made(), Picture(np.full((20, 30), 9, np.uint8), None, path), "x", tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_prediction(
            made(), Picture(np.zeros((20, 30), np.uint8), None, Path("x.png")), "x", tmp_path / "file"
        )


def test_rows(tmp_path: Path) -> None:
    spacing = Spacing(0.5, 0.5, "PixelSpacing")
    pixels = np.zeros((20, 30), np.uint8)
    rows = [
        prediction_row(made(), Picture(pixels, spacing, Path("a, b.png")), 0.25),
        prediction_row(made(), Picture(pixels, None, Path("c.png")), 0.25),
        prediction_row(
            Prediction(np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.float32)),
            Picture(pixels, replace(spacing, region=(0, 0, 2, 2)), Path("d.png")),
            0.25,
        ),
        prediction_row(made(), Picture(pixels, replace(spacing, region=(0, 0, 2, 2)), Path("e.png")), 0.25),
    ]
    write_rows(rows, tmp_path / "predictions.csv")
    with open(tmp_path / "predictions.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == COLUMNS
    assert [row["file"] for row in table] == ["a, b.png", "c.png", "d.png", "e.png"]
    assert [row["area_px"] for row in table] == ["100", "100", "0", "100"]
    assert [row["area_mm2"] for row in table] == ["25.0", "", "0.0", ""]
    assert [row["spacing_source"] for row in table] == ["PixelSpacing", "", "PixelSpacing", ""]
    assert [row["mean_probability"] for row in table] == ["0.75", "0.75", "", "0.75"]
    assert float(table[0]["long_mm"]) == pytest.approx(200**0.5 / 2, abs=1e-3)


def test_stems_never_meet() -> None:
    names = ["a/x.png", "b/x.jpg", "c/X.dcm", "x_2.png", "x_overlay.png", "x_overlay_overlay.png", "y.z.png"]
    stems = unique_stems(names)
    files = [name.lower() for stem in stems for name in (f"{stem}.png", f"{stem}_overlay.png")]
    assert len(set(files)) == len(files) == 14
    assert stems[0] == "x"
    assert stems[-1] == "y.z"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_prediction(made(), Picture(np.zeros((20, 30), np.uint8), None, Path("x.png")), "x", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_real_ultrasound_is_measured_in_mm_inside_its_region_only(tmp_path: Path) -> None:
    path = get_testdata_file("examples_palette.dcm", download=False)
    assert isinstance(path, str)
    picture = read_picture(path)
    assert Predictor(save(tmp_path / "m.onnx")).predict(path).mask.shape == picture.size == (350, 800)
    inside = np.zeros(picture.size, np.uint8)
    inside[100:200, 300:400] = 1
    row = prediction_row(Prediction(inside, inside.astype(np.float32)), picture, 0.1)
    assert row["area_mm2"] == pytest.approx(100 * 100 * 0.262288**2, rel=1e-4)
    assert row["spacing_source"] == "ultrasound region"
    inside[0, 0] = 1
    row = prediction_row(Prediction(inside, inside.astype(np.float32)), picture, 0.1)
    assert row["area_mm2"] is row["spacing_source"] is None
