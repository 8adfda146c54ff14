"""Folders of predictions as other tools write them: matching, coverage, and each format against NumPy."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segdistill.data.case import Case
from segdistill.data.datasets.busi import index as index_busi
from segdistill.data.opened import open_case
from segdistill.data.predictions import PredictionSource, hash_of, open_predictions, read_trained_on
from segdistill.errors import InputError
from tests.data import layouts
from tests.data.pictures import noise, save
from tests.imaging.volumes import write_itk

NAMES = {1: "liver", 2: "spleen"}
LABELS = {"background": 0, "liver": 1, "spleen": 2}
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened(folder: Path, cases: list[Case], *foreground: int | str, **more):
    return open_predictions(PredictionSource(folder, foreground or None, **more), cases)


def as_seen(case: Case, values: np.ndarray) -> np.ndarray:
    """Values on the file's grid, turned by nibabel as an axial volume is shown: left, back, head."""
    image = nibabel.load(case.image)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt("LPS")
    )
    return nibabel.orientations.apply_orientation(values.T, turn).T


# formats of volumes


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("foreground", "chosen"), [(("spleen",), [2]), ((2,), [2]), (("liver", "spleen"), [1, 2])]
)
def test_nnunet(tmp_path: Path, dtype, foreground, chosen) -> None:
    cases = layouts.volume_cases(tmp_path)
    soft = layouts.softmax_of(layouts.two_organs(), 3)
    for case in cases:
        layouts.nnunet(tmp_path / "p", case.id, soft, soft.argmax(0), case.image, dtype)
    layouts.dataset_json(tmp_path / "p", LABELS)
    found = opened(tmp_path / "p", cases, *foreground)
    assert found.note == "predictions of 2 of 2 cases"
    assert not found.unused
    assert found.files["ct_1"] == (tmp_path / "p/ct_1.npz", tmp_path / "p/ct_1.nii.gz")
    expected = as_seen(cases[0], soft[chosen].sum(0))
    np.testing.assert_allclose(found.map(cases[0]), expected, atol=2e-3 if dtype is np.float16 else 1e-6)
    assert found.map(cases[0]).shape == open_case(cases[0]).reference.shape


def regions() -> tuple[np.ndarray, np.ndarray, dict[str, object]]:
    labels = layouts.two_organs()
    soft = np.stack([layouts.softmax_of((labels > 0).astype(int), 2)[1], layouts.softmax_of(labels, 3)[2]])
    painted = np.zeros(labels.shape, int)
    painted[soft[0] > 0.5] = 1
    painted[soft[1] > 0.5] = 2
    return soft, painted, {"background": 0, "whole": [1, 2], "core": 2}


@pytest.mark.parametrize(("foreground", "chosen"), [("whole", 0), ("core", 1), (2, 1)])
def test_nnunet_regions(tmp_path: Path, foreground, chosen: int) -> None:
    cases = layouts.volume_cases(tmp_path, ["a"])
    soft, painted, labels = regions()
    layouts.nnunet(tmp_path / "p", "a", soft, painted, cases[0].image)
    layouts.dataset_json(tmp_path / "p", labels, regions_class_order=[1, 2])
    found = opened(tmp_path / "p", cases, foreground).map(cases[0])
    np.testing.assert_allclose(found, as_seen(cases[0], soft[chosen]), atol=1e-6)
    layouts.dataset_json(tmp_path / "p", labels, regions_class_order=[2, 1])  # paints the core over
    with pytest.raises(InputError, match=r"differs from a\.nii\.gz beside it in \d+"):
        opened(tmp_path / "p", cases, foreground)


def test_nnunet_reoriented(tmp_path: Path) -> None:
    """Its NibabelIOWithReorient predicts in another orientation than that of the file that it writes."""
    cases = layouts.volume_cases(tmp_path, ["a"])
    soft = layouts.softmax_of(layouts.two_organs(), 3)
    path = layouts.nnunet(tmp_path / "p", "a", soft, soft.argmax(0), cases[0].image)
    turn = nibabel.io_orientation(nibabel.load(cases[0].image).affine)
    turned = np.stack([nibabel.orientations.apply_orientation(each.T, turn).T for each in soft])
    assert not np.allclose(turned, soft)
    np.savez_compressed(path, probabilities=turned)
    found = opened(tmp_path / "p", cases, 1).map(cases[0])
    np.testing.assert_allclose(found, as_seen(cases[0], soft[1]), atol=1e-6)


def test_nnunet_folds(tmp_path: Path) -> None:
    cases = layouts.volume_cases(tmp_path, ["a", "b", "c"])
    soft = layouts.softmax_of((layouts.two_organs() > 0).astype(int), 2)
    layouts.dataset_json(tmp_path / "p", {"background": 0, "organ": 1})
    for k, case in enumerate(cases[:2]):
        layouts.nnunet(tmp_path / f"p/fold_{k}/validation", case.id, soft, soft.argmax(0), case.image)
        (tmp_path / f"p/fold_{k}/progress.png").write_bytes(b"no prediction")
    found = opened(tmp_path / "p", cases)
    assert found.folds == {"a": 1, "b": 2}
    assert (found.missing, found.unused) == (["c"], [])
    assert found.note == "predictions of 2 of 3 cases"
    alone = opened(tmp_path / "p/fold_1/validation", cases, "organ")  # dataset.json lies two folders above
    assert alone.folds == {"b": 2}
    layouts.nnunet(tmp_path / "p/fold_1/validation", "a", soft, soft.argmax(0), cases[0].image)
    with pytest.raises(
        InputError, match=r"two predictions of the case 'a', fold_0/validation/a\.npz and fold_1"
    ):
        opened(tmp_path / "p", cases)


def test_nnunet_pictures(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    labels = np.zeros((1, 48, 40), np.uint8)
    labels[0, 10:30, 8:20] = 1
    soft = layouts.softmax_of(labels[0], 2)[:, None]
    for case in cases:
        layouts.nnunet(tmp_path / "p", case.id, soft, soft.argmax(0), dtype=np.float16)
    found = opened(tmp_path / "p", cases).map(cases[0])
    np.testing.assert_allclose(found, soft[1, 0], atol=2e-3)


def test_nnunet_segmentations_alone(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    for case in cases:
        save(
            tmp_path / "p" / f"{case.id}.png",
            layouts.two_organs((1, 48, 40))[0] + 2 * np.eye(48, 40, dtype=np.uint8),
        )
    layouts.dataset_json(tmp_path / "p", {"background": 0, "cyst": 1, "mass": 2, "vessel": 3}, ".png")
    with pytest.raises(InputError, match=r"us1\.png: holds labels.*write foreground: \[mass\]"):
        opened(tmp_path / "p", cases)
    found = opened(tmp_path / "p", cases, "mass").map(cases[0])
    np.testing.assert_allclose(found, np.where(np.eye(48, 40) > 0, 0.98, 0.02), atol=1e-6)


def test_totalsegmentator(tmp_path: Path) -> None:
    cases = layouts.volume_cases(tmp_path)
    labels = layouts.two_organs()
    for case in cases:
        layouts.totalsegmentator(tmp_path / "p", case, labels, NAMES | {3: "gallbladder"})
    found = opened(tmp_path / "p", cases, "spleen", hard_probability=0.9)
    assert found.files["ct_1"] == tmp_path / "p/ct_1/spleen.nii.gz"
    expected = as_seen(cases[0], np.where(labels == 2, 0.9, 0.1))
    np.testing.assert_allclose(found.map(cases[0]), expected, atol=1e-6)
    both = opened(tmp_path / "p", cases, "liver", "spleen").map(cases[0])
    assert (both >= 0.5).sum() == (labels > 0).sum()
    with pytest.raises(
        InputError, match=r"ct_1: holds one file per class.*gallbladder.*write foreground: \["
    ):
        opened(tmp_path / "p", cases)
    with pytest.raises(InputError, match="has no file of the class 'splen'"):
        opened(tmp_path / "p", cases, "splen")
    with pytest.raises(InputError, match="is empty in all 2 cases"):
        opened(tmp_path / "p", cases, "gallbladder")


def test_totalsegmentator_in_one_file(tmp_path: Path) -> None:
    cases = layouts.volume_cases(tmp_path)
    labels = layouts.two_organs()
    for case in cases:
        table = layouts.label_table(NAMES | {90: "brain"})
        layouts.nifti_like(case.image, labels, tmp_path / "p" / f"{case.id}.nii.gz", table)
    found = opened(tmp_path / "p", cases, "spleen").map(cases[0])
    np.testing.assert_allclose(found, as_seen(cases[0], np.where(labels == 2, 0.98, 0.02)), atol=1e-6)
    with pytest.raises(InputError, match=r"\(liver, spleen, brain\).*write foreground: \[liver\]"):
        opened(tmp_path / "p", cases)
    with pytest.raises(
        InputError, match="has no label 'heart': foreground must name some of liver, spleen, brain"
    ):
        opened(tmp_path / "p", cases, "heart")
    with pytest.raises(InputError, match="foreground holds 7, which is no label"):
        opened(tmp_path / "p", cases, 7)


def test_monai(tmp_path: Path) -> None:
    cases = layouts.volume_cases(tmp_path)  # its subject is ct_1_0000
    labels = layouts.two_organs()
    for case in cases:
        layouts.monai(tmp_path / "p", case, labels > 0)
    found = opened(tmp_path / "p", cases)
    assert found.files["ct_2"] == tmp_path / "p/ct_2_0000/ct_2_0000_trans.nii.gz"
    np.testing.assert_allclose(
        found.map(cases[1]), as_seen(cases[1], np.where(labels > 0, 0.98, 0.02)), atol=1e-6
    )
    layouts.monai(tmp_path / "p", cases[0], labels > 0, "seg")
    with pytest.raises(InputError, match="two predictions of the case 'ct_1'"):
        opened(tmp_path / "p", cases)


def test_classes_last(tmp_path: Path) -> None:
    cases = layouts.volume_cases(tmp_path)
    soft = layouts.softmax_of(layouts.two_organs(), 3)
    for case in cases:
        layouts.monai(tmp_path / "soft", case, soft)
        layouts.monai(tmp_path / "two", case, np.stack([soft[0], soft[1] + soft[2]]))
        layouts.monai(tmp_path / "sigmoid", case, np.stack([soft[1], soft[1] + soft[2]]))
        layouts.monai(tmp_path / "onehot", case, np.eye(3)[soft.argmax(0)].transpose(3, 0, 1, 2))
    case = cases[0]
    np.testing.assert_allclose(
        opened(tmp_path / "soft", cases, 2).map(case), as_seen(case, soft[2]), atol=1e-6
    )
    np.testing.assert_allclose(
        opened(tmp_path / "two", cases).map(case), as_seen(case, 1 - soft[0]), atol=1e-6
    )
    np.testing.assert_allclose(
        opened(tmp_path / "sigmoid", cases, 0).map(case), as_seen(case, soft[1]), atol=1e-6
    )
    hard = np.where(soft.argmax(0) == 2, 0.98, 0.02)
    np.testing.assert_allclose(
        opened(tmp_path / "onehot", cases, 2).map(case), as_seen(case, hard), atol=1e-6
    )
    for folder in ("soft", "sigmoid", "onehot"):
        with pytest.raises(InputError, match="holds maps of classes"):
            opened(tmp_path / folder, cases)
    with pytest.raises(InputError, match="foreground holds 3, but the file has 3 maps"):
        opened(tmp_path / "soft", cases, 3)
    with pytest.raises(InputError, match="foreground holds 0, which is the background"):
        opened(tmp_path / "soft", cases, 0)


@FEW
@given(
    seed=st.integers(0, 2**16), kind=st.sampled_from(["nii", "nii.gz", "4d", "nrrd", "mha", "npz16", "npz32"])
)
def test_volume_formats_keep_probabilities(tmp_path_factory, seed: int, kind: str) -> None:
    folder = tmp_path_factory.mktemp("p")
    case = layouts.volume_cases(folder, ["a"])[0]
    p = np.random.default_rng(seed).random((6, 14, 12))
    soft = np.stack([1 - p, p])
    atol = 1e-6
    if kind.startswith("npz"):
        kept = soft.astype(np.float16 if kind == "npz16" else np.float32)
        layouts.nnunet(folder / "p", "a", kept, kept.argmax(0), case.image, kept.dtype.type)
        atol = 5e-4 if kind == "npz16" else atol
    elif kind == "4d":
        layouts.monai(folder / "p", case, soft)
    elif kind in ("nrrd", "mha"):
        direction = layouts.DIRECTION
        write_itk(folder / "p" / f"a.{kind}", p.astype(np.float32), direction=direction, compress=True)
    else:
        layouts.nifti_like(case.image, p.astype(np.float32), folder / f"p/a.{kind}")
    np.testing.assert_allclose(opened(folder / "p", [case]).map(case), as_seen(case, p), atol=atol)


# geometry


@pytest.mark.parametrize("codes", ["RAS", "LPI", "PSR", "SAL"])
def test_other_orientations_are_turned(tmp_path: Path, codes: str) -> None:
    case = layouts.volume_cases(tmp_path, ["a"])[0]
    p = np.random.default_rng(0).random((6, 14, 12)).astype(np.float32)
    path = layouts.nifti_like(case.image, p, tmp_path / "p/a.nii.gz")
    stored = nibabel.load(path)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(stored.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(stored.as_reoriented(turn), path)
    np.testing.assert_allclose(opened(tmp_path / "p", [case]).map(case), as_seen(case, p), atol=1e-6)


def test_coarser_voxels_in_the_same_view_are_resampled(tmp_path: Path) -> None:
    """A linear ramp stays one, at the places that the header states."""
    case = layouts.volume_cases(tmp_path, ["a"])[0]
    affine = nibabel.load(case.image).affine
    coarse = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = (affine @ [0.5, 0.5, 0.5, 1])[:3]
    x, y, z = np.meshgrid(np.arange(6), np.arange(7), np.arange(3), indexing="ij")
    ramp = (0.02 * x + 0.05 * y + 0.1 * z + 0.2).astype(np.float32)
    (tmp_path / "p").mkdir()
    nibabel.save(nibabel.Nifti1Image(ramp, coarse), tmp_path / "p/a.nii.gz")
    k, j, i = np.meshgrid(np.arange(6), np.arange(14), np.arange(12), indexing="ij")
    x, y, z = ((v - 0.5) / 2 for v in (i, j, k))
    expected = 0.02 * x.clip(0, 5) + 0.05 * y.clip(0, 6) + 0.1 * z.clip(0, 2) + 0.2
    np.testing.assert_allclose(opened(tmp_path / "p", [case]).map(case), as_seen(case, expected), atol=1e-5)


@pytest.mark.parametrize("change", ["origin", "spacing", "shape", "identity"])
def test_another_field_of_view_is_refused(tmp_path: Path, change: str) -> None:
    case = layouts.volume_cases(tmp_path, ["a"])[0]
    affine, values = nibabel.load(case.image).affine, np.ones((12, 14, 6), np.float32) / 2
    if change == "origin":
        affine[0, 3] += 5
    elif change == "spacing":
        affine[:3, :3] *= 1.5
    elif change == "shape":
        values = values[:, :, :3]
    else:
        affine = np.eye(4)
    (tmp_path / "p").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "p/a.nii.gz")
    with pytest.raises(
        InputError, match=r"does not lie on its image .*: resample the prediction onto the image"
    ):
        opened(tmp_path / "p", [case])


# formats of pictures


@FEW
@given(seed=st.integers(0, 2**16), bits=st.sampled_from([8, 16, 32]))
def test_picture_formats_keep_probabilities(tmp_path_factory, seed: int, bits: int) -> None:
    folder = tmp_path_factory.mktemp("p")
    case = layouts.picture_cases(folder, ["a"])[0]
    p = np.random.default_rng(seed).random((48, 40))
    (folder / "p").mkdir()
    if bits == 32:
        Image.fromarray(p.astype(np.float32)).save(folder / "p/a.tif")
    else:
        white = 2**bits - 1
        Image.fromarray((p * white).round().astype(np.uint8 if bits == 8 else np.uint16)).save(
            folder / "p/a.png"
        )
    np.testing.assert_allclose(
        opened(folder / "p", [case]).map(case), p, atol=0.5001 / (2 ** min(bits, 16) - 1)
    )


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
def test_hard_masks(tmp_path: Path, white: int, mode: str) -> None:
    cases = layouts.picture_cases(tmp_path)
    mask = np.zeros((48, 40), np.uint8)
    mask[5:20, 10:30] = white
    for case in cases:
        (tmp_path / "p").mkdir(exist_ok=True)
        image = Image.fromarray(mask if mode != "1" else mask * np.uint8(255 // white))
        if mode == "P":
            image = Image.fromarray((mask > 0).astype(np.uint8))
            image.putpalette([0, 0, 0, 255, 0, 0])
        image.convert(mode).save(tmp_path / "p" / f"{case.id}.png")
    found = opened(tmp_path / "p", cases).map(cases[0])
    np.testing.assert_allclose(found, np.where(mask > 0, 0.98, 0.02), atol=1e-6)


def test_index_pictures(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    labels = layouts.two_organs((6, 48, 40))[3]
    for case in cases:
        (tmp_path / "p").mkdir(exist_ok=True)
        image = Image.fromarray(labels)
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(tmp_path / "p" / f"{case.id}.png")
    with pytest.raises(InputError, match=r"holds labels.*\(1, 2\).*write foreground: \[1\]"):
        opened(tmp_path / "p", cases)
    found = opened(tmp_path / "p", cases, 2).map(cases[0])
    assert ((found >= 0.5) == (labels == 2)).all()


def test_a_nearly_empty_probability_is_no_mask(tmp_path: Path) -> None:
    """A picture with the values 0 and 1 among probabilities holds probabilities of 0.4 %."""
    cases = layouts.picture_cases(tmp_path)
    save(tmp_path / "p/us1.png", noise(1))
    save(tmp_path / "p/us2.png", np.eye(48, 40))
    assert opened(tmp_path / "p", cases).map(cases[1]).max() == pytest.approx(1 / 255)


def test_two_unusual_values_are_no_probability(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    for case in cases:
        save(tmp_path / "p" / f"{case.id}.png", np.eye(48, 40) * 128)
    with pytest.raises(InputError, match=r"\(128\).*write foreground: \[128\]"):
        opened(tmp_path / "p", cases)
    assert (opened(tmp_path / "p", cases, 128).map(cases[0]) >= 0.5).sum() == 40


def test_another_size_of_the_same_view(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path, size=(480, 400))
    for case in cases:
        save(tmp_path / "p" / f"{case.id}.png", noise(3, 120, 101))
    assert opened(tmp_path / "p", cases).map(cases[0]).shape == (120, 101)
    save(tmp_path / "p/us1.png", noise(3, 120, 102))
    with pytest.raises(
        InputError, match=r"us1\.png: is of 120 x 102 pixels, but its image us1\.png of 480 x 400"
    ):
        opened(tmp_path / "p", cases)


def test_exif(tmp_path: Path) -> None:
    """The image is upright for us; a prediction of its stored pixels lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(noise(0, 30, 60)).save(tmp_path / "images/a.png", exif=exif)
    case = Case("a", tmp_path / "images/a.png")
    save(tmp_path / "p/a.png", noise(1, 60, 30))
    np.testing.assert_allclose(opened(tmp_path / "p", [case]).map(case), noise(1, 60, 30) / 255, atol=1e-6)
    save(tmp_path / "p/a.png", noise(1, 30, 60))
    with pytest.raises(InputError, match="turn the prediction, as EXIF turns the image"):
        opened(tmp_path / "p", [case])


# which file belongs to which case


def test_coverage_is_told(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path, ["a", "b", "c", "d", "e"])
    for name in ("a", "c", "x1", "x10", "x2", "x3"):
        save(tmp_path / f"p/{name}.png", noise(1))
    (tmp_path / "p/readme.txt").write_text("no prediction")
    found = opened(tmp_path / "p", cases)
    assert found.note == "predictions of 2 of 5 cases, 4 files of no case: x1.png, x2.png, x3.png, ..."
    assert found.missing == ["b", "d", "e"]
    assert [path.name for path in found.unused] == ["x1.png", "x2.png", "x3.png", "x10.png"]
    with pytest.raises(InputError, match="has no prediction of the case 'b'"):
        found.map(cases[1])


def test_ids_and_names_of_images(tmp_path: Path) -> None:
    """Ids with folders, two images of one name, and accents in two forms of Unicode."""
    images = [
        save(tmp_path / f"images/{name}.png", noise(k)) for k, name in enumerate(("s1/1", "s2/1", "mu\u0308"))
    ]
    cases = [Case(f"case{k}", image) for k, image in enumerate(images)]
    for name in ("s1/1", "s2/1", "m\u00fc"):
        save(tmp_path / f"p/{name}.png", noise(len(name)))
    found = opened(tmp_path / "p", cases)
    assert {name: path.relative_to(tmp_path / "p").as_posix() for name, path in found.files.items()} == {
        "case0": "s1/1.png",
        "case1": "s2/1.png",
        "case2": "m\u00fc.png",
    }
    save(tmp_path / "p/1.png", noise(3))
    with pytest.raises(InputError, match=r"1\.png: fits the cases 'case0' and 'case1'"):
        opened(tmp_path / "p", cases)


def test_table(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    save(tmp_path / "p/deep/one.png", noise(1))
    table = tmp_path / "table.csv"
    table.write_text("case;file\nus2;deep/one.png\nelsewhere;deep/one.png\n")
    found = opened(tmp_path / "p", cases, table=table)
    assert found.files == {"us2": tmp_path / "p/deep/one.png"}
    for text, message in [
        ("case,file\nus2,absent.png\n", "row 2: there is no prediction 'absent.png'"),
        ("case,file\nus2,../images/us1.png\n", "is no file below"),
        ("case,file\nus1,deep/one.png\nus1,deep/one.png\n", "two predictions of the case 'us1'"),
        ("id,path\nus1,deep/one.png\n", "needs the columns case and file; it has id, path"),
        ("case,file\nothers,deep/one.png\n", "holds no prediction of any of the 2 cases"),
    ]:
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            opened(tmp_path / "p", cases, table=table)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    save(tmp_path / "p/us1.png", noise(1))
    (tmp_path / "p/us2.png").symlink_to(tmp_path / "images/us2.png")
    (tmp_path / "p/all").symlink_to(tmp_path / "images")
    found = opened(tmp_path / "p", cases)
    assert found.note == "predictions of 1 of 2 cases, links out of the folder, not followed: 2"
    table = tmp_path / "table.csv"
    table.write_text("case,file\nus2,us2.png\n")
    with pytest.raises(InputError, match="is no file below"):
        opened(tmp_path / "p", cases, table=table)


# bad input


def test_no_case_is_covered(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        opened(tmp_path / "p", cases)
    (tmp_path / "p").mkdir()
    with pytest.raises(InputError, match="holds no predictions: PNG, NIfTI"):
        opened(tmp_path / "p", cases)
    save(tmp_path / "p/other.png", noise(1))
    with pytest.raises(
        InputError, match=r"any of the 2 cases: its 1 files are other\.png, \.\.\.; the cases are us1, us2"
    ):
        opened(tmp_path / "p", cases)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "holds values from 0.5 to 1.5: probabilities lie from 0 to 1"),
        (-0.01, "holds values from -0.01 to 0.5"),
        (np.nan, "NaN"),
        (np.inf, "NaN"),
        (1.0009, None),
    ],
)
@pytest.mark.parametrize("kind", ["nii", "4d", "npz", "tif"])
def test_values_that_are_no_probabilities(
    tmp_path: Path, value: float, message: str | None, kind: str
) -> None:
    case = (
        layouts.picture_cases(tmp_path, ["a"])[0]
        if kind == "tif"
        else layouts.volume_cases(tmp_path, ["a"])[0]
    )
    p = np.full((48, 40) if kind == "tif" else (6, 14, 12), 0.5, np.float32)
    p[..., 3, 4] = value
    if kind == "nii":
        layouts.nifti_like(case.image, p, tmp_path / "p/a.nii.gz")
    elif kind == "4d":
        layouts.monai(tmp_path / "p", case, np.stack([1 - np.clip(p, 0, 1), p]))
    elif kind == "npz":
        soft = np.stack([1 - np.nan_to_num(p, posinf=1).clip(0, 1), p])
        layouts.nnunet(tmp_path / "p", "a", soft, np.nan_to_num(soft, posinf=9).argmax(0), case.image)
    else:
        (tmp_path / "p").mkdir()
        Image.fromarray(p).save(tmp_path / "p/a.tif")
    if message is None:
        assert opened(tmp_path / "p", [case]).map(case).max() == 1
    else:
        with pytest.raises(InputError, match=message) as caught:
            opened(tmp_path / "p", [case])
        assert "\n" not in str(caught.value)


def test_several_labels_need_a_foreground(tmp_path: Path) -> None:
    cases = layouts.volume_cases(tmp_path)
    for case, labels in zip(cases, (layouts.two_organs(), 2 * (layouts.two_organs() > 0)), strict=True):
        layouts.nifti_like(case.image, labels.astype(np.uint8), tmp_path / "p" / f"{case.id}.nii.gz")
    with pytest.raises(InputError, match=r"\(1, 2\).*write foreground: \[1\]"):
        opened(tmp_path / "p", cases)
    with pytest.raises(InputError, match=r"\(2\).*write foreground: \[2\]"):  # a single one, but not 1
        opened(tmp_path / "p", cases[1:])
    with pytest.raises(InputError, match="foreground holds 'spleen', but no file names its labels"):
        opened(tmp_path / "p", cases, "spleen")
    found = opened(tmp_path / "p", cases, 1, 2)
    assert (found.map(cases[0]) >= 0.5).sum() == (layouts.two_organs() > 0).sum()


def test_probabilities_must_fit_the_segmentation(tmp_path: Path) -> None:
    case = layouts.volume_cases(tmp_path, ["a"])[0]
    labels = (layouts.two_organs() > 0).astype(int)
    soft = layouts.softmax_of(labels, 2)
    labels = soft.argmax(0)
    count = int(labels.sum())
    for changed, is_accepted in ((0, True), (count // 100, True), (count // 100 + 1, False)):
        other = labels.copy()
        other.reshape(-1)[np.flatnonzero(labels)[:changed]] = 0
        layouts.nnunet(tmp_path / "p", "a", soft, other, case.image)
        if is_accepted:
            opened(tmp_path / "p", [case])
        else:
            with pytest.raises(
                InputError, match=r"differs from a\.nii\.gz beside it in 1\.\d% of the foreground"
            ):
                opened(tmp_path / "p", [case])
    layouts.nnunet(tmp_path / "p", "a", soft[:, :5], labels, case.image)
    with pytest.raises(InputError, match="is of 5 x 14 x 12 voxels, but"):
        opened(tmp_path / "p", [case])
    (tmp_path / "p/a.nii.gz").unlink()
    with pytest.raises(InputError, match=r"a\.npz: has no segmentation beside it"):
        opened(tmp_path / "p", [case])


def test_sigmoids_without_names(tmp_path: Path) -> None:
    case = layouts.volume_cases(tmp_path, ["a"])[0]
    soft, _, _ = regions()
    layouts.nnunet(tmp_path / "p", "a", soft, soft.argmax(0), case.image)
    layouts.dataset_json(tmp_path / "p", {"background": 0, "organ": 1})
    with pytest.raises(InputError, match=r"do not add up to 1.*regions_class_order"):
        opened(tmp_path / "p", [case])
    layouts.dataset_json(tmp_path / "p", {"background": 0, "a": 1, "b": 2})
    with pytest.raises(InputError, match=r"holds 2 maps, but its dataset.json names 3"):
        opened(tmp_path / "p", [case], "a")


def test_empty_for_all_cases(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    for case in cases:
        save(tmp_path / "p" / f"{case.id}.png", noise(1) // 3)
    with pytest.raises(InputError, match=r"is empty in all 2 cases: no probability reaches 0.5"):
        opened(tmp_path / "p", cases)


def test_kinds_that_do_not_fit(tmp_path: Path) -> None:
    volume, picture = layouts.volume_cases(tmp_path, ["a"])[0], layouts.picture_cases(tmp_path, ["b"])[0]
    save(tmp_path / "p/a.png", noise(1))
    layouts.nifti_like(volume.image, layouts.two_organs(), tmp_path / "p/b.nii.gz")
    with pytest.raises(InputError, match=r"a\.png: is a picture, but its case is a volume"):
        opened(tmp_path / "p", [volume])
    with pytest.raises(InputError, match=r"b\.nii\.gz: is no picture, but its case is one"):
        opened(tmp_path / "p", [picture])
    save(tmp_path / "p/b.png", noise(1))
    (tmp_path / "p/b.nii.gz").unlink()
    with pytest.raises(InputError, match="one class, of which none is chosen: remove foreground"):
        opened(tmp_path / "p", [picture], 1)
    save(tmp_path / "p/b.png", np.dstack([noise(1), noise(2), noise(3)]))
    with pytest.raises(InputError, match=r"b\.png: is coloured"):
        opened(tmp_path / "p", [picture])
    (tmp_path / "p/b.png").unlink()
    Image.fromarray(noise(1)).save(tmp_path / "p/b.jpg")
    with pytest.raises(InputError, match=r"b\.jpg: is a JPEG"):
        opened(tmp_path / "p", [picture])


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"labels": {"a": "x"}}', '{"labels": {"a": [1, 2], "b": 2}}']
)
def test_damaged_dataset_json(tmp_path: Path, content: str) -> None:
    case = layouts.volume_cases(tmp_path, ["a"])[0]
    layouts.nifti_like(case.image, layouts.two_organs(), tmp_path / "p/a.nii.gz")
    (tmp_path / "p/dataset.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset\.json: (names no labels|has 2 regions)"):
        opened(tmp_path / "p", [case], 1)


def test_sources() -> None:
    with pytest.raises(InputError, match=r"hard_probability is 0.5"):
        PredictionSource(Path("p"), hard_probability=0.5)
    with pytest.raises(InputError, match="foreground names nothing"):
        PredictionSource(Path("p"), ())


# what else is offered


def test_hash(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    for case in cases:
        save(tmp_path / "p" / f"{case.id}.png", layouts.two_organs((6, 48, 40))[3])
    first = hash_of(opened(tmp_path / "p", cases, 1))
    assert first == hash_of(opened(tmp_path / "p", cases, 1))
    others = {hash_of(opened(tmp_path / "p", cases, 2)), hash_of(opened(tmp_path / "p", cases[:1], 1))}
    others.add(hash_of(opened(tmp_path / "p", cases, 1, hard_probability=0.9)))
    layouts.dataset_json(tmp_path / "p", LABELS)
    others.add(hash_of(opened(tmp_path / "p", cases, 1)))
    save(tmp_path / "p/us2.png", layouts.two_organs((6, 48, 40))[1])
    others.add(hash_of(opened(tmp_path / "p", cases, 1)))
    assert len(others | {first}) == 6


def test_predictions_travel_between_processes(tmp_path: Path) -> None:
    cases = layouts.picture_cases(tmp_path)
    save(tmp_path / "p/us1.png", noise(1))
    found = pickle.loads(pickle.dumps(opened(tmp_path / "p", cases)))
    assert found.map(cases[0]).shape == (48, 40)


def test_trained_on(tmp_path: Path) -> None:
    cases = [Case(name, Path(f"{name}.png")) for name in "abc"]
    assert read_trained_on("all", cases) == {"a", "b", "c"}
    assert read_trained_on("none", cases) == set()
    assert read_trained_on("unknown", cases) is None
    listed = tmp_path / "ids.txt"
    listed.write_text("\ufeffa\r\n\r\nc\r\nelsewhere\r\n", encoding="utf-8")
    assert read_trained_on(listed, cases) == {"a", "c"}
    listed.write_text("x\ny\n")
    with pytest.raises(InputError, match=r"names none of the 3 cases \('x', \.\.\.\)"):
        read_trained_on(str(listed), cases)
    with pytest.raises(InputError, match="trained_on is 'al', which cannot be read"):
        read_trained_on("al", cases)
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_trained_on(listed, cases)


# real files


def test_hippocampus(data_root: Path, tmp_path: Path) -> None:
    """Real volumes, their labels softened: every layout gives the same map."""
    task = data_root / "hippocampus/Task04_Hippocampus"
    images = sorted((task / "imagesTr").glob("hippocampus_*.nii.gz"))[:3]
    cases = [Case(path.name.removesuffix(".nii.gz"), path) for path in images]
    names = {1: "anterior", 2: "posterior"}
    for case in cases:
        labels = np.asarray(nibabel.load(task / "labelsTr" / case.image.name).dataobj).T
        soft = layouts.softmax_of(labels, 3)
        layouts.nnunet(tmp_path / "nnunet", case.id, soft, soft.argmax(0), case.image, np.float16)
        layouts.totalsegmentator(tmp_path / "total", case, soft.argmax(0), names)
        table = layouts.label_table(names)
        layouts.nifti_like(
            case.image, soft.argmax(0).astype(np.uint8), tmp_path / f"ml/{case.id}.nii.gz", table
        )
        layouts.monai(tmp_path / "monai", case, soft)
    layouts.dataset_json(tmp_path / "nnunet", {"background": 0, "anterior": 1, "posterior": 2})
    soft_maps = [opened(tmp_path / "nnunet", cases, "posterior"), opened(tmp_path / "monai", cases, 2)]
    hard_maps = [opened(tmp_path / name, cases, "posterior") for name in ("total", "ml")]
    for case in cases:
        shape = open_case(case).reference.shape
        one, other = (maps.map(case) for maps in soft_maps)
        assert one.shape == shape
        np.testing.assert_allclose(one, other, atol=1e-3)
        one, other = (maps.map(case) for maps in hard_maps)
        np.testing.assert_array_equal(one, other)
        assert (one >= 0.5).any()


def test_busi(data_root: Path, tmp_path: Path) -> None:
    cases = index_busi(data_root / "busi")[:6]
    for case in cases:
        reference = open_case(case).reference[0]
        soft = layouts.softmax_of(reference.astype(int), 2, sigma=3)
        layouts.nnunet(tmp_path / "nnunet", case.id, soft[:, None], soft[:, None].argmax(0), dtype=np.float16)
        image = Image.fromarray((soft[1] * 255).round().astype(np.uint8))
        (tmp_path / "small").mkdir(exist_ok=True)
        image.resize((image.width // 2 * 2, image.height // 2 * 2)).save(tmp_path / f"small/{case.id}.png")
    arrays, pictures = opened(tmp_path / "nnunet", cases), opened(tmp_path / "small", cases)
    assert arrays.note == pictures.note == "predictions of 6 of 6 cases"
    for case in cases:
        reference = open_case(case).reference[0]
        found = arrays.map(case) >= 0.5
        assert found.shape == reference.shape
        assert 2 * (found & reference).sum() / (found.sum() + reference.sum()) > 0.95
        assert abs(pictures.map(case).mean() - arrays.map(case).mean()) < 0.01


@pytest.mark.slow
def test_monai_itself(tmp_path: Path) -> None:
    """Files that MONAI's own SaveImage writes."""
    torch = pytest.importorskip("torch")
    from monai.data import MetaTensor
    from monai.transforms import LoadImage, SaveImage

    case = layouts.volume_cases(tmp_path, ["a"], suffix="")[0]
    loaded = LoadImage(image_only=True, ensure_channel_first=True)(case.image)
    soft = layouts.softmax_of(layouts.two_organs(), 3).astype(np.float32)
    for folder, values in (("soft", soft), ("hard", (soft.argmax(0) > 0)[None].astype(np.float32))):
        tensor = torch.from_numpy(values.transpose(0, 3, 2, 1).copy())
        saved = MetaTensor(tensor, affine=loaded.affine, meta=loaded.meta)
        SaveImage(output_dir=tmp_path / folder, print_log=False)(saved)
    assert (tmp_path / "hard/a/a_trans.nii.gz").is_file()
    np.testing.assert_allclose(
        opened(tmp_path / "soft", [case], 2).map(case), as_seen(case, soft[2]), atol=1e-6
    )
    found = opened(tmp_path / "hard", [case]).map(case)
    np.testing.assert_allclose(found, as_seen(case, np.where(soft.argmax(0) > 0, 0.98, 0.02)), atol=1e-6)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    """An array of objects is refused, and the .pkl beside it is not looked at."""
    case = layouts.volume_cases(tmp_path, ["a"])[0]
    soft = layouts.softmax_of((layouts.two_organs() > 0).astype(int), 2)
    path = layouts.nnunet(tmp_path / "p", "a", soft, soft.argmax(0), case.image)
    path.with_suffix(".pkl").chmod(0)
    opened(tmp_path / "p", [case])
    np.savez(path, probabilities=np.array([[[[Evil()]]]], object))
    with pytest.raises(InputError, match="holds values of type object"):
        opened(tmp_path / "p", [case])


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)
