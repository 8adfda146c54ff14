from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from segdistill.data.case import reference_mask
from segdistill.data.datasets import DATASETS, create_dataset, detect_dataset
from segdistill.data.datasets.folder import folder_roles, split_name
from segdistill.data.index import index_folder
from segdistill.errors import InputError
from tests.data.pictures import make_folder, noise, save, square
from tests.imaging.volumes import organ, write_itk


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_adapter_refuses_what_is_not_its_dataset(name: str, tmp_path: Path) -> None:
    dataset = DATASETS[name]
    assert dataset.name == name
    assert dataset.summary
    assert dataset.facts["how_to_get"]
    (tmp_path / "notes.txt").write_text("no pictures here")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        create_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if name != "phantom":
        with pytest.raises(InputError, match="no such folder"):
            create_dataset(name, tmp_path / "none")
        with pytest.raises(InputError, match="no option 'count'"):
            create_dataset(name, tmp_path, count=3)


def test_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'busi'"):
        create_dataset("bussi", ".")


def busi(root: Path) -> Path:
    for label in ("benign", "malignant", "normal"):
        for number in (1, 2, 10):
            save(root / label / f"{label} ({number}).png", noise(number))
            save(root / label / f"{label} ({number})_mask.png", square() * (label != "normal"), mode="1")
    save(root / "benign" / "benign (2)_mask_1.png", square(top=30, side=6))
    return root


@pytest.mark.parametrize("above", [0, 1, 2])
def test_busi_layout(tmp_path: Path, above: int) -> None:
    root = busi(tmp_path / "a" / "b" / "Dataset_BUSI_with_GT")
    cases = create_dataset("busi", [root, *root.parents][above])
    assert [case.id for case in cases[:3]] == ["benign (1)", "benign (2)", "benign (10)"]
    assert [len(case.masks) for case in cases] == [1, 2, 1, 1, 1, 1, 1, 1, 1]
    assert [case.label for case in cases] == ["benign"] * 3 + ["malignant"] * 3 + ["normal"] * 3
    joined = reference_mask(cases[1], (48, 40))
    assert joined.sum() == 12 * 12 + 36
    assert not reference_mask(cases[8], (48, 40)).any()


def test_busi_mask_without_image(tmp_path: Path) -> None:
    root = busi(tmp_path)
    (root / "benign" / "benign (2).png").unlink()
    with pytest.raises(InputError, match=r"mask without image: .*benign \(2\)_mask\.png"):
        create_dataset("busi", root)


def test_real_busi_as_published(data_root: Path) -> None:
    cases = create_dataset("busi", data_root / "busi")
    assert Counter(case.label for case in cases) == dict(DATASETS["busi"].facts["published"])
    assert sum(len(case.masks) for case in cases) == 798
    assert sum(len(case.masks) > 1 for case in cases) == 17
    assert len({case.id for case in cases}) == 780


def test_real_coronary_pairs_lie_side_by_side(data_root: Path) -> None:
    cases = create_dataset("folder", data_root / "coronary" / "Angios_40_training")
    assert len(cases) == 40
    assert all(case.masks == (case.image.with_name(f"{case.image.stem}_gt.png"),) for case in cases)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("7.png", "7.png"),
        ("7.png", "7.bmp"),
        ("7.png", "7_mask.png"),
        ("7.png", "7-Mask.png"),
        ("7.jpg", "7_gt.png"),
        ("7.png", "7_seg.png"),
        ("case 7.png", "case 7_segmentation.png"),
        ("7.png", "mask_7.png"),
        ("img_7.png", "mask_7.png"),
        ("7_image.png", "7_label.png"),
        ("7.png", "7_mask_1.png"),
        ("a_mask.png", "a_mask.png"),
    ],
)
def test_folder_pairs_by_name(tmp_path: Path, image: str, mask: str) -> None:
    save(tmp_path / "Images" / image, noise(0))
    save(tmp_path / "masks" / mask, square())
    (case,) = create_dataset("folder", tmp_path)
    assert case.image.name == image
    assert [path.name for path in case.masks] == [mask]
    assert case.label == ""


def test_folder_with_classes_and_splits(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("benign", "malignant"):
            for number in (1, 2):
                save(tmp_path / part / "images" / label / f"{number}.png", noise(number))
                save(tmp_path / part / "masks" / label / f"{number}.png", square())
    cases = create_dataset("folder", tmp_path)
    assert len({case.id for case in cases}) == 8
    assert Counter((case.split, case.label) for case in cases) == {
        (part, label): 2 for part in ("train", "test") for label in ("benign", "malignant")
    }
    assert all(case.image.parent.name == case.masks[0].parent.name == case.label for case in cases)


def test_folder_orphans(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    (root / "masks" / "1.png").unlink()
    assert [len(case.masks) for case in create_dataset("folder", root)] == [1, 0, 1, 1]
    (root / "images" / "2.png").unlink()
    with pytest.raises(InputError, match=r"mask without image: .*2\.png"):
        create_dataset("folder", root)


def test_folder_ambiguities(tmp_path: Path) -> None:
    save(tmp_path / "images" / "1.png", noise(0))
    save(tmp_path / "images" / "1.jpg", noise(0))
    save(tmp_path / "masks" / "1.png", square())
    with pytest.raises(InputError, match="same stem"):
        create_dataset("folder", tmp_path)


def write_xlsx(path: Path, rows: list[list[str | int]]) -> None:
    """The smallest workbook: strings shared, numbers inline, as spreadsheet programs write them."""
    strings = sorted({cell for row in rows for cell in row if isinstance(cell, str)})
    body = ""
    for number, row in enumerate(rows, start=1):
        cells = "".join(
            f'<c r="{"ABC"[i]}{number}" t="s"><v>{strings.index(cell)}</v></c>'
            if isinstance(cell, str)
            else f'<c r="{"ABC"[i]}{number}"><v>{cell}</v></c>'
            for i, cell in enumerate(row)
        )
        body += f'<row r="{number}">{cells}</row>'
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(path, "w") as archive:
        shared = "".join(f"<si><t>{text}</t></si>" for text in strings)
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{shared}</sst>")
        archive.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{body}</sheetData></worksheet>"
        )


@pytest.mark.parametrize("kind", ["xlsx", "csv", "folders", "none"])
def test_dataset_b_layouts(tmp_path: Path, kind: str) -> None:
    labels = {1: "Benign", 2: "Malignant", 12: "Benign"}
    root = tmp_path / "Dataset B" / "BUS"
    for number, label in labels.items():
        folder = root / label if kind == "folders" else root
        save(folder / "original" / f"{number:06}.png", noise(number))
        save(folder / "GT" / f"{number:06}.png", square())
    rows: list[list[str | int]] = [["Image", "Type"], *([number, label] for number, label in labels.items())]
    if kind == "xlsx":
        write_xlsx(root / "DatasetB.xlsx", rows)
    if kind == "csv":
        (root / "labels.csv").write_text("".join(f"{a},{b}\n" for a, b in rows))
    cases = create_dataset("dataset_b", tmp_path / "Dataset B")
    assert [case.id for case in cases] == ["000001", "000002", "000012"]
    expected = ["", "", ""] if kind == "none" else ["benign", "malignant", "benign"]
    assert [case.label for case in cases] == expected
    assert all(len(case.masks) == 1 for case in cases)


def test_dataset_b_table_must_list_every_image(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path / "original" / f"{number:06}.png", noise(number))
        save(tmp_path / "GT" / f"{number:06}.png", square())
    write_xlsx(tmp_path / "DatasetB.xlsx", [["Image", "Type"], [1, "Benign"]])
    with pytest.raises(InputError, match=r"000002\.png: not listed in DatasetB\.xlsx"):
        create_dataset("dataset_b", tmp_path)
    (tmp_path / "DatasetB.xlsx").write_bytes(b"no workbook")
    with pytest.raises(InputError, match=r"not a readable \.xlsx"):
        create_dataset("dataset_b", tmp_path)


def test_stu_masks_of_other_size_and_with_grey(tmp_path: Path) -> None:
    large = np.kron(square() // 255, np.ones((2, 2), np.uint8)) * 250
    for number in (1, 2, 10):
        save(tmp_path / "Hospital" / f"Test_Image_{number}.png", noise(number))
        save(tmp_path / "Hospital" / f"mask_{number}.png", large)
    cases = create_dataset("stu", tmp_path)
    assert [case.image.name for case in cases] == [f"Test_Image_{number}.png" for number in (1, 2, 10)]
    assert [case.masks[0].name for case in cases] == [f"mask_{number}.png" for number in (1, 2, 10)]
    mask = reference_mask(cases[0], (48, 40))
    assert np.array_equal(mask, square() > 0)


def test_sysu_layouts(tmp_path: Path) -> None:
    flat = make_folder(tmp_path / "flat")
    assert {case.site for case in create_dataset("sysu", flat)} == {"SYSU"}
    for label in ("Benign", "Malignant"):
        make_folder(tmp_path / "classes" / label, 2)
    cases = create_dataset("sysu", tmp_path / "classes")
    assert Counter(case.label for case in cases) == {"benign": 2, "malignant": 2}
    assert len({case.id for case in cases}) == 4


def test_phantom_is_drawn_once(tmp_path: Path) -> None:
    cases = create_dataset("phantom", tmp_path / "p", count=10, size=32, seed=1)
    stamp = cases[0].image.stat().st_mtime_ns
    assert create_dataset("phantom", tmp_path / "p") == cases
    assert create_dataset("phantom", tmp_path / "p", count=10, size=32, seed=1) == cases
    assert cases[0].image.stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="something else"):
        create_dataset("phantom", tmp_path / "p", count=20, size=32)


def test_auto_finds_the_dataset_and_tells_it(tmp_path: Path) -> None:
    own = make_folder(tmp_path / "own")
    found = index_folder("auto", own)
    assert len(found.cases) == 4
    assert [f.message for f in found.findings if "taken as" in f.message] == [
        f"{own}: taken as folder: {DATASETS['folder'].summary}"
    ]
    assert detect_dataset(busi(tmp_path / "set" / "Dataset_BUSI_with_GT").parent) == "busi"
    with pytest.raises(InputError, match="no such folder"):
        detect_dataset(tmp_path / "none")
    (tmp_path / "set" / "Dataset_BUSI_with_GT").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=f"{tmp_path / 'set'} holds no pictures or volumes that are read"):
        index_folder("auto", tmp_path / "set")
    (tmp_path / "volumes").mkdir()
    write_itk(tmp_path / "volumes" / "a.nii.gz", organ().astype(np.int16))
    with pytest.raises(InputError, match="holds 1 pictures or volumes and no masks: put images into images/"):
        index_folder("auto", tmp_path / "volumes")


def test_auto_refuses_the_signs_of_two_datasets(tmp_path: Path) -> None:
    busi(tmp_path / "a")
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / "b" / part).mkdir(parents=True)
    with pytest.raises(InputError, match=r"the signs of busi \(.*a\), decathlon \(.*b\): name one") as caught:
        detect_dataset(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("busi", "busi"), ("promise12", "promise12"), ("spleen", "decathlon"), ("hippocampus", "decathlon")],
)
def test_auto_knows_real_datasets(data_root: Path, folder: str, name: str) -> None:
    assert detect_dataset(data_root / folder) == name


def test_scans_below_a_patient_are_of_the_patient() -> None:
    assert folder_roles([(f"p{n:02}", f"scan{k}") for n in range(4) for k in (1, 2)]) == ["group", ""]
    assert folder_roles([(f"sub-{n:02}", f"ses-202{n}") for n in range(4)]) == ["group", ""]
    years = [(f"20{n}", f"p{n}") for n in range(18, 22)]
    assert folder_roles(years) == ["group", "group"]  # the patients are below them


def test_names_of_split_folders() -> None:
    train = ("train2017", "train_images", "Training Set", "train-set", "TrainDataset", "train1")
    assert {split_name(name) for name in train} == {"train"}
    assert {split_name(name) for name in ("test2017", "Test Set", "TestDataset", "test1")} == {"test"}
    assert (split_name("val_images"), split_name("trainee"), split_name("images")) == ("val", "", "")
