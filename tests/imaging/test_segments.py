"""Masks that name their structures, over their image: 3D Slicer, DICOM SEG and RTSTRUCT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.path
import numpy as np
import pydicom
import pydicom.data
import pydicom.sr.codedict
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset

from segdistill.data.case import Case
from segdistill.data.index import index_folder
from segdistill.data.opened import open_volume
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.imaging.classes import Reading, class_names, parse_classes
from segdistill.imaging.dicom_seg import write_seg
from segdistill.imaging.read_volume import read_segments, read_volume, read_volume_mask
from segdistill.imaging.rtstruct import fill, write_rtstruct
from segdistill.imaging.volume import Noticed, Volume
from tests.imaging.volumes import blocks, dicom_slice, write_itk, write_series

SHAPE = (5, 12, 10)
BY_NAME = Reading(parse_classes(["liver", "cyst"]))


def structures() -> tuple[np.ndarray, np.ndarray]:
    """A liver, and a cyst that lies partly in it: bool (D, H, W) each."""
    liver, cyst = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    liver[1:4, 2:8, 2:7], cyst[2:5, 6:10, 5:9] = True, True
    return liver, cyst


def joined(liver: np.ndarray, cyst: np.ndarray) -> np.ndarray:
    """As `BY_NAME` has them: the later class wins."""
    return np.where(cyst, 2, liver.astype(np.uint8))


def slicer(
    path: Path, layers: list[np.ndarray], segments: list[tuple[str, int, int]], **grid: object
) -> Path:
    """A file as 3D Slicer writes it, by ITK: (name, value, layer) of each segment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [sitk.GetImageFromArray(layer.astype(np.uint8)) for layer in layers]
    image = parts[0] if len(parts) == 1 else sitk.Compose(parts)
    image.SetSpacing(grid.get("spacing", (0.5, 0.6, 3.0)))
    image.SetOrigin(grid.get("origin", (-10.0, 5.0, 20.0)))
    image.SetDirection(grid.get("direction", (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    for n, (name, value, layer) in enumerate(segments):
        fields = {"ID": f"Segment_{n}", "Name": name, "LabelValue": str(value), "Layer": str(layer)}
        for key, text in fields.items():
            image.SetMetaData(f"Segment{n}_{key}", text)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (0, -1, 0, 1, 0, 0, 0, 0, -1)])
def test_layers_of_3d_slicer(tmp_path: Path, direction: tuple[int, ...]) -> None:
    liver, cyst = structures()
    image = read_volume(write_itk(tmp_path / "a.nii.gz", blocks(), direction=direction), turn=False)
    path = slicer(
        tmp_path / "a.seg.nrrd", [liver, cyst], [("Liver", 1, 0), ("cyst", 1, 1)], direction=direction
    )
    noticed = Noticed()
    found = read_volume_mask([path], image, BY_NAME, noticed=noticed)
    assert np.array_equal(found, joined(liver, cyst))
    assert noticed.overlap == np.count_nonzero(liver & cyst)
    assert np.array_equal(read_volume_mask([path], image), liver | cyst)
    one = read_volume_mask([path], image, Reading(parse_classes(["cyst"])))
    assert np.array_equal(one, cyst)
    assert np.array_equal(
        read_volume_mask([path, path], image, Reading(BY_NAME.classes, of_file=("cyst", "liver"))), found
    )
    with pytest.raises(InputError, match=r"several segments have the value 1: name the classes"):
        read_volume_mask([path], image, Reading(parse_classes({"a": 1, "b": 2})))
    with pytest.raises(InputError, match=r"class 'spleen', and none of its 2 segments has this name"):
        read_volume_mask([path], image, Reading(parse_classes(["spleen", "b"]), of_file=("spleen",)))


def test_one_layer_by_value_and_cropped(tmp_path: Path) -> None:
    liver, cyst = structures()
    labels = joined(liver, cyst) * 3
    image = read_volume(write_itk(tmp_path / "a.nrrd", blocks()), turn=False)
    names = [("Segment_1", 3, 0), ("tumour; core", 6, 0)]
    path = slicer(
        tmp_path / "a.seg.nrrd", [labels[1:5, 2:11, 1:9]], names, origin=(-10 + 0.5, 5 + 2 * 0.6, 20 + 3)
    )
    assert [(each.name, each.number) for each in read_segments(path)] == [
        ("Segment_1", 3),
        ("tumour core", 6),
    ]
    by_value = Reading(parse_classes({"liver": 3, "cyst": 6}))
    assert np.array_equal(read_volume_mask([path], image, by_value), joined(liver, cyst))
    with pytest.raises(InputError, match=r"holds the value 6, which is of no class"):
        read_volume_mask([path], image, Reading(parse_classes({"liver": 3})))
    for part, origin, reason in (
        (labels[1:5], (-10.0, 5.0, 30.0), "reaches beyond its image"),
        (labels[:4], (-10.2, 5.0, 20.0), "an origin of"),
        (labels, (-10.0, 5.0, 23.0), "an origin of"),
    ):
        with pytest.raises(InputError, match=reason):
            read_volume_mask([slicer(tmp_path / "b.seg.nrrd", [part], names, origin=origin)], image)
    with pytest.raises(InputError, match=r"holds the value 6, which no segment has"):
        read_volume_mask([slicer(tmp_path / "c.seg.nrrd", [labels], names[:1])], image)


def test_damaged_segmentations_of_3d_slicer(tmp_path: Path) -> None:
    liver, cyst = structures()
    image = read_volume(write_itk(tmp_path / "a.nrrd", blocks()), turn=False)
    path = slicer(tmp_path / "a.seg.nrrd", [liver, cyst], [("liver", 1, 0), ("cyst", 1, 1)])
    whole, bad = path.read_bytes(), tmp_path / "bad.seg.nrrd"
    for content in (
        whole[: len(whole) // 2],
        whole.replace(b"Segment1_Layer:=1", b"Segment1_Layer:=7"),
        whole.replace(b"Segment1_LabelValue:=1", b"Segment1_LabelValue:=x"),
        whole.replace(b"sizes: 2 10", b"sizes: 0 10"),
        whole.replace(b"sizes: 2 10", b"sizes: 2 99"),
        whole.replace(b"type: unsigned char", b"type: double"),
    ):
        assert content != whole
        bad.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.seg\.nrrd") as caught:
            read_volume_mask([bad], image)
        assert "\n" not in str(caught.value)


def test_names_become_the_classes_of_a_table(tmp_path: Path) -> None:
    liver, cyst = structures()
    for name in ("a", "b"):
        write_itk(tmp_path / "images" / f"{name}.nii.gz", blocks())
        slicer(tmp_path / "masks" / f"{name}.seg.nrrd", [liver, cyst], [("Liver", 1, 0), ("cyst", 1, 1)])
    write_cases(index_folder("folder", tmp_path).cases, tmp_path / "cases.csv")
    case = read_cases(tmp_path / "cases.csv")[0]
    assert class_names(case.classes) == ("Liver", "cyst")
    assert np.array_equal(open_volume(case)[1], joined(liver, cyst))
    unnamed = [Case("c", tmp_path / "images" / "a.nii.gz", (tmp_path / "m.nii.gz",), classes=case.classes)]
    write_cases(unnamed, tmp_path / "plain.csv")
    with pytest.raises(InputError, match=r"'Liver' has no value"):
        read_cases(tmp_path / "plain.csv")


def seg(path: Path, series: Path, frames: list[tuple[int, int, np.ndarray]], names: list[str]) -> Dataset:
    """A fractional DICOM SEG, tag by tag: (segment, slice of the series from the foot, values) of each frame."""
    slices = sorted(map(pydicom.dcmread, series.iterdir()), key=lambda each: each.ImagePositionPatient[2])
    data = dicom_slice(np.zeros(SHAPE[1:], int), 0.0, series="9.9", Modality="SEG")
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    data.SegmentationType, data.MaximumFractionalValue = "FRACTIONAL", 200
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.NumberOfFrames = len(frames)
    data.PixelData = b"".join(values.astype(np.uint8).tobytes() for _, _, values in frames)
    data.SegmentSequence = [item(SegmentNumber=n, SegmentLabel=name) for n, name in enumerate(names, 1)]
    data.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[item(PixelSpacing=[0.6, 0.5])],
        )
    ]
    data.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=slices[k].ImagePositionPatient)],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)],
        )
        for number, k, _ in frames
    ]
    data.save_as(path, enforce_file_format=True)
    return data


def item(**values: object) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_frames_of_a_fractional_seg_lie_by_position(tmp_path: Path) -> None:
    series = write_series(tmp_path / "images" / "a", blocks())
    liver, cyst = structures()
    frames = [(1, k, liver[k] * 100) for k in (3, 1, 2)] + [
        (2, k, cyst[k] * 200 + 99 * ~cyst[k]) for k in (4, 2, 3)
    ]
    path = tmp_path / "masks" / "a.dcm"
    path.parent.mkdir()
    seg(path, series, frames, ["Liver", "cyst"])
    image, noticed = read_volume(series, turn=False), Noticed()
    found = read_volume_mask([path], image, BY_NAME, noticed=noticed)
    assert np.array_equal(found, joined(liver, cyst))
    assert noticed.overlap == np.count_nonzero(liver & cyst)
    case = index_folder("folder", tmp_path).cases[0]
    assert class_names(case.classes) == ("Liver", "cyst")
    assert np.array_equal(open_volume(case)[1], joined(liver, cyst))


def test_damaged_or_foreign_seg(tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", blocks(), FrameOfReferenceUID="1.2.9")
    image, path = read_volume(series, turn=False), tmp_path / "bad.dcm"
    frames = [(1, 1, structures()[0][1] * 200)]

    def groups(data: Dataset) -> Dataset:
        return data.PerFrameFunctionalGroupsSequence[0]

    changes: dict[str, Callable[[Dataset], object]] = {
        "lies 0.333 slices, 0 rows and 0 columns beside those of .*, more than the 0.001 voxels": lambda d: (
            setattr(groups(d).PlanePositionSequence[0], "ImagePositionPatient", [-10, 5, 24])
        ),
        "lies 0.002 slices, 0 rows": lambda d: setattr(
            groups(d).PlanePositionSequence[0], "ImagePositionPatient", [-10, 5, 23.006]
        ),
        "holds 2 frames and describes 1": lambda d: setattr(d, "NumberOfFrames", 2),
        "segment 7, which it does not": lambda d: setattr(
            groups(d).SegmentIdentificationSequence[0], "ReferencedSegmentNumber", 7
        ),
        "another frame of reference": lambda d: setattr(d, "FrameOfReferenceUID", "1.2.8"),
        "damaged or unsupported DICOM pixels": lambda d: setattr(d, "PixelData", b"\0\0"),
        "a spacing of": lambda d: setattr(
            d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], "PixelSpacing", [1, 1]
        ),
        "without PlanePositionSequence": lambda d: delattr(groups(d), "PlanePositionSequence"),
        "of modality 'MR'": lambda d: setattr(d, "Modality", "MR"),
        "cannot be read": lambda d: delattr(d, "Rows"),
    }
    for reason, change in changes.items():
        data = seg(path, series, frames, ["liver"])
        change(data)
        data.save_as(path, enforce_file_format=True)
        with pytest.raises(InputError, match=reason) as caught:
            read_volume_mask([path], image)
        assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"bad\.dcm"):
        read_volume_mask([path], image)
    real = Path(pydicom.data.get_testdata_file("liver_1frame.dcm", download=False))
    assert [each.name for each in read_segments(real)] == ["Liver"]
    with pytest.raises(InputError, match=r"holds 1 frames and describes 3"):
        read_volume_mask([real], image)


def rtstruct(path: Path, image: Volume, rois: dict[str, list[tuple[int, np.ndarray]]]) -> Dataset:
    """Contours of each structure: (slice, (row, column) of its points)."""
    data = dicom_slice(np.zeros((2, 2), int), 0.0, series="9.9", Modality="RTSTRUCT")
    del data.PixelData
    grid, frame = image.geometry, pydicom.dcmread(next(image.source.iterdir())).FrameOfReferenceUID

    def contour(k: int, points: np.ndarray) -> Dataset:
        steps = points * grid.step_mm[1:]
        places = image.positions[k] + steps @ np.asarray(grid.axes)[1:]
        numbers = [f"{value:.3f}" for value in places.ravel()]
        return item(ContourGeometricType="CLOSED_PLANAR", ContourData=numbers)

    data.StructureSetROISequence = [
        item(ROINumber=n, ROIName=name, ReferencedFrameOfReferenceUID=frame) for n, name in enumerate(rois, 1)
    ]
    data.ROIContourSequence = [
        item(ReferencedROINumber=n, ContourSequence=[contour(*each) for each in contours])
        for n, contours in enumerate(rois.values(), 1)
    ]
    data.save_as(path, enforce_file_format=True)
    return data


def rectangle(top: float, left: float, bottom: float, right: float) -> np.ndarray:
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])


def test_contours_along_voxels_and_through_their_centres(tmp_path: Path, data_root: Path) -> None:
    image = read_volume(data_root / "mr_dicom" / "T1post", turn=False)
    mask = np.zeros(image.geometry.shape, np.uint8)
    mask[3, 10:21, 30:41], mask[3, 14:17, 33:37] = 1, 0
    mask[5, 10:21, 30:41], mask[5, 18:25, 38:50] = 1, 2
    borders = [(3, rectangle(9.5, 29.5, 20.5, 40.5)), (3, rectangle(13.5, 32.5, 16.5, 36.5))]
    keyhole = np.array([[9.5, 29.5], [9.5, 40.5], [20.5, 40.5], [20.5, 29.5], [13.5, 29.5], [13.5, 32.5],
                        [16.5, 32.5], [16.5, 36.5], [13.5, 36.5], [13.5, 32.5], [13.5, 29.5]])  # fmt: skip
    centres = [(3, rectangle(10, 30, 20, 40)), (3, rectangle(13, 32, 17, 37))]
    last = [(5, rectangle(10, 30, 20, 40))]
    path, reading = tmp_path / "a.dcm", Reading(parse_classes(["organ", "lesion"]))
    for drawn in (borders, [(3, keyhole)], centres):
        rtstruct(path, image, {"Organ": drawn + last, "lesion": [(5, rectangle(17.5, 37.5, 24.5, 49.5))]})
        noticed = Noticed()
        assert np.array_equal(read_volume_mask([path], image, reading, noticed=noticed), mask)
        assert noticed.overlap == 9
    assert [each.name for each in read_segments(path)] == ["Organ", "lesion"]


@pytest.mark.parametrize("seed", range(5))
def test_fill_is_what_rays_cross_an_odd_number_of_times(seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-5, 25, (7, 2))
    rows, columns = np.mgrid[:20, :22]
    edges = list(zip(points, np.roll(points, -1, axis=0), strict=True))
    odd, beside = np.zeros((20, 22), int), np.full((20, 22), np.inf)
    for (r1, c1), (r2, c2) in edges:  # the crossings of a ray to the left, pixel by pixel
        passes = (r1 > rows) != (r2 > rows)
        odd += passes & (columns > c1 + (rows - r1) * (c2 - c1) / (r2 - r1))
        way = np.array([r2 - r1, c2 - c1])
        share = np.clip(((rows - r1) * way[0] + (columns - c1) * way[1]) / (way @ way), 0, 1)
        beside = np.minimum(beside, np.hypot(rows - r1 - share * way[0], columns - c1 - share * way[1]))
    found = fill([points], (20, 22))
    assert np.array_equal(found[beside > 0.02], odd[beside > 0.02] % 2 == 1)
    assert found[odd % 2 == 1].all()
    assert found[beside < 0.01].all()


def test_damaged_or_foreign_contours(tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", blocks(), FrameOfReferenceUID="1.2.9")
    image, path = read_volume(series, turn=False), tmp_path / "bad.dcm"
    changes: dict[str, Callable[[Dataset], object]] = {
        "slices beside those": lambda d: setattr(first(d), "ContourData", [0, 0, 0, 1, 0, 0, 1, 1, 0]),
        "or across them": lambda d: setattr(first(d), "ContourData", [0, 0, 20, 1, 0, 20, 1, 1, 23]),
        "no points in space": lambda d: setattr(first(d), "ContourData", [0, 0, 20, 1, 0, 20, 1, 1, 20, 4]),
        "structure 9, which it does not name": lambda d: setattr(
            d.ROIContourSequence[0], "ReferencedROINumber", 9
        ),
        "another frame of reference": lambda d: setattr(
            d.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", "1.2.8"
        ),
        "cannot be read": lambda d: delattr(d.ROIContourSequence[0], "ReferencedROINumber"),
    }

    def first(data: Dataset) -> Dataset:
        return data.ROIContourSequence[0].ContourSequence[0]

    for reason, change in changes.items():
        data = rtstruct(path, image, {"liver": [(1, rectangle(2, 2, 5, 5))]})
        change(data)
        data.save_as(path, enforce_file_format=True)
        with pytest.raises(InputError, match=reason) as caught:
            read_volume_mask([path], image)
        assert "\n" not in str(caught.value)
    rtstruct(path, image, {"body": [(1, rectangle(-50, -50, 500, 5))], "empty": []})
    found = read_volume_mask([path], image)
    assert found[1, :, :6].all()
    assert found.sum() == 12 * 6


@pytest.mark.parametrize("name", ["T1post", "hippocampus_crop"])
def test_what_is_written_over_a_real_series_comes_back(tmp_path: Path, name: str, data_root: Path) -> None:
    image = read_volume(data_root / "mr_dicom" / name, turn=False)
    mask = np.zeros(image.geometry.shape, np.uint8)
    mask[2:9, 5:30, 7:20], mask[6:12, 20:40, 10:31] = 1, 2
    path, names = tmp_path / "a.seg.dcm", ("Körper", "head")
    write_seg(mask, image, path, names, "a model")
    reading = Reading(parse_classes(names))
    assert np.array_equal(read_volume_mask([path], image, reading), mask)
    data = pydicom.dcmread(path)
    assert data.NumberOfFrames == sum((mask[k] == n).any() for n in (1, 2) for k in range(len(mask)))
    frames = zip(data.pixel_array, data.PerFrameFunctionalGroupsSequence, strict=True)
    places = image.positions
    for pixels, group in frames:
        place = np.asarray(group.PlanePositionSequence[0].ImagePositionPatient, float)
        k = int(np.linalg.norm(places - place, axis=1).argmin())
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert np.array_equal(pixels, mask[k] == number)


@pytest.mark.parametrize("name", ["T1post", "hippocampus_crop"])
def test_contours_over_a_real_series_come_back(tmp_path: Path, name: str, data_root: Path) -> None:
    """To the bit by us; and by matplotlib, which asks for each voxel's centre whether it lies inside."""
    image = read_volume(data_root / "mr_dicom" / name, turn=False)
    mask = np.zeros(image.geometry.shape, np.uint8)
    mask[2:9, 5:30, 7:20], mask[4:7, 8:20, 9:12], mask[6:12, 20:40, 10:31] = 1, 0, 2
    mask[3, 5:17, 15:27] = np.random.default_rng(0).random((12, 12)) < 0.5  # pieces and holes of one pixel
    path, names = tmp_path / "a.dcm", ("Körper", "head", "nothing")
    write_rtstruct(mask, image, path, names, "a model")
    assert np.array_equal(read_volume_mask([path], image, Reading(parse_classes(names))), mask)
    data = pydicom.dcmread(path)
    assert [each.ROIName for each in data.StructureSetROISequence] == list(names)
    assert "ContourSequence" not in data.ROIContourSequence[2]
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in image.source.iterdir()]
    origins = {each.SOPInstanceUID: np.asarray(each.ImagePositionPatient, float) for each in headers}
    found = np.zeros_like(mask)
    axes, steps = np.asarray(image.geometry.axes), np.asarray(image.geometry.step_mm)
    part = np.s_[:40, : min(40, mask.shape[2])]  # the rest is empty
    centres = np.stack(np.indices(mask[0][part].shape), -1).reshape(-1, 2)
    for roi in data.ROIContourSequence[:2]:
        for contour in roi.ContourSequence:
            assert contour.NumberOfContourPoints == len(contour.ContourData) // 3
            origin = origins[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.asarray(contour.ContourData, float).reshape(-1, 3) - origin
            assert np.abs(points @ axes[0]).max() < 1e-3  # in the plane of its slice
            k = int(np.linalg.norm(image.positions - origin, axis=1).argmin())
            ring = points @ axes[1:].T / steps[1:]
            inside = matplotlib.path.Path(ring, closed=False).contains_points(centres)
            found[k][part][inside.reshape(found[k][part].shape)] = roi.ReferencedROINumber
    assert np.array_equal(found, mask)


def test_contours_need_a_series(tmp_path: Path) -> None:
    write_itk(tmp_path / "a.nii.gz", blocks())
    image = read_volume(tmp_path / "a.nii.gz", turn=False)
    with pytest.raises(InputError, match="is no DICOM series: an RTSTRUCT refers to the slices of one"):
        write_rtstruct(np.zeros((1, 1, 1), np.uint8), image, tmp_path / "a.dcm", ("a",), "")


def test_highdicom_reads_what_is_written_and_is_read(tmp_path: Path, data_root: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    series = data_root / "mr_dicom" / "T1post"
    image, path = read_volume(series, turn=False), tmp_path / "a.seg.dcm"
    liver, cyst = (np.zeros(image.geometry.shape, bool) for _ in range(2))
    liver[2:9, 5:30, 7:20], cyst[6:12, 20:40, 10:31] = True, True
    write_seg(joined(liver, cyst), image, path, ("liver", "cyst"), "a model")
    headers = [pydicom.dcmread(file) for file in series.iterdir()]
    places = [np.abs(image.positions - each.ImagePositionPatient).max(axis=1).argmin() for each in headers]
    headers = [headers[k] for k in np.argsort(places)]
    found = highdicom.seg.segread(path).get_pixels_by_source_instance(
        [each.SOPInstanceUID for each in headers],
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(found, joined(liver, cyst))
    terms = {
        "segmented_property_category": pydicom.sr.codedict.codes.SCT.Organ,
        "segmented_property_type": pydicom.sr.codedict.codes.SCT.Liver,
        "algorithm_type": "MANUAL",
    }
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
        drawn = joined(liver, cyst) if kind == "LABELMAP" else np.stack([liver, cyst], -1)
        made = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=drawn.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
            segmentation_type=kind,
            segment_descriptions=[
                highdicom.seg.SegmentDescription(segment_number=n, segment_label=name, **terms)
                for n, name in enumerate(("Liver", "cyst"), start=1)
            ],
            series_instance_uid=highdicom.UID(),
            series_number=1,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="a",
            manufacturer_model_name="b",
            software_versions="1",
            device_serial_number="1",
        )
        made.save_as(path)
        assert np.array_equal(read_volume_mask([path], image, BY_NAME), joined(liver, cyst)), kind
