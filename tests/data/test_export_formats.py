"""Tables written in other formats come back: raster formats to the bit, polygons with their holes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.path
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from segdistill.data.case import Case, reference_mask
from segdistill.data.check import run_check
from segdistill.data.datasets import create_dataset, detect_dataset
from segdistill.data.formats import FORMATS, export_cases
from segdistill.data.index import detect_format, index_folder
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.imaging.classes import parse_classes
from segdistill.imaging.nifti import save_nifti
from segdistill.imaging.read import image_size, read_picture
from segdistill.imaging.read_volume import read_volume, read_volume_mask
from tests.cli.test_data import run
from tests.data.pictures import noise, save
from tests.imaging.volumes import blocks, organ, write_itk, write_series

CLASSES = parse_classes({"body": 4, "head": [7, 9]})
PICTURES = [name for name, (_, kinds) in FORMATS.items() if "picture" in kinds]
READERS = {"nnunet": "decathlon", "msd": "decathlon"}


def table(root: Path, seed: int = 0, holes: bool = True) -> list[Case]:
    """Blots of both classes, some with holes, pieces of one pixel, and one empty mask."""
    rng = np.random.default_rng(seed)
    cases = []
    for k in range(4):
        height, width = (int(side) for side in rng.integers(20, 40, 2))
        rows, columns = np.indices((height, width))
        mask = np.zeros((height, width), np.uint8)
        for value in (4, 7, 9) if k else ():
            row, column, radius = rng.uniform(5, 15), rng.uniform(5, 15), rng.uniform(4, 9)
            apart = np.hypot(rows - row, columns - column)
            mask[(apart < radius) & ((apart >= radius / 2) | (not holes))] = value
        if k and holes:
            mask[rng.random(mask.shape) < 0.05] = 4
        image = (
            np.dstack([noise(k + c, height, width) for c in range(3)]) if k == 2 else noise(k, height, width)
        )
        files = save(root / f"{k}.png", image), save(root / f"{k}_mask.png", mask)
        cases.append(
            Case(str(k), files[0], files[1:], split=("train", "train", "val", "")[k], classes=CLASSES)
        )
    return cases


def drawn(case: Case) -> np.ndarray:
    """The names of the classes, by pixel."""
    names = np.array(["", *(each.name for each in case.classes)])
    return names[np.asarray(reference_mask(case, image_size(case.image))).astype(int)]


def back(name: str, folder: Path, masks: Path) -> dict[str, Case]:
    if name in ("index", "palette"):
        return {case.id: case for case in read_cases(folder / "cases.csv")}
    reader = READERS.get(name, name)
    assert detect_dataset(folder) == reader
    options = {} if reader == "decathlon" else {"masks": str(masks)}
    return {case.id: case for case in create_dataset(reader, folder, **options)}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_come_back_to_the_bit(name: str, tmp_path: Path) -> None:
    for seed in range(2):
        cases = table(tmp_path / f"{seed}", seed)
        out = tmp_path / f"out{seed}"
        export_cases(name, cases, out, split_holes=name == "yolo_seg")
        found = back(name, out, tmp_path / f"masks{seed}")
        assert sorted(found) == ["0", "1", "2", "3"]
        for case in cases:
            assert (drawn(found[case.id]) == drawn(case)).all()  # polygons follow the sides of the pixels
            pixels = read_picture(case.image).pixels
            other = read_picture(found[case.id].image).pixels
            assert (other == (pixels if other.ndim == pixels.ndim else pixels[..., None])).all()
        if name in ("coco", "cvat", "yolo_seg", "labelme", "index", "palette"):
            assert [found[case.id].split for case in cases] == [case.split for case in cases]


@pytest.mark.parametrize("name", ["nnunet", "msd"])
def test_real_volumes_come_back_to_the_bit(name: str, tmp_path: Path, data_root: Path) -> None:
    task = create_dataset("decathlon", data_root / "hippocampus")[:1]
    series = replace(create_dataset("promise12", data_root / "promise12")[0], classes=task[0].classes)
    cases = [*task, replace(series, site="")]
    export_cases(name, cases, tmp_path / "out")
    found = back(name, tmp_path / "out", tmp_path)
    for case in cases:
        here, there = read_volume(case.image, turn=False), read_volume(found[case.id].image, turn=False)
        assert (here.voxels == there.voxels).all()
        labels = [
            read_volume_mask(each.masks, volume, each.reading)
            for each, volume in ((case, here), (found[case.id], there))
        ]
        assert (labels[0] == labels[1]).all()
        assert labels[0].any()
    assert found[cases[0].id].classes == cases[0].classes


def labels_of(case: Case) -> np.ndarray:
    volume = read_volume(case.image, turn=False)
    return np.asarray(read_volume_mask(case.masks, volume, case.reading))


def test_segmentations_of_3d_slicer_come_back_to_the_bit(tmp_path: Path, data_root: Path) -> None:
    """Read by us, and by SimpleITK."""
    task = create_dataset("decathlon", data_root / "hippocampus")[:1]
    series = replace(create_dataset("promise12", data_root / "promise12")[0], classes=task[0].classes)
    cases = [*task, replace(series, site="", split="test")]
    assert export_cases("seg_nrrd", cases, tmp_path / "out") == []
    found = {case.id: case for case in read_cases(tmp_path / "out" / "cases.csv")}
    for case in cases:
        again = found[case.id]
        assert again.split == case.split
        assert np.array_equal(labels_of(again), labels_of(case))
        by_itk, image = sitk.ReadImage(str(again.masks[0])), sitk.ReadImage(str(again.image))
        assert np.array_equal(sitk.GetArrayFromImage(by_itk), labels_of(case))
        np.testing.assert_allclose(by_itk.GetOrigin(), image.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(by_itk.GetSpacing(), image.GetSpacing(), atol=1e-5)
        np.testing.assert_allclose(by_itk.GetDirection(), image.GetDirection(), atol=1e-4)
        names = [by_itk.GetMetaData(f"Segment{n}_Name") for n in (0, 1)]
        assert names == [each.name for each in cases[0].classes]
        assert [by_itk.GetMetaData(f"Segment{n}_LabelValue") for n in (0, 1)] == ["1", "2"]


def test_dicom_seg_comes_back_to_the_bit(tmp_path: Path) -> None:
    mask = organ() + np.roll(organ(), 1, axis=0) * np.uint8(1)
    series = write_series(tmp_path / "series", blocks())
    write_itk(tmp_path / "plain.nii.gz", blocks())
    volume = read_volume(series, turn=False)
    save_nifti(mask, volume, tmp_path / "mask.nii.gz")
    classes = parse_classes({"edge": 1, "middle": 2})
    case = Case("a", series, (tmp_path / "mask.nii.gz",), classes=classes, split="train")
    export_cases("dicom_seg", [case], tmp_path / "out")
    (again,) = read_cases(tmp_path / "out" / "cases.csv")
    assert np.array_equal(labels_of(again), mask)
    stored = pydicom.dcmread(again.masks[0])
    assert [item.SegmentLabel for item in stored.SegmentSequence] == ["edge", "middle"]
    assert {item.SegmentAlgorithmType for item in stored.SegmentSequence} == {"MANUAL"}
    assert stored.pixel_array.sum() == np.count_nonzero(mask)
    for name in ("dicom_seg", "rtstruct"):
        with pytest.raises(InputError, match="case 'b': its image is no DICOM series"):
            export_cases(name, [Case("b", tmp_path / "plain.nii.gz")], tmp_path / "no")


def test_rtstruct_comes_back_to_the_bit(tmp_path: Path) -> None:
    mask = organ() + np.roll(organ(), 1, axis=0) * np.uint8(1)
    mask[:, 3:5, 3:5] = 0  # holes, where there is an organ
    series = write_series(tmp_path / "series", blocks())
    save_nifti(mask, read_volume(series, turn=False), tmp_path / "mask.nii.gz")
    classes = parse_classes({"edge": 1, "middle": 2})
    case = Case("a", series, (tmp_path / "mask.nii.gz",), classes=classes, split="train")
    assert export_cases("rtstruct", [case], tmp_path / "out") == []
    (again,) = read_cases(tmp_path / "out" / "cases.csv")
    assert again.split == "train"
    assert np.array_equal(labels_of(again), mask)


@pytest.mark.parametrize("name", ["index", "palette"])
def test_auto_reads_the_table_of_an_export(name: str, tmp_path: Path) -> None:
    cases = table(tmp_path / "own")
    export_cases(name, cases, tmp_path / "out")
    found = index_folder("auto", tmp_path / "out")
    assert "taken as table" in found.findings[0].message
    by_id = {case.id: case for case in found.cases}
    for case in cases:
        assert by_id[case.id].split == case.split
        assert (drawn(by_id[case.id]) == drawn(case)).all()
    assert not run_check(found.cases, workers=1).errors
    save(tmp_path / "out" / "images" / "new.png", noise(9))  # the table does not know it
    assert detect_format(tmp_path / "out") == "folder"
    assert len(index_folder("auto", tmp_path / "out").cases) == 5


@pytest.mark.parametrize("name", ["index", "palette"])
def test_index_masks_without_names_are_told_how_to_name_them(name: str, tmp_path: Path) -> None:
    export_cases(name, table(tmp_path / "own"), tmp_path / "out")
    (tmp_path / "out" / "cases.csv").unlink()
    text = run("index", "auto", tmp_path / "out", "-o", tmp_path / "a.csv", "--no-group", code=2)
    assert "--classes 'a=1;b=2'" in text
    assert "foreground: [1]" in text
    run("index", "auto", tmp_path / "out", "-o", tmp_path / "a.csv", "--no-group", "--classes", "a=1;b=2")
    assert [each.name for each in read_cases(tmp_path / "a.csv")[0].classes] == ["a", "b"]


@pytest.mark.parametrize("name", ["seg_nrrd", "dicom_seg", "rtstruct"])
def test_auto_reads_the_table_of_exported_volumes(name: str, tmp_path: Path, data_root: Path) -> None:
    series = data_root / "mr_dicom" / "hippocampus_crop"
    volume = read_volume(series, turn=False)
    mask = np.zeros(volume.geometry.shape, np.uint8)
    mask[2:9, 5:20, 5:20], mask[3:6, 10:14, 10:14] = 1, 2
    save_nifti(mask, volume, tmp_path / "mask.nii.gz")
    classes = parse_classes({"liver": 1, "cyst": 2})
    export_cases(
        name,
        [Case("a", series, (tmp_path / "mask.nii.gz",), classes=classes, split="test")],
        tmp_path / "out",
    )
    found = index_folder("auto", tmp_path / "out")
    assert "taken as table" in found.findings[0].message
    assert np.array_equal(labels_of(found.cases[0]), mask)
    assert found.cases[0].split == "test"


def test_what_formats_do_not_hold(tmp_path: Path) -> None:
    cases = table(tmp_path / "own")
    with pytest.raises(
        InputError, match=r"case '1': (body|head) has a hole, which YOLO's polygons cannot hold: --holes"
    ):
        export_cases("yolo_seg", cases, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is a picture: msd takes volumes"):
        export_cases("msd", cases, tmp_path / "out")
    with pytest.raises(InputError, match="did you mean 'coco'"):
        export_cases("cocoo", cases, tmp_path / "out")
    with pytest.raises(InputError, match="is not an empty folder"):
        export_cases("coco", cases, tmp_path / "own")
    bare = [replace(cases[0], masks=()), *cases[1:]]
    (note,) = export_cases("coco", bare, tmp_path / "coco")
    assert note.startswith("1 cases without a reference are not written")
    assert sorted(back("coco", tmp_path / "coco", tmp_path / "m")) == ["1", "2", "3"]
    tested = [replace(case, split="test") for case in cases[:2]] + cases[2:]
    assert "2 test cases" in " ".join(export_cases("nnunet", tested, tmp_path / "nnunet"))
    assert len(list((tmp_path / "nnunet" / "labelsTs").iterdir())) == 2
    again = back("nnunet", tmp_path / "nnunet", tmp_path)
    assert [again[case.id].split for case in tested] == ["test", "test", "train", "train"]
    assert all((drawn(again[case.id]) == drawn(case)).all() for case in tested)
    export_cases("nnunet", [replace(tested[0], masks=()), *tested[1:]], tmp_path / "some")
    assert sorted(back("nnunet", tmp_path / "some", tmp_path)) == ["1", "2", "3"]
    unlabelled = [*cases[1:3], replace(cases[3], masks=())]  # imagesTs without labels
    export_cases("nnunet", unlabelled, tmp_path / "none")
    assert {name: case.split for name, case in back("nnunet", tmp_path / "none", tmp_path).items()} == {
        "1": "",
        "2": "",
    }
    (tmp_path / "nnunet" / "imagesTs" / "0_0000.png").unlink()
    with pytest.raises(InputError, match=r"mask without image: .*labelsTs"):
        back("nnunet", tmp_path / "nnunet", tmp_path)


def test_what_is_written_is_as_each_format_has_it(tmp_path: Path) -> None:
    cases = table(tmp_path / "own", holes=False)
    for name in ("coco", "nnunet", "yolo_seg"):
        export_cases(name, cases, tmp_path / name, split_holes=True)
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())
    (first, *_) = content["annotations"]
    mask = drawn(cases[1]) == "body"
    rows, columns = np.nonzero(mask)
    assert first["area"] == mask.sum()
    assert first["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    dataset = json.loads((tmp_path / "nnunet" / "dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "body": 1, "head": 2}
    assert dataset["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert (dataset["numTraining"], dataset["file_ending"]) == (4, ".png")
    assert (tmp_path / "nnunet" / "imagesTr" / "2_0000.png").is_file()
    assert "val: images/val" in (tmp_path / "yolo_seg" / "data.yaml").read_text()
    assert (tmp_path / "yolo_seg" / "labels" / "train" / "0.txt").read_text() == ""


def test_another_tool_sees_the_holes_of_a_keyhole(tmp_path: Path) -> None:
    cases = table(tmp_path / "own")
    export_cases("labelme", cases, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "train" / "1.json").read_text())
    mask = drawn(cases[1]) == "head"
    rows, columns = np.indices(mask.shape)
    centres = np.column_stack((columns.ravel() + 0.5, rows.ravel() + 0.5))
    inside = np.zeros(mask.size, bool)
    for shape in content["shapes"]:
        if shape["label"] == "head":
            inside |= matplotlib.path.Path(shape["points"]).contains_points(centres)
    other = inside.reshape(mask.shape)
    assert 2 * (other & mask).sum() / (other.sum() + mask.sum()) >= 0.99


def test_the_command(tmp_path: Path) -> None:
    write_cases(table(tmp_path / "own"), tmp_path / "cases.csv")
    text = run("export", "labelme", tmp_path / "cases.csv", "-o", tmp_path / "out")
    assert "4 cases as labelme" in text
    text = run("index", "auto", tmp_path / "out", "-o", tmp_path / "again.csv", "--no-group")
    assert "taken as labelme" in text
    assert [case.id for case in read_cases(tmp_path / "again.csv")] == ["3", "0", "1", "2"]
    text = run("export", "yolo_seg", tmp_path / "cases.csv", "-o", tmp_path / "y", "--holes", "no", code=2)
    assert "use refuse or split" in text


def test_what_other_tools_do_not_know_is_told(tmp_path: Path) -> None:
    cases = [
        replace(case, group="anna" if k < 2 else case.id) for k, case in enumerate(table(tmp_path / "in"))
    ]
    assert "2 cases belong to groups, such as patients" in " ".join(
        export_cases("coco", cases, tmp_path / "coco")
    )
    assert export_cases("palette", cases, tmp_path / "palette") == []  # its table keeps them
    write_itk(tmp_path / "v.nii.gz", blocks())
    write_itk(tmp_path / "m.nii.gz", organ().astype(np.uint8))
    volume = Case("v", tmp_path / "v.nii.gz", (tmp_path / "m.nii.gz",), spacing_mm=(3.0, 0.5, 0.5))
    assert "1 cases have their voxel size from the table" in " ".join(
        export_cases("msd", [volume], tmp_path / "msd")
    )


def test_without_any_reference_there_is_nothing_to_write(tmp_path: Path) -> None:
    bare = [replace(case, masks=()) for case in table(tmp_path / "in")]
    with pytest.raises(InputError, match="none of the cases has a reference"):
        export_cases("coco", bare, tmp_path / "coco")
    assert not (tmp_path / "coco").exists()
