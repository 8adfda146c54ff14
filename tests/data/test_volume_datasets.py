from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import reference_mask
from segdistill.data.check import run_check
from segdistill.data.datasets import DATASETS, create_dataset
from segdistill.data.opened import open_case
from segdistill.errors import InputError
from segdistill.imaging.classes import MaskClass
from tests.data.pictures import noise, save, square
from tests.imaging.volumes import ORGAN, blocks, dicom_slice, organ, write_itk, write_series


def sizes(counts: dict[str, int]) -> Counter[str]:
    return Counter(counts)


def test_promise12(tmp_path: Path) -> None:
    for number in (0, 1, 10):
        write_itk(tmp_path / "TrainingData" / f"Case{number:02}.mhd", blocks(), compress=number == 1)
        write_itk(tmp_path / "TrainingData" / f"Case{number:02}_segmentation.mhd", organ(), compress=True)
    cases = create_dataset("promise12", tmp_path)
    assert [case.id for case in cases] == ["Case00", "Case01", "Case10"]
    assert all(case.site == "" and case.masks[0].stem == f"{case.id}_segmentation" for case in cases)
    assert np.array_equal(open_case(cases[1]).reference, organ() > 0)
    (tmp_path / "sites.csv").write_text("case,site\nCase00,UCL\nCase01,RUNMC\n")
    with pytest.raises(InputError, match=r"Case10\.mhd: not listed in sites\.csv"):
        create_dataset("promise12", tmp_path)
    with open(tmp_path / "sites.csv", "a") as file:
        file.write("Case10,UCL\n")
    assert [case.site for case in create_dataset("promise12", tmp_path)] == ["UCL", "RUNMC", "UCL"]
    (tmp_path / "TrainingData" / "Case10.mhd").unlink()
    with pytest.raises(InputError, match="mask without image"):
        create_dataset("promise12", tmp_path)


def test_prostate_multisite(tmp_path: Path) -> None:
    root = tmp_path / "Prostate"
    for site, word in (("RUNMC", "segmentation"), ("BMC", "Segmentation"), ("HK", "segmentation")):
        for number in (0, 1):
            write_itk(root / site / f"Case{number:02}.nii.gz", blocks())
            write_itk(root / site / f"Case{number:02}_{word}.nii.gz", organ() * (1 + number))
    cases = create_dataset("prostate_multisite", tmp_path)
    assert [case.id for case in cases][:3] == ["RUNMC/Case00", "RUNMC/Case01", "BMC/Case00"]
    assert Counter(case.site for case in cases) == sizes({"RUNMC": 2, "BMC": 2, "HK": 2})
    for case in cases:  # two zones are one prostate
        assert np.array_equal(open_case(case).reference, organ() > 0)
    (root / "HK" / "Case00.nii.gz").unlink()
    with pytest.raises(InputError, match="mask without image"):
        create_dataset("prostate_multisite", tmp_path)


def test_nci_isbi(tmp_path: Path) -> None:
    for patient, end in (
        ("Prostate3T-01-0001", ""),
        ("ProstateDx-03-0002", "_truth"),
        ("ProstateDx-01-0003", "_correctedLabels"),
    ):
        write_series(tmp_path / "Images" / patient / "1.2.study" / "1.2.series", blocks())
        write_itk(tmp_path / "Training" / f"{patient}{end}.nrrd", organ(), origin=(-10.0, 5.0, 20.0))
    write_itk(tmp_path / "Training" / "ProstateDx-01-0003.nrrd", organ() * 0)
    cases = create_dataset("nci_isbi", tmp_path)
    assert {case.id: case.site for case in cases} == {
        "Prostate3T-01-0001": "RUNMC",
        "ProstateDx-01-0003": "BMC",
        "ProstateDx-03-0002": "BMC",
    }
    assert all(np.array_equal(open_case(case).reference, organ() > 0) for case in cases)
    assert all(np.array_equal(open_case(case).case.image.name, "1.2.series") for case in cases)


def test_nci_isbi_takes_one_series_per_patient(tmp_path: Path) -> None:
    """Several cannot share a mask, wherever they lie, and a mask whose patient has none is not passed over."""
    first, second = "Prostate3T-01-0001", "ProstateDx-03-0002"
    for patient in (first, second):
        write_series(tmp_path / "Images" / patient / "study" / "a", blocks())
        write_itk(tmp_path / "Training" / f"{patient}.nrrd", organ(), origin=(-10.0, 5.0, 20.0))
    assert [case.id for case in create_dataset("nci_isbi", tmp_path)] == [first, second]
    write_series(tmp_path / "Images" / first / "study" / "b", blocks())
    write_series(tmp_path / "More" / second / "c", blocks())
    with pytest.raises(InputError) as refused:
        create_dataset("nci_isbi", tmp_path)
    targets = str(refused.value)
    assert targets.startswith(
        f"{first} has 2 series for one mask (in all 2 patients have several): Images/{first}/study/a, "
    )
    assert "\n" not in targets
    shutil.rmtree(tmp_path / "Images" / first / "study" / "b")
    with pytest.raises(InputError, match=f"^{second} has 2 series for one mask: .*More/{second}/c"):
        create_dataset("nci_isbi", tmp_path)
    shutil.rmtree(tmp_path / "More")
    shutil.rmtree(tmp_path / "Images" / second / "study")
    with pytest.raises(InputError, match=r"mask without image: .*ProstateDx-03-0002\.nrrd"):
        create_dataset("nci_isbi", tmp_path)


def test_i2cvb(tmp_path: Path) -> None:
    for scanner, patient in (("GE", "Patient 383"), ("Siemens", "Patient 799")):
        folder = tmp_path / scanner / patient
        write_series(folder / "T2W", blocks())
        (folder / "GT" / "prostate").mkdir(parents=True)
        for k in (1, 2, 3):
            mask = dicom_slice(organ()[k], 20.0 + 3 * k, series="8.8")
            mask.save_as(folder / "GT" / "prostate" / f"{k}.dcm", enforce_file_format=True)
    cases = create_dataset("i2cvb", tmp_path)
    assert [(case.id, case.site) for case in cases] == [
        ("GE/Patient 383", "GE"),
        ("Siemens/Patient 799", "Siemens"),
    ]
    assert all(np.array_equal(open_case(case).reference, organ() > 0) for case in cases)
    assert run_check(cases[:1]).errors == []


SPLEEN = (MaskClass("spleen", (1,)),)


def decathlon(root: Path) -> Path:
    for number in (2, 10):
        write_itk(root / "imagesTr" / f"spleen_{number}.nii.gz", blocks())
        write_itk(root / "labelsTr" / f"spleen_{number}.nii.gz", organ())
    write_itk(root / "imagesTs" / "spleen_1.nii.gz", blocks())
    (root / "imagesTr" / "._spleen_2.nii.gz").write_bytes(b"rubbish of another system")
    return root


def test_decathlon(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task09_Spleen")
    cases = create_dataset("decathlon", tmp_path)
    assert [case.id for case in cases] == ["spleen_2", "spleen_10"]
    assert all(case.site == "Task09_Spleen" and len(case.masks) == 1 and case.classes == () for case in cases)
    names = [
        {"image": f"./imagesTr/spleen_{n}.nii.gz", "label": f"./labelsTr/spleen_{n}.nii.gz"} for n in (10, 2)
    ]
    declared = {"labels": {"0": "background", "1": "spleen"}, "training": names}
    (root / "dataset.json").write_text(json.dumps(declared))
    cases = create_dataset("decathlon", root)
    assert [(case.id, case.classes) for case in cases] == [("spleen_2", SPLEEN), ("spleen_10", SPLEEN)]
    write_itk(root / "labelsTr" / "spleen_2.nii.gz", organ() * 2)
    with pytest.raises(InputError, match=r"spleen_2\.nii\.gz: holds the label 2, but 2 classes are declared"):
        open_case(cases[0])
    declared["training"] = [*names, {"image": "./imagesTr/spleen_3.nii.gz"}]
    (root / "dataset.json").write_text(json.dumps(declared))
    with pytest.raises(InputError, match=r"spleen_3\.nii\.gz: listed in dataset\.json, but not there"):
        create_dataset("decathlon", root)
    (root / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json: is damaged"):
        create_dataset("decathlon", root)
    (root / "dataset.json").unlink()
    decathlon(tmp_path / "Task05_Prostate")
    with pytest.raises(InputError, match=r"2 folders in it hold a Decathlon task.*give one of them"):
        create_dataset("decathlon", tmp_path)
    assert len(create_dataset("decathlon", tmp_path, task="Task05")) == 2


def nnunet(root: Path, content: object, channels: int = 1, ending: str = ".nii.gz") -> Path:
    for name in ("case_2", "case_10"):
        for channel in range(channels):
            write_itk(root / "imagesTr" / f"{name}_{channel:04}{ending}", blocks())
        write_itk(root / "labelsTr" / f"{name}{ending}", organ())
    (root / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return root


NNUNET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "organ": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_nnunet(tmp_path: Path, ending: str) -> None:
    root = nnunet(tmp_path / "Dataset001_Organ", NNUNET | {"file_ending": ending}, ending=ending)
    cases = create_dataset("decathlon", tmp_path)
    assert [(case.id, case.image.name) for case in cases] == [
        ("case_2", f"case_2_0000{ending}"),
        ("case_10", f"case_10_0000{ending}"),
    ]
    assert all(case.masks == (root / "labelsTr" / f"{case.id}{ending}",) for case in cases)
    assert all(
        case.classes == (MaskClass("organ", (1,)),) and case.site == "Dataset001_Organ" for case in cases
    )
    assert run_check(cases).errors == []
    (root / "dataset.json").unlink()
    assert [(case.id, case.classes) for case in create_dataset("decathlon", root)] == [
        ("case_2", ()),
        ("case_10", ()),
    ]


@pytest.mark.parametrize(("order", "words"), [([], "is missing"), ([1, 2], "lists 2 values")])
def test_regions_without_their_order_are_refused(tmp_path: Path, order: list[int], words: str) -> None:
    regions = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    root = nnunet(tmp_path, NNUNET | {"labels": regions, "regions_class_order": order})
    with pytest.raises(InputError, match=f"labels hold 3 regions, and regions_class_order {words}"):
        create_dataset("decathlon", root)


def test_regions_of_nnunet_become_parts_that_share_nothing(tmp_path: Path) -> None:
    """As nnU-Net writes regions into one label map: each value is a part, and a region is the union of its parts."""
    regions = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    root = nnunet(tmp_path, NNUNET | {"labels": regions, "regions_class_order": [1, 2, 3]})
    painted = np.random.default_rng(0).integers(0, 4, organ().shape).astype(np.uint8)
    write_itk(root / "labelsTr" / "case_2.nii.gz", painted)
    case = create_dataset("decathlon", root)[0]
    names = [each.name for each in case.classes]
    assert names == ["whole tumour without core", "core without enhancing", "enhancing"]
    reference = open_case(case).reference
    whole, core, enhancing = (
        np.isin(reference, [names.index(n) + 1 for n in parts]) for parts in (names, names[1:], names[2:])
    )
    assert np.count_nonzero(whole) == np.count_nonzero(painted >= 1)
    assert np.count_nonzero(core) == np.count_nonzero(painted >= 2)
    assert np.count_nonzero(enhancing) == np.count_nonzero(painted == 3)


def test_nnunet_of_the_first_version_lists_images_without_channel(tmp_path: Path) -> None:
    listed = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in ("case_2", "case_10")
    ]
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ"}, "training": listed}
    root = nnunet(tmp_path, content)
    assert [(case.id, case.image.name, case.classes) for case in create_dataset("decathlon", root)] == [
        ("case_2", "case_2_0000.nii.gz", ORGAN),
        ("case_10", "case_10_0000.nii.gz", ORGAN),
    ]


@pytest.mark.parametrize(
    ("content", "channels", "reason"),
    [
        (
            NNUNET | {"channel_names": {"0": "T1", "1": "T2"}},
            1,
            "lacks the channel T2: .*_0001.nii.gz is not there",
        ),
        (NNUNET, 2, "_0001.nii.gz: is channel 2 of a case, and dataset.json names 1"),
        (NNUNET | {"labels": {"background": 0, "organ": 1, "ignore": 2}}, 1, "declares a label 'ignore'"),
        (
            NNUNET | {"labels": {"background": 0, "organ/a": 1, "organ a": 2}},
            1,
            "two labels have one name: rename one",
        ),
        (NNUNET | {"labels": {"background": 0, "organ": 1.5}}, 1, "labels must be whole numbers"),
        (NNUNET | {"labels": {"background": 0, "organ": -1}}, 1, "labels must be whole numbers"),
        (NNUNET | {"labels": {"background": 0, "organ": "9" * 5000}}, 1, "labels must be whole numbers"),
        (
            NNUNET | {"labels": ["background", "organ"]},
            1,
            "neither the Decathlon's dataset.json nor nnU-Net's",
        ),
        ({"name": "x"}, 1, "neither the Decathlon's dataset.json nor nnU-Net's"),
        ([], 1, "neither the Decathlon's dataset.json nor nnU-Net's"),
        (NNUNET | {"training": 3}, 1, 'its list "training" must hold'),
        (NNUNET | {"training": [{"label": "x"}]}, 1, 'its list "training" must hold'),
        (NNUNET | {"training": [{"image": "../x.nii"}]}, 1, "outside of its folder"),
        ("[" * 100_000, 1, r"is damaged \(RecursionError\)"),
        ("{", 1, "is damaged"),
    ],
)
def test_a_dataset_json_that_is_not_read(tmp_path: Path, content: object, channels: int, reason: str) -> None:
    root = nnunet(tmp_path, content, channels)
    with pytest.raises(InputError, match=reason) as caught:
        create_dataset("decathlon", root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_end_in_four_digits_are_no_channels(tmp_path: Path) -> None:
    for number in (1, 2):
        write_itk(tmp_path / "imagesTr" / f"patient_{number:04}.nii.gz", blocks())
    write_itk(tmp_path / "labelsTr" / "patient_0001.nii.gz", organ())
    cases = create_dataset("decathlon", tmp_path)
    assert [(case.id, len(case.masks)) for case in cases] == [("patient_0001", 1), ("patient_0002", 0)]


def test_duke_spleen(tmp_path: Path) -> None:
    for patient, series, kind in (("0001", "1", "CT"), ("0001", "2", "CT"), ("0002", "1", "MR")):
        write_series(tmp_path / patient / series / "images", blocks(), Modality=kind)
        write_series(
            tmp_path / patient / series / "masks", organ(), SeriesInstanceUID="7.7", RescaleIntercept=-1024
        )
    cases = create_dataset("duke_spleen", tmp_path)
    assert [(case.id, case.group, case.site) for case in cases] == [
        ("0001/1", "0001", "Duke"),
        ("0001/2", "0001", "Duke"),
    ]
    assert np.array_equal(open_case(cases[0]).reference, organ() > 0)
    assert len(create_dataset("duke_spleen", tmp_path, modality="")) == 3
    with pytest.raises(InputError, match="no series of modality XA: there are CT, MR"):
        create_dataset("duke_spleen", tmp_path, modality="XA")
    write_itk(tmp_path / "0003" / "masks" / "spleen.nii.gz", organ())
    write_series(tmp_path / "0003" / "images", blocks())
    third = create_dataset("duke_spleen", tmp_path)[-1]
    assert (third.id, third.masks[0].name) == ("0003", "spleen.nii.gz")
    assert np.array_equal(open_case(third).reference, organ() > 0)


def test_coronary(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        save(tmp_path / "Database_134_Angiograms" / f"{number}.pgm", noise(number))
        save(tmp_path / "Database_134_Angiograms" / f"{number}_gt.pgm", square())
    cases = create_dataset("coronary", tmp_path)
    assert [case.id for case in cases] == ["1", "2", "10"]
    assert [case.masks[0].name for case in cases] == ["1_gt.pgm", "2_gt.pgm", "10_gt.pgm"]
    for name in ("p1_1", "p1_2", "p2_1"):
        save(tmp_path / "clinic" / f"{name}.png", noise(0))
        save(tmp_path / "clinic" / f"{name}_gt.png", square())
    assert [case.group_key for case in create_dataset("coronary", tmp_path / "clinic")] == ["p1", "p1", "p2"]
    (tmp_path / "clinic" / "p2_1.png").unlink()
    with pytest.raises(InputError, match="mask without image"):
        create_dataset("coronary", tmp_path / "clinic")


def test_drive(tmp_path: Path) -> None:
    for word, numbers in (("training", (21, 22)), ("test", (1, 2))):
        for number in numbers:
            save(tmp_path / word / "images" / f"{number:02}_{word}.tif", noise(number))
            save(tmp_path / word / "mask" / f"{number:02}_{word}_mask.gif", square())
            save(tmp_path / word / "1st_manual" / f"{number:02}_manual1.gif", square())
    cases = create_dataset("drive", tmp_path)
    assert [(case.id, case.split) for case in cases] == [
        ("21_training", "train"),
        ("22_training", "train"),
        ("01_test", "test"),
        ("02_test", "test"),
    ]
    assert np.array_equal(reference_mask(cases[3], (48, 40)), square() > 0)
    assert run_check(cases).errors == []


def test_chase_db1(tmp_path: Path) -> None:
    for name in ("Image_01L", "Image_01R", "Image_02L"):
        (tmp_path / "CHASEDB1").mkdir(exist_ok=True)
        Image.fromarray(np.stack([noise(1)] * 3, axis=-1)).save(tmp_path / "CHASEDB1" / f"{name}.jpg")
        save(tmp_path / "CHASEDB1" / f"{name}_1stHO.png", square(), mode="1")
        save(tmp_path / "CHASEDB1" / f"{name}_2ndHO.png", square(top=4), mode="1")
    cases = create_dataset("chase_db1", tmp_path)
    assert [(case.id, case.group) for case in cases] == [
        ("Image_01L", "child 01"),
        ("Image_01R", "child 01"),
        ("Image_02L", "child 02"),
    ]
    assert np.array_equal(reference_mask(cases[0], (48, 40)), square() > 0)
    second = create_dataset("chase_db1", tmp_path, observer="2nd")
    assert np.array_equal(reference_mask(second[0], (48, 40)), square(top=4) > 0)


def test_real_collections(data_root: Path) -> None:
    cases = create_dataset("promise12", data_root / "promise12")
    assert Counter(case.site for case in cases) == sizes({"BIDMC": 12, "UCL": 12, "RUNMC": 13})
    assert all(len(case.masks) == 1 for case in cases)
    assert len(create_dataset("coronary", data_root / "coronary")) == 40
    (case,) = create_dataset("decathlon", data_root / "spleen")
    assert (case.id, case.site) == ("spleen_8", "Task09_Spleen")
    assert set(DATASETS) >= {"nci_isbi", "i2cvb", "duke_spleen", "drive", "chase_db1", "prostate_multisite"}
