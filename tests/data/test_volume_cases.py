from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from segdistill.data.case import Case, file_hash, select, table_hash
from segdistill.data.check import Finding, check_cases, run_check
from segdistill.data.contact_sheet import contact_sheet
from segdistill.data.datasets import create_dataset
from segdistill.data.opened import open_case
from segdistill.data.pack import pack_cases
from segdistill.data.splits import hold_out
from segdistill.data.store import Store, prepare_store
from segdistill.data.table import read_cases, write_cases
from segdistill.data.views import Views, batches
from segdistill.errors import InputError
from segdistill.imaging.classes import parse_classes
from segdistill.imaging.intensity import CT, MR
from segdistill.imaging.patches import PatchGrid
from segdistill.imaging.preprocess import Preprocess, prepare_mask
from tests.data.pictures import noise, save, square
from tests.imaging.volumes import ORGAN, blocks, dicom_slice, organ, write_itk, write_series

PREPROCESS = Preprocess(size=(16, 8), intensity=MR)


def volume_cases(root: Path, count: int = 3) -> list[Case]:
    cases = []
    for k in range(count):
        shape = (4 + k, 12, 10)
        image = write_itk(root / f"Case{k:02}.mhd", blocks(shape, seed=k))
        mask = write_itk(root / f"Case{k:02}_segmentation.mhd", organ(shape), compress=True)
        cases.append(
            Case(
                f"Case{k:02}",
                image,
                (mask,),
                site="AB"[k % 2],
                group=f"p{k}",
                classes=ORGAN,
            )
        )
    return cases


def test_a_slice_is_a_row(tmp_path: Path) -> None:
    picture = Case("7", save(tmp_path / "7.png", noise(1)), (save(tmp_path / "7_gt.png", square()),))
    cases = [*volume_cases(tmp_path), picture]
    store = prepare_store(cases, PREPROCESS, tmp_path / "s")
    assert len(store) == 4 + 5 + 6 + 1
    assert store.ids[4:6] == ["Case01#0", "Case01#1"]
    assert store.ids[-1] == "7"
    for case in cases[:3]:
        opened = open_case(case, MR)
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(case.image))).astype(float)
        expected = np.clip((voxels - voxels.mean()) / voxels.std(), -3, 5)
        assert len(store.rows(case.id)) == len(opened) == len(voxels)
        for k, row in enumerate(store.rows(case.id)):
            assert np.abs(opened.pixels(k) / 255 * 8 - 3 - expected[k]).max() < 4 / 255 + 1e-6
            assert np.array_equal(store.image(row), PREPROCESS.prepare(opened.pixels(k)))
            assert np.array_equal(store.mask(row), prepare_mask(opened.reference[k], (16, 8)))
            assert store.has_foreground(row) == bool(store.mask(row).any()) == (1 <= k < 4)
    assert store.row("7") == 15
    with pytest.raises(InputError, match="'Case00' has 4 rows"):
        store.row("Case00")
    with pytest.raises(InputError, match="'nobody' is not in the prepared store"):
        store.rows("nobody")
    assert np.load(store.folder / "images.npy", mmap_mode="r").shape == (16, 16, 8, 1)
    assert prepare_store(cases, PREPROCESS, tmp_path / "s").folder == store.folder
    assert prepare_store(cases, replace(PREPROCESS, intensity=CT), tmp_path / "s").folder != store.folder


def test_the_store_key_is_that_of_what_decides_the_pixels(tmp_path: Path) -> None:
    from segdistill.data import store as module
    from segdistill.data.case import content_key
    from segdistill.files import sha256_text

    case = Case("7", save(tmp_path / "7.png", noise(1)))
    known = sha256_text(json.dumps([3, [16, 8], "grey", True, [content_key(case)]]))
    assert module._key([case], Preprocess(size=(16, 8)), True) == known
    assert module._key([case], PREPROCESS, True) == known  # a picture has no intensity to choose
    assert module._key([case], PREPROCESS, False) != known
    assert module._key([case], Preprocess(size=(8, 8), patches=PatchGrid(5, 8)), True) != known


def test_a_store_without_the_newer_index_still_opens(tmp_path: Path) -> None:
    case = Case("7", save(tmp_path / "7.png", noise(1)), (save(tmp_path / "7_gt.png", square()),))
    store = prepare_store([case], PREPROCESS, tmp_path / "s")
    index = json.loads((store.folder / "index.json").read_text())
    del index["cases"], index["foreground"]
    (store.folder / "index.json").write_text(json.dumps(index))
    old = Store(store.folder)
    assert old.row("7") == 0
    assert old.has_foreground(0)


def test_the_key_follows_the_voxels_beside_a_header(tmp_path: Path) -> None:
    case = volume_cases(tmp_path, 1)[0]
    before = table_hash([case])
    raw = tmp_path / "Case00.raw"
    raw.write_bytes(raw.read_bytes()[::-1])
    assert table_hash([case]) != before
    folder = write_series(tmp_path / "series", blocks())
    before = file_hash(folder)
    (folder / "IM0000.dcm").unlink()
    assert file_hash(folder) != before


def test_views_take_cases_and_show_slices(tmp_path: Path) -> None:
    cases = volume_cases(tmp_path)
    store = prepare_store(cases, PREPROCESS, tmp_path / "s")
    views = Views(store, ["Case02", "Case00"], PREPROCESS)
    assert len(views) == 6 + 4
    found = np.concatenate([batch["index"].numpy() for batch in batches(views, 3, epoch=0, shuffle=False)])
    assert found.tolist() == [0] * 6 + [1] * 4  # positions in case_ids: labels and sites are per case
    assert np.array_equal(views.pixels(7, 0)[0], store.image(store.rows("Case00")[1]))
    full = Views(store, ["Case02", "Case00"], PREPROCESS, skip_empty=True)
    assert len(full) == 6
    assert all(full.pixels(k, 0)[1].any() for k in range(6))
    turned = Views(store, ["Case02"], PREPROCESS, "lightbtseg", seed=3)
    assert not np.array_equal(turned.pixels(1, 0)[0], turned.pixels(1, 1)[0])
    empty = replace(cases[0], masks=())
    with pytest.raises(InputError, match="no image has any foreground"):
        Views(prepare_store([empty], PREPROCESS, tmp_path / "s"), ["Case00"], PREPROCESS, skip_empty=True)


def test_patches_are_rows(tmp_path: Path) -> None:
    cases = [
        Case(str(k), save(tmp_path / f"{k}.png", noise(k)), (save(tmp_path / f"{k}_gt.png", square()),))
        for k in (1, 2)
    ]
    grid = PatchGrid(3, 20)
    preprocess = Preprocess(size=(20, 20), patches=grid)
    store = prepare_store([*cases, *volume_cases(tmp_path, 0)], preprocess, tmp_path / "s")
    assert len(store) == 18
    assert store.ids[9:11] == ["2@0", "2@1"]
    joined = grid.stitch(np.stack([store.image(row).transpose(2, 0, 1) for row in store.rows("2")]), (48, 40))
    assert np.array_equal(joined[0], noise(2))
    masks = grid.stitch(np.stack([store.mask(row)[None] for row in store.rows("2")]), (48, 40))
    assert np.array_equal(masks[0] > 0, square() > 0)
    with pytest.raises(
        InputError, match=r"1\.png: 2 patches of 20 do not cover a side of 48 pixels: use at least 3"
    ):
        prepare_store(cases, Preprocess(size=(20, 20), patches=PatchGrid(2, 20)), tmp_path / "s")


def test_tables_of_volumes(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", blocks())
    cases = [
        *volume_cases(tmp_path, 2),
        Case(
            "s",
            folder,
            (write_itk(tmp_path / "m.nii.gz", organ()),),
            spacing_mm=(3.0, 0.6, 0.5),
            classes=ORGAN,
        ),
    ]
    write_cases(cases, tmp_path / "cases.csv")
    assert read_cases(tmp_path / "cases.csv") == cases
    for text, words in (
        ("id,image,spacing_mm\na,a.nii,1 2 -3\n", "three positive numbers"),
        ("id,image,spacing_mm\na,a.nii,1 2 3 4\n", "not 2 numbers"),
        ("id,image,classes\na,a.nii,1\n", "column 'classes'"),
        ("id,image,masks,classes\na,a.nii,m.nii,head;body\n", "column 'classes': 'head' has no value"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InputError, match=words):
            read_cases(tmp_path / "bad.csv")


def test_spacing_from_the_table_stands_in(tmp_path: Path) -> None:
    image = write_itk(tmp_path / "a.mhd", blocks(), spacing=(1.0, 1.0, 1.0))
    assert open_case(Case("a", image)).spacing_mm is None
    told = open_case(Case("a", image, spacing_mm=(3.6, 0.6, 0.6)))
    assert told.spacing_mm == (3.6, 0.6, 0.6)
    assert told.picture(0).spacing is not None
    assert told.picture(0).spacing.source == "case table"
    with pytest.raises(InputError, match="needs three numbers"):
        open_case(Case("a", image, spacing_mm=(0.6, 0.6)))
    with pytest.raises(InputError, match="a box belongs to a picture"):
        open_case(Case("a", image, box=(0, 0, 2, 2)))


def test_sites_are_subsets(tmp_path: Path) -> None:
    cases = hold_out(volume_cases(tmp_path), {"train": 0.67, "test": 0.33})
    assert [case.id for case in select(cases, sites="A")] == ["Case00", "Case02"]
    assert select(cases, sites=["A", "B"]) == cases
    with pytest.raises(InputError, match="no case is of the site 'C': known: A, B"):
        select(cases, sites=["A", "C"])


def test_check_looks_at_volumes(tmp_path: Path) -> None:
    cases = volume_cases(tmp_path)
    assert run_check(cases).errors == []
    same_student = replace(
        cases[0],
        id="same_student",
        image=write_itk(tmp_path / "own baseline.nii.gz", blocks((4, 12, 10)).astype(np.int32)),
    )
    bad = [
        replace(
            cases[0],
            id="spacing",
            masks=(write_itk(tmp_path / "s.mhd", organ((4, 12, 10)), spacing=(1, 1, 1)),),
        ),
        replace(cases[0], id="size", masks=cases[1].masks),
        replace(cases[0], id="labels", masks=(write_itk(tmp_path / "l.mhd", organ((4, 12, 10)) * 4),)),
        replace(cases[0], id="empty", masks=(write_itk(tmp_path / "e.mhd", organ((4, 12, 10)) * 0),)),
        replace(cases[0], id="gone", image=tmp_path / "gone.nii"),
        replace(cases[0], id="without", masks=()),
    ]
    found = {
        finding.cases: finding for finding in run_check([*cases, *bad]).findings if len(finding.cases) == 1
    }
    for name, words in (
        ("spacing", "spacing of 3 x 0.6 x 0.5 against 1 x 1 x 1 mm"),
        ("size", "4 x 12 x 10 against 5 x 12 x 10 voxels"),
        ("labels", "label 4, but 2 classes are declared"),
        ("gone", "no such file"),
        ("without", "image without mask"),
    ):
        assert found[name,].level == "error"
        assert words in found[name,].message
        assert "\n" not in found[name,].message
    assert found["empty",].level == "warning"
    pairs = run_check([*cases, same_student]).pairs
    assert [(pair.first, pair.second, pair.kind) for pair in pairs if pair.kind == "identical"] == [
        ("Case00", "same_student", "identical")
    ]


def findings(cases: list[Case], level: str, word: str) -> list[Finding]:
    return [found for found in run_check(cases).findings if found.level == level and word in found.message]


def test_check_tells_masks_that_hardly_or_perhaps_do_not_fit(tmp_path: Path) -> None:
    cases = volume_cases(tmp_path)
    assert findings(cases, "note", "a little beside") == findings(cases, "warning", "origin") == []
    near = [
        replace(
            case,
            masks=(
                write_itk(tmp_path / f"{k}.mhd", organ((4 + k, 12, 10)), origin=(-10.0 + beside, 5.0, 20.0)),
            ),
        )
        for k, (case, beside) in enumerate(zip(cases, (1e-8, 1e-4, 4e-4), strict=True))
    ]
    (note,) = findings(near, "note", "a little beside")
    assert note.cases == ("Case01", "Case02")
    assert "2 masks lie a little beside their image" in note.message
    assert "0.0008 voxels apart" in note.message
    assert run_check(near).errors == []
    lost = replace(
        cases[0], masks=(write_itk(tmp_path / "l.mhd", organ((4, 12, 10)), origin=(0.0, 0.0, 0.0)),)
    )
    (warning,) = findings([lost, *cases[1:]], "warning", "lost their origin")
    assert warning.cases == ("Case00",)
    assert "l.mhd" in warning.message
    away = replace(
        cases[0], masks=(write_itk(tmp_path / "a.mhd", organ((4, 12, 10)), origin=(-10.0, 5.0, 50.0)),)
    )
    (error,) = run_check([away, *cases[1:]]).errors
    assert "30 mm apart" in error.message


AXIAL = (1, 0, 0, 0, 1, 0, 0, 0, 1)
MIRRORED = (-1, 0, 0, 0, 1, 0, 0, 0, 1)
SAGITTAL = (0, 0, -1, 1, 0, 0, 0, -1, 0)
SAGITTAL_UPSIDE_DOWN = (0, 0, -1, 1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, 1, 0, -1, 0)


@pytest.mark.parametrize(
    ("directions", "words"),
    [
        ([AXIAL, AXIAL, MIRRORED], ""),  # axial volumes are turned alike
        ([SAGITTAL, SAGITTAL, SAGITTAL], ""),
        ([AXIAL, AXIAL, SAGITTAL], "slices of different planes: 2 axial"),
        ([AXIAL, CORONAL, SAGITTAL], "slices of different planes: 1 axial"),
        ([SAGITTAL, SAGITTAL, SAGITTAL_UPSIDE_DOWN], "slices of one plane, turned or mirrored"),
    ],
)
def test_check_warns_of_slices_that_lie_differently(
    tmp_path: Path, directions: list[tuple[int, ...]], words: str
) -> None:
    cases = [
        Case(str(k), write_itk(tmp_path / f"{k}.nii.gz", blocks(seed=k), direction=direction), label="normal")
        for k, direction in enumerate(directions)
    ]
    found = findings(cases, "warning", "slice by slice")
    assert [words in one.message for one in found] == [True] * bool(words)


def test_check_tells_a_gantry_tilt(tmp_path: Path) -> None:
    series = tmp_path / "ct"
    series.mkdir()
    for k, values in enumerate(blocks()):
        place = {"ImagePositionPatient": [0.0, 0.6 * k, 3.0 * k]}
        dicom_slice(values, 0.0, **place).save_as(series / f"{k}.dcm", enforce_file_format=True)
    (note,) = findings([Case("ct", series, label="normal")], "note", "gantry tilt")
    assert "by 11.3 degrees" in note.message


def test_sheet_and_pack(tmp_path: Path) -> None:
    cases = volume_cases(tmp_path)
    assert contact_sheet(cases, tmp_path / "sheet.png") == 3
    with pytest.raises(InputError, match="'Case00' is a volume"):
        pack_cases(cases, tmp_path / "packed", 64)


def test_a_failing_volume_names_its_file_and_leaves_nothing(tmp_path: Path) -> None:
    cases = volume_cases(tmp_path)
    (tmp_path / "Case01.raw").write_bytes(b"short")
    with pytest.raises(InputError, match=r"Case01\.mhd: is cut off"):
        prepare_store(cases, PREPROCESS, tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def test_real_promise12_in_the_store(data_root: Path, tmp_path: Path) -> None:
    cases = [
        case
        for case in create_dataset("promise12", data_root / "promise12")
        if case.id in ("Case13", "Case27")
    ]
    preprocess = Preprocess(size=(64, 64), channels=1, intensity=MR)
    store = prepare_store(cases, preprocess, tmp_path)
    for case in cases:
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(case.masks[0])))
        shares = [store.mask(row).mean() for row in store.rows(case.id)]
        assert np.allclose(shares, truth.mean(axis=(1, 2)), atol=0.01)
    assert open_case(cases[0]).spacing_mm is None


def test_real_spleen_window(data_root: Path, tmp_path: Path) -> None:
    (case,) = create_dataset("decathlon", data_root / "spleen")
    store = prepare_store([case], Preprocess(size=(64, 64), intensity=CT), tmp_path)
    assert len(store) == 32
    spleen = np.concatenate([store.image(row)[..., 0][store.mask(row) > 0] for row in range(32)])
    stored = nibabel.load(case.image)
    values, mask = np.asarray(stored.dataobj), np.asarray(nibabel.load(case.masks[0]).dataobj)
    assert np.median(spleen) == pytest.approx((np.median(values[mask > 0]) + 160) / 400 * 255, abs=3)


def test_labels_that_become_one_structure_unasked_are_told(tmp_path: Path) -> None:
    write_itk(tmp_path / "v.nii.gz", blocks())
    labels = organ().astype(np.uint8)
    labels[labels > 0] = 1
    labels[2, 3, 4], labels[0, 0, 0] = 2, 7
    write_itk(tmp_path / "m.nii.gz", labels)
    case = Case("a", tmp_path / "v.nii.gz", (tmp_path / "m.nii.gz",))
    told = [finding for finding in check_cases([case]) if "become one structure" in finding.message]
    assert [(finding.level, finding.cases) for finding in told] == [("warning", ("a",))]
    assert "hold the labels 1, 2, 7" in told[0].message
    for named in ({"foreground": (1, 2, 7)}, {"classes": parse_classes({"a": 1, "b": 2, "c": 7})}):
        assert not [f for f in check_cases([replace(case, **named)]) if "become one" in f.message]
