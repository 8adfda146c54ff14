"""Masks that name their structures, over their image: 3D Slicer, DICOM SEG and RTSTRUCT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from segdistill.data.case import Case
from segdistill.data.index import index_folder
from segdistill.data.opened import open_volume
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.imaging.classes import Reading, class_names, parse_classes
from segdistill.imaging.read_volume import read_segments, read_volume, read_volume_mask
from tests.imaging.volumes import blocks, write_itk

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
    overlaps: list[int] = []
    found = read_volume_mask([path], image, BY_NAME, overlaps=overlaps)
    assert np.array_equal(found, joined(liver, cyst))
    assert overlaps == [np.count_nonzero(liver & cyst)]
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
