from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging.limits import Inflating
from segdistill.imaging.read_volume import is_volume, read_volume, read_volume_mask, volume_files
from segdistill.imaging.volume import Geometry, Volume, label_mask
from tests.imaging.volumes import blocks, dicom_slice, organ, write_itk, write_series

TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
TURNS = [  # x, y and z axes of the image, as columns of ITK's direction
    (1, 0, 0, 0, 1, 0, 0, 0, 1),
    (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    (1, 0, 0, 0, -1, 0, 0, 0, -1),
    (0, 1, 0, -1, 0, 0, 0, 0, 1),
    (0, -1, 0, 1, 0, 0, 0, 0, -1),
]


def same_as_itk(path: Path, turn: bool = True) -> None:
    image = sitk.ReadImage(str(path))
    image = sitk.DICOMOrient(image, "LPS") if turn else image
    volume = read_volume(path, turn=turn)
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image))
    assert volume.geometry.shape == volume.voxels.shape
    assert volume.geometry.step_mm == pytest.approx(image.GetSpacing()[::-1], rel=1e-5)
    direction = np.reshape(image.GetDirection(), (3, 3))
    assert np.allclose(np.asarray(volume.geometry.axes), direction.T[::-1], atol=1e-6)
    assert volume.geometry.origin == pytest.approx(image.GetOrigin(), abs=1e-4)


@pytest.mark.parametrize("ending", [".mhd", ".mha", ".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("compress", [False, True])
def test_read_as_simpleitk_reads_and_turned_to_lps(
    tmp_path: Path, ending: str, turn: tuple[int, ...], compress: bool
) -> None:
    path = write_itk(tmp_path / f"a{ending}", blocks(), direction=turn, compress=compress)
    same_as_itk(path)
    same_as_itk(path, turn=False)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("ending", [".mhd", ".nii.gz", ".nrrd"])
def test_voxel_types(tmp_path: Path, kind: str, ending: str) -> None:
    array = np.abs(blocks()) % 120
    volume = read_volume(write_itk(tmp_path / f"a{ending}", array.astype(kind)))
    assert np.array_equal(volume.voxels, array)
    assert volume.spacing == pytest.approx((3.0, 0.6, 0.5))


def test_oblique_and_sagittal_volumes(tmp_path: Path) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    oblique = write_itk(tmp_path / "o.nii.gz", blocks(), direction=(1, 0, 0, 0, c, -s, 0, s, c))
    same_as_itk(oblique, turn=False)
    assert np.array_equal(read_volume(oblique).voxels, blocks())
    sagittal = write_itk(tmp_path / "s.mhd", blocks(), direction=(0, 0, -1, 1, 0, 0, 0, -1, 0))
    same_as_itk(sagittal, turn=False)
    assert np.array_equal(read_volume(sagittal).voxels, blocks())  # slices stay those that were acquired


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.tuples(*[st.integers(1, 4)] * 3))
def test_any_axes_are_turned_without_moving_a_voxel(
    tmp_path: Path, order: list[int], flips: tuple[bool, ...], shape: tuple[int, int, int]
) -> None:
    axes = np.eye(3)[order] * np.where(flips, -1, 1)[:, None]
    rows = tuple(tuple(float(v) for v in row) for row in axes)
    geometry = Geometry(shape, (3.0, 2.0, 1.0), rows, (1.0, 2.0, 3.0))  # type: ignore[arg-type]
    voxels = np.arange(np.prod(shape)).reshape(shape)
    turned = Volume(voxels, (3.0, 2.0, 1.0), Path("a"), geometry).turned()

    def places(volume: Volume) -> dict[int, tuple[float, ...]]:
        found = {}
        for index, value in np.ndenumerate(volume.voxels):
            steps = np.multiply(index, volume.geometry.step_mm)
            point = np.asarray(volume.geometry.origin) + steps @ np.asarray(volume.geometry.axes)
            found[int(value)] = tuple(np.round(point, 6))
        return found

    assert places(turned) == places(Volume(voxels, None, Path("a"), geometry))
    assert turned.spacing == turned.geometry.step_mm
    if order[0] == 2:
        assert np.allclose(turned.geometry.axes, np.eye(3)[::-1])


def test_unit_spacing_is_unknown_unless_told(tmp_path: Path) -> None:
    ones = (1.0, 1.0, 1.0)
    for ending in (".mhd", ".nrrd"):
        path = write_itk(tmp_path / f"a{ending}", blocks(), spacing=ones)
        assert read_volume(path).spacing is None
        assert read_volume(path, trust_unit_spacing=True).spacing == ones
        assert read_volume(path).geometry.step_mm == ones
    image = nibabel.Nifti1Image(blocks().transpose(), np.eye(4))
    nibabel.save(image, tmp_path / "unknown.nii")
    assert read_volume(tmp_path / "unknown.nii").spacing is None
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "mm.nii")
    assert read_volume(tmp_path / "mm.nii").spacing == ones
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "micron.nii")
    assert read_volume(tmp_path / "micron.nii").spacing == (0.001, 0.001, 0.001)


def test_nifti_scaling_kinds_and_a_fourth_dimension_of_one(tmp_path: Path) -> None:
    array = np.linspace(-3, 3, 60, dtype=np.float64).reshape(3, 4, 5)
    for kind, ending in ((nibabel.Nifti1Image, "nii"), (nibabel.Nifti2Image, "nii.gz")):
        image = kind(array, np.diag([2.0, 2.0, 4.0, 1.0]))
        image.set_data_dtype(np.int16)  # nibabel stores a slope and an intercept
        nibabel.save(image, tmp_path / f"a.{ending}")
        expected = nibabel.load(tmp_path / f"a.{ending}").get_fdata().transpose()
        assert np.allclose(read_volume(tmp_path / f"a.{ending}", turn=False).voxels, expected, atol=1e-5)
    nibabel.save(nibabel.Nifti1Image(array[..., None].astype(np.float32), np.eye(4)), tmp_path / "b.nii.gz")
    assert read_volume(tmp_path / "b.nii.gz").voxels.shape == (5, 4, 3)
    big = nibabel.Nifti1Image(blocks().transpose(), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    nibabel.save(big, tmp_path / "big.nii")
    assert np.array_equal(read_volume(tmp_path / "big.nii", turn=False).voxels, blocks())


def refuse(path: Path, reason: str, **options: int) -> None:
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_volume(path, **options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_is_no_volume(tmp_path: Path) -> None:
    refuse(tmp_path / "none.nii", "no such file")
    for ending in ("mhd", "nii", "nii.gz", "nrrd"):
        (tmp_path / f"empty.{ending}").touch()
        refuse(tmp_path / f"empty.{ending}", "is empty")
        (tmp_path / f"noise.{ending}").write_bytes(np.random.default_rng(0).bytes(5000))
        refuse(tmp_path / f"noise.{ending}", "header|damaged|NRRD")
        path = write_itk(tmp_path / f"big.{ending}", blocks())
        refuse(
            path,
            "(5 x 12 x 10|10 x 12 x 5) voxels of 2 bytes, more than the 2399 bytes",
            max_bytes=2399,
        )
    (tmp_path / "a.txt").write_text("x")
    refuse(tmp_path / "a.txt", "is not a volume")
    (tmp_path / "folder").mkdir()
    refuse(tmp_path / "folder", "no DICOM files")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 6), np.int16), np.eye(4)), tmp_path / "four.nii.gz")
    refuse(tmp_path / "four.nii.gz", "has 4 dimensions, 3 x 4 x 5 x 6")
    nibabel.save(nibabel.Nifti1Image(np.full((3, 4, 5), np.nan, np.float32), np.eye(4)), tmp_path / "nan.nii")
    refuse(tmp_path / "nan.nii", "NaN or infinite")
    sitk.WriteImage(
        sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8), isVector=False), str(tmp_path / "f.mha")
    )
    refuse(tmp_path / "f.mha", "has 4 dimensions")
    sitk.WriteImage(
        sitk.GetImageFromArray(np.zeros((2, 3, 4, 3), np.uint8), isVector=True), str(tmp_path / "v.mha")
    )
    refuse(tmp_path / "v.mha", "several channels")


@pytest.mark.parametrize("ending", ["mhd", "mha", "nii", "nii.gz", "nrrd"])
@pytest.mark.parametrize("compress", [False, True])
def test_cut_off_files(tmp_path: Path, ending: str, compress: bool) -> None:
    path = write_itk(tmp_path / f"a.{ending}", blocks((8, 30, 30)), compress=compress)
    data = volume_files(path)[-1]
    data.write_bytes(data.read_bytes()[:-400])
    refuse(path, "cut off|damaged")


def test_voxels_that_are_a_link(tmp_path: Path) -> None:
    path = write_itk(tmp_path / "own" / "a.mhd", blocks())
    whole, raw = read_volume(path).voxels, tmp_path / "own" / "a.raw"
    raw.rename(tmp_path / "own" / "b.raw")
    raw.symlink_to("b.raw")
    assert np.array_equal(read_volume(path).voxels, whole)
    raw.unlink()
    (tmp_path / "own" / "b.raw").rename(tmp_path / "secret.raw")
    raw.symlink_to(tmp_path / "secret.raw")
    refuse(path, "a link to another folder")
    (tmp_path / "linked").symlink_to(tmp_path / "own")  # the folder itself may be a link
    raw.unlink()
    (tmp_path / "secret.raw").rename(raw)
    assert np.array_equal(read_volume(tmp_path / "linked" / "a.mhd").voxels, whole)
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "a.mhd").symlink_to(path)
    (tmp_path / "beside" / "a.raw").symlink_to(raw)  # both lead to one folder
    assert np.array_equal(read_volume(tmp_path / "beside" / "a.mhd").voxels, whole)


@pytest.mark.parametrize("before", ["./", ".\\", "././"])
def test_voxels_named_from_their_own_folder(before: str, tmp_path: Path) -> None:
    path = write_itk(tmp_path / "a.mhd", blocks())
    whole = read_volume(path).voxels
    path.write_text(path.read_text().replace("ElementDataFile = ", f"ElementDataFile = {before}"))
    assert np.array_equal(read_volume(path).voxels, whole)


def test_metaimage_headers_that_cannot_be_followed(tmp_path: Path) -> None:
    path = write_itk(tmp_path / "a.mhd", blocks())
    text = path.read_text()
    for old, new, reason in (
        ("a.raw", "b.raw", "no b.raw beside it"),
        ("a.raw", "../a.raw", "outside of its own folder"),
        ("a.raw", "/etc/passwd", "outside of its own folder"),
        ("a.raw", "LIST", "several files"),
        ("a.raw", "a%03d.raw 1 5 1", "several files"),
        ("MET_SHORT", "MET_STRANGE", "type 'MET_STRANGE'"),
        ("DimSize = 10 12 5", "DimSize = 10 x 5", "DimSize holds no numbers"),
        ("DimSize = 10 12 5", "DimSize = 10 12", "NDims and DimSize disagree"),
        ("DimSize = 10 12 5", "DimSize = 0 12 5", "claims 5 x 12 x 0 voxels"),
        ("ElementSpacing = 0.5", "ElementSpacing = 0", "three positive numbers"),
        ("BinaryData = True", "BinaryData = False", "as text"),
        ("ElementDataFile", "Element", "names no ElementDataFile"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        refuse(path, re.escape(reason))
    path.write_text(text.replace("BinaryDataByteOrderMSB = False", "BinaryDataByteOrderMSB = True"))
    assert np.array_equal(read_volume(path).voxels, blocks().byteswap())


def test_bombs_are_not_inflated(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    header = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    nibabel.save(header, tmp_path / "a.nii")
    head = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(head) + bomb)
    refuse(tmp_path / "a.nii.gz", "holds more data than its header claims")
    huge = nibabel.Nifti1Header()
    huge.set_data_shape((30000, 30000, 30000))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(huge.binaryblock + b"\0" * 4) + bomb)
    refuse(tmp_path / "b.nii.gz", "30000 x 30000 x 30000 voxels of 4 bytes, more than")


@given(st.binary(max_size=300), st.integers(0, 300), st.booleans())
def test_a_stream_gives_what_was_promised_or_says_so(data: bytes, count: int, gzipped: bool) -> None:
    packed = gzip.compress(data) if gzipped else zlib.compress(data)
    if count <= len(data):
        stream = Inflating(io.BytesIO(packed))
        assert stream.read(count) == data[:count]
        stream.finish()
        return
    assert Inflating(io.BytesIO(packed)).read(count, exact=False) == data
    with pytest.raises(InputError, match=f"{len(data)} of {count} bytes"):
        Inflating(io.BytesIO(packed)).read(count)


def test_a_series_is_ordered_by_position(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", blocks())
    (folder / "notes.txt").write_text("not a slice")
    volume = read_volume(folder)
    assert np.array_equal(volume.voxels, blocks())
    assert volume.spacing == pytest.approx((3.0, 0.6, 0.5))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image))
    assert volume.geometry.origin == pytest.approx(image.GetOrigin())
    assert is_volume(folder)
    assert len(volume_files(folder)) == 5


def test_series_that_cannot_be_a_volume(tmp_path: Path) -> None:
    def series(name: str, *extra: object, drop: int = -1) -> Path:
        folder = write_series(tmp_path / name, blocks((6, 4, 4)))
        if drop >= 0:
            (folder / f"IM{(drop * 7) % 6:04}.dcm").unlink()
        for k, item in enumerate(extra):
            item.save_as(folder / f"more{k}.dcm", enforce_file_format=True)  # type: ignore[attr-defined]
        return folder

    values = blocks((1, 4, 4))[0]
    refuse(series("missing", drop=2), r"1 slice.s. are missing between .* .6.00 mm apart, usually 3.00")
    refuse(series("double", dicom_slice(values, 23.0)), r"more0\.dcm are slices in the same place|same place")
    refuse(series("sizes", dicom_slice(np.zeros((5, 4)), 38.0)), "mixed sizes .* 4 x 4 and 5 x 4 pixels")
    refuse(series("several", dicom_slice(values, 38.0, series="9.9")), "holds several series")
    refuse(series("spacing", dicom_slice(values, 38.0, PixelSpacing=[1, 1])), "mixed spacing or orientation")
    refuse(series("uneven", dicom_slice(values, 36.5)), "unevenly spaced")
    lost = dicom_slice(values, 38.0)
    del lost.ImagePositionPatient
    refuse(series("nowhere", lost), "more0.dcm: has no position")
    folder = series("damaged")
    (folder / "IM0000.dcm").write_bytes((folder / "IM0000.dcm").read_bytes()[:-20])
    refuse(folder, r"IM0000\.dcm: holds damaged")
    (folder / "IM0000.dcm").write_bytes(b"")
    refuse(folder, r"IM0000\.dcm: ")  # not taken for something that only lies there


def test_masks_must_lie_on_their_image(tmp_path: Path) -> None:
    image = read_volume(write_itk(tmp_path / "image.mhd", blocks()), turn=False)

    def mask(name: str, array: np.ndarray, **options: object) -> np.ndarray:
        return read_volume_mask([write_itk(tmp_path / name, array, **options)], image)  # type: ignore[arg-type]

    assert np.array_equal(mask("same.nii.gz", organ() * 2, origin=(0.0, 0.0, 0.0)), organ() > 0)
    turned = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    for array, options, words in (
        (organ((5, 12, 11)), {}, "5 x 12 x 10 against 5 x 12 x 11 voxels"),
        (organ(), {"spacing": (0.5, 0.6, 3.1)}, "a spacing of 3 x 0.6 x 0.5 against 3.1 x 0.6 x 0.5 mm"),
        (organ(), {"spacing": (1.0, 1.0, 1.0)}, "against 1 x 1 x 1 mm"),
        (organ(), {"direction": turned}, "an orientation of SPL against SAR"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            mask("other.nii.gz", array, **options)
        assert "image.mhd" in str(caught.value)
        assert "\n" not in str(caught.value)
    joined = read_volume_mask(
        [tmp_path / "same.nii.gz", write_itk(tmp_path / "b.mhd", organ()[::-1].copy())], image
    )
    assert np.array_equal(joined, (organ() | organ()[::-1]) > 0)


def test_what_is_no_mask() -> None:
    def labels(array: np.ndarray, classes: int = 0) -> np.ndarray:
        geometry = Geometry(array.shape, (1.0, 1.0, 1.0))  # type: ignore[arg-type]
        return label_mask(Volume(array, None, Path("m.nii"), geometry), classes)

    assert np.array_equal(labels(organ().astype(np.float32)), organ() > 0)
    assert np.array_equal(labels(organ() * 255, classes=2), organ() > 0)
    with pytest.raises(InputError, match="holds the label 3, but 3 classes are declared"):
        labels(organ() * 3, classes=3)
    with pytest.raises(InputError, match="holds the label 255, but 3 classes"):
        labels(organ() * 255, classes=3)
    with pytest.raises(InputError, match="fractions"):
        labels(organ() * 0.5)
    with pytest.raises(InputError, match="negative"):
        labels(blocks())
    with pytest.raises(InputError, match="up to 512"):
        labels(organ().astype(np.int16) * 512)


def test_a_dicom_mask_may_lack_empty_slices(tmp_path: Path) -> None:
    image = read_volume(write_series(tmp_path / "image", blocks()), turn=False)
    mask = tmp_path / "mask"
    mask.mkdir()
    for k in (1, 2, 3):
        slice_ = dicom_slice(organ()[k], 20.0 + 3 * k, series="5.5")
        slice_.save_as(mask / f"{9 - k}.dcm", enforce_file_format=True)
    assert np.array_equal(read_volume_mask([mask], image), organ() > 0)
    dicom_slice(organ()[1], 21.5, series="5.5").save_as(mask / "x.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match=r"x\.dcm lies 0\.5 slices, 0 rows"):
        read_volume_mask([mask], image)


def test_uncompressed_volumes_are_mapped(tmp_path: Path) -> None:
    for ending in ("mhd", "nii"):
        voxels = read_volume(write_itk(tmp_path / f"a.{ending}", blocks()), turn=False).voxels
        base = voxels
        while base.base is not None and not isinstance(base, np.memmap):
            base = base.base  # type: ignore[assignment]
        assert isinstance(base, np.memmap)


def test_real_volumes_as_simpleitk_reads_them(data_root: Path) -> None:
    for name in ("Case13", "Case13_segmentation", "Case49"):
        path = data_root / "promise12" / "TrainingData" / f"{name}.mhd"
        same_as_itk(path)
        assert read_volume(path).spacing is None
    path = data_root / "spleen" / "Task09_Spleen" / "labelsTr" / "spleen_8.nii.gz"
    same_as_itk(path)
    same_as_itk(path, turn=False)
    assert read_volume(path).spacing == pytest.approx((7.5, 0.785156, 0.785156))
