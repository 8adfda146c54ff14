"""Cases of several channels: tables, data sets, decoding, the store and its views, against nibabel and Pillow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from segdistill.data.augment import Augment
from segdistill.data.case import Case, content_key, with_channels
from segdistill.data.check import run_check
from segdistill.data.datasets import create_dataset
from segdistill.data.formats import export_cases
from segdistill.data.opened import open_case
from segdistill.data.plan import plan_volumes
from segdistill.data.store import prepare_store
from segdistill.data.table import read_cases, write_cases
from segdistill.data.views import Views, VolumeViews
from segdistill.errors import InputError
from segdistill.imaging.grid import VolumePreprocess
from segdistill.imaging.intensity import CT, MR
from segdistill.imaging.preprocess import Preprocess
from segdistill.imaging.read_volume import read_volume
from tests.data.channels import NAMES, inverse, pictures, task, volumes


def as_shown(path: Path) -> np.ndarray:
    """(D, H, W) of a hippocampus file by nibabel alone: closest to LPS, slices first."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return np.asarray(image.dataobj)[::-1, ::-1].transpose(2, 1, 0)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(np.clip((values - low) / (high - low) * 255.0, 0, 255) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("layout", ["nnunet", "msd"])
def test_volumes_of_both_layouts_are_what_nibabel_reads(data_root: Path, tmp_path: Path, layout: str) -> None:
    cases = create_dataset("decathlon", volumes(data_root, tmp_path / "task", 2, layout))
    assert [case.channel_names for case in cases] == [NAMES, NAMES]
    write_cases(cases, tmp_path / "cases.csv")
    cases = read_cases(tmp_path / "cases.csv")
    opened = open_case(cases[0], (None, MR))
    values = as_shown(task(data_root) / "imagesTr" / f"{cases[0].id}.nii.gz").astype(np.int32).astype(float)
    second = inverse(values).astype(float)
    wanted = [
        scaled(values, values.min(), values.max()),
        scaled(second, second.mean() - 3 * second.std(), second.mean() + 5 * second.std()),
    ]
    found = opened.levels()
    assert np.array_equal(found[..., 0], wanted[0])
    assert np.abs(found[..., 1].astype(int) - wanted[1]).max() <= 1  # sums in another order
    assert np.mean(found[..., 1] != wanted[1]) < 1e-3
    assert np.array_equal(opened.shown(3), wanted[0][3])
    labels = as_shown(task(data_root) / "labelsTr" / f"{cases[0].id}.nii.gz")
    assert np.array_equal(opened.reference, labels)
    assert not run_check(cases).errors


def test_a_prepared_volume_and_its_patch_hold_both_channels(data_root: Path, tmp_path: Path) -> None:
    cases = create_dataset("decathlon", volumes(data_root, tmp_path / "task", 2, "msd"))
    mean, std = zip(CT.network_scale(), MR.network_scale(), strict=True)
    preprocess = VolumePreprocess((24, 24, 24), (2.0, 1.0, 1.0), 2, mean, std, (CT, MR), channel_names=NAMES)
    store = prepare_store(cases, preprocess, tmp_path / "store")
    again = prepare_store(cases, preprocess, tmp_path / "store")
    alone = [
        VolumePreprocess((24, 24, 24), (2.0, 1.0, 1.0), 1, (m,), (s,), each)
        for m, s, each in zip(mean, std, (CT, MR), strict=True)
    ]
    for row, case in enumerate(cases):
        parts = [replace(case, channels=(channel,)) for channel in case.channels]
        for c, (part, single) in enumerate(zip(parts, alone, strict=True)):
            own = prepare_store([part], single, tmp_path / "store")
            assert np.array_equal(store.image(row)[..., c], own.image(0))
            assert np.array_equal(again.image(row)[..., c], own.image(0))
            normal = preprocess.normalise(store.image(row))[c]
            assert np.array_equal(normal, single.normalise(own.image(0))[0])
    turned = Augment(rotate=20, scale=0.2, flip_horizontal=0.5)
    views = VolumeViews(store, store.ids, preprocess, turned, seed=3)
    own = prepare_store([replace(cases[0], channels=cases[0].channels[:1])], alone[0], tmp_path / "store")
    single_views = VolumeViews(own, own.ids, alone[0], turned, seed=3)
    image, mask = views.pixels(0, 5)
    first, same = single_views.pixels(0, 5)
    assert image.shape == (24, 24, 24, 2)
    assert np.array_equal(image[..., 0], first)
    assert np.array_equal(mask, same)
    assert views.arrays([0, 1], 0)[0].shape == (2, 2, 24, 24, 24)
    coloured = VolumeViews(store, store.ids, preprocess, Augment(brightness=0.3, noise=0.1), seed=3)
    assert np.array_equal(
        coloured.pixels(0, 1)[1], VolumeViews(store, store.ids, preprocess, seed=3).pixels(0, 1)[1]
    )


def test_pictures_of_two_channels(data_root: Path, tmp_path: Path) -> None:
    cases = read_cases(pictures(data_root, tmp_path / "data"))
    opened = open_case(cases[0])
    grey = np.asarray(Image.open(tmp_path / "data" / "0_us.png"))
    assert np.array_equal(opened.pixels(0), np.stack([grey, 255 - grey], axis=-1))
    preprocess = Preprocess((32, 48), channels=2, channel_names=("us", "negative"))
    store = prepare_store(cases, preprocess, tmp_path / "store")
    small = np.asarray(Image.fromarray(grey).resize((48, 32), Image.Resampling.BILINEAR))
    assert store.image(0).shape == (32, 48, 2)
    assert np.array_equal(store.image(0)[..., 0], small)
    views = Views(
        store, store.cases, preprocess, Augment(flip_horizontal=0.5, rotate=10, brightness=0.1, noise=0.1)
    )
    images, masks = views.arrays([0, 1, 2], 4)
    assert images.shape == (3, 2, 32, 48)
    assert masks.shape == (3, 32, 48)
    mirrored = Views(store, store.cases, preprocess, Augment(flip_horizontal=1.0)).pixels(0, 0)
    assert np.array_equal(mirrored[0], store.image(0)[:, ::-1])
    assert not run_check(cases).errors
    other = replace(cases[0], channels=cases[0].channels[::-1])
    assert content_key(other) != content_key(cases[0])


def test_export_to_nnunet_and_back(data_root: Path, tmp_path: Path) -> None:
    cases = create_dataset("decathlon", volumes(data_root, tmp_path / "task", 2, "msd"))
    assert export_cases("nnunet", cases, tmp_path / "out") == []
    stated = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert stated["channel_names"] == {"0": "T1", "1": "inverse"}
    back = create_dataset("decathlon", tmp_path / "out")
    for one, other in zip(cases, back, strict=True):
        here, there = open_case(one, MR), open_case(other, MR)
        assert np.array_equal(here.levels(), there.levels())
        assert np.array_equal(here.reference, there.reference)
    with pytest.raises(InputError, match=r"2 channels \(T1, inverse\), and seg_nrrd holds one image"):
        export_cases("seg_nrrd", cases, tmp_path / "no")
    export_cases("nnunet", read_cases(pictures(data_root, tmp_path / "data")), tmp_path / "flat")
    flat = create_dataset("decathlon", tmp_path / "flat")
    assert flat[0].channel_names == ("us", "negative")
    grey = np.asarray(Image.open(tmp_path / "data" / "0_us.png"))
    assert np.array_equal(open_case(flat[0]).pixels(0)[..., 1], 255 - grey)


def test_the_name_of_one_channel_is_kept(tmp_path: Path) -> None:
    """From dataset.json into the table, the plan and every format that has a place for it."""
    root = tmp_path / "task"
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
        image = nibabel.Nifti1Image(np.arange(240, dtype=np.int16).reshape(6, 8, 5) % 3, np.eye(4))
        nibabel.save(image, root / part / "a.nii.gz")
    stated = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ", "2": "tumour"}}
    (root / "dataset.json").write_text(json.dumps(stated))
    (case,) = create_dataset("decathlon", root)
    assert (case.only_channel, case.channel_names, case.image_channels[0].part) == ("CT", (), 0)
    write_cases([case], tmp_path / "cases.csv")
    assert "CT=" in (tmp_path / "cases.csv").read_text()
    (read,) = read_cases(tmp_path / "cases.csv")
    assert read.only_channel == "CT"
    assert content_key(read) == content_key(replace(read, channels=()))  # a name changes no pixel
    assert list(plan_volumes([read]).channels) == ["CT"]
    for name in ("nnunet", "msd", "seg_nrrd"):
        export_cases(name, [read], tmp_path / name)
        place = tmp_path / name / "cases.csv"
        (back,) = read_cases(place) if place.is_file() else create_dataset("decathlon", place.parent)
        assert back.only_channel == "CT"
        assert back.image.is_relative_to(tmp_path / name)
        assert np.array_equal(open_case(back, CT).levels(), open_case(read, CT).levels())
    (root / "dataset.json").write_text(json.dumps(stated | {"modality": {"0": "image"}}))
    assert create_dataset("decathlon", root)[0].channels == ()


@pytest.mark.parametrize("layout", ["nnunet", "msd"])
def test_export_to_the_decathlon_is_of_four_dimensions(data_root: Path, tmp_path: Path, layout: str) -> None:
    cases = create_dataset("decathlon", volumes(data_root, tmp_path / "task", 2, layout))
    assert export_cases("msd", cases, tmp_path / "out") == []
    stated = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (stated["modality"], stated["tensorImageSize"]) == ({"0": "T1", "1": "inverse"}, "4D")
    written = sorted((tmp_path / "out" / "imagesTr").iterdir())
    assert [path.name for path in written] == [f"{case.id}.nii.gz" for case in cases]
    back = create_dataset("decathlon", tmp_path / "out")
    assert back[0].channel_names == NAMES
    for path, one, other in zip(written, cases, back, strict=True):
        image = nibabel.load(path)
        for k, channel in enumerate(one.channels):
            volume = read_volume(channel.path, turn=False, part=channel.part)
            assert np.array_equal(np.asarray(image.dataobj)[..., k].transpose(), volume.voxels)
            assert np.array_equal(
                read_volume(other.channels[k].path, turn=False, part=k + 1).voxels, volume.voxels
            )
        assert np.array_equal(open_case(one).reference, open_case(other).reference)


def test_the_plan_tells_each_channel(data_root: Path, tmp_path: Path) -> None:
    cases = create_dataset("decathlon", volumes(data_root, tmp_path / "task", 3))
    plan = plan_volumes(cases)
    assert set(plan.channels) == set(NAMES)
    assert plan.channels["T1"] == plan.levels
    plain = plan_volumes([replace(case, channels=()) for case in cases])
    assert (plain.spacing, plain.patch, plain.levels) == (plan.spacing, plan.patch, plan.levels)
    assert plain.channels == {}


def test_bad_channels_are_one_line_each(data_root: Path, tmp_path: Path) -> None:
    root = volumes(data_root, tmp_path / "task", 3)
    first, second, third = create_dataset("decathlon", root)
    moved = nibabel.load(second.channels[1].path)
    affine = moved.affine.copy()
    affine[0, 3] += 0.0005
    nibabel.save(nibabel.Nifti1Image(np.asarray(moved.dataobj), affine), second.channels[1].path)
    far = nibabel.load(third.channels[1].path)
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(far.dataobj), far.affine + np.eye(4) * 0.5), third.channels[1].path
    )
    found = run_check([first, second, third])
    (error,) = found.errors
    assert error.cases == (third.id,)
    assert "the channel inverse does not lie on the grid of T1" in error.message
    (told,) = [each for each in found.findings if "beside the first" in each.message]
    assert told.cases == (second.id,)
    assert told.level == "note"
    second.channels[1].path.unlink()
    with pytest.raises(
        InputError, match=f"'{second.id}' lacks the channel inverse: .*{second.id}_0001.nii.gz is not"
    ):
        create_dataset("decathlon", root)
    assert any(
        f"{second.id}_0001.nii.gz: no such file" in each.message for each in run_check([second]).errors
    )


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["a,x=1.png;y=2.png", "b,x=1.png"], r"'a' and 'b' have different channels \(x, y; one image\)"),
        (["a,x=1.png;y=2.png", "b,x=1.png;z=2.png"], r"different channels \(x, y; x, z\)"),
        (["a,x=1.png;2.png"], "'x=' names the channel of a file, but not all have one"),
        (["a,x=1.png;x=2.png"], "names the channel x twice"),
        (["a,x=1.png;y="], "'y=' names a channel without its file"),
        (["a,;"], "';' names no file"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, rows: list[str], reason: str) -> None:
    (tmp_path / "cases.csv").write_text("\n".join(["id,image", *rows]))
    with pytest.raises(InputError, match=reason):
        read_cases(tmp_path / "cases.csv")


def test_tables_name_channels_in_any_order_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("id,image\na,x=1.png;y=2.png\nb,y=3.png;x=4.png\n")
    cases = read_cases(tmp_path / "cases.csv")
    assert [[each.path.name for each in case.channels] for case in cases] == [
        ["1.png", "2.png"],
        ["4.png", "3.png"],
    ]
    (tmp_path / "cases.csv").write_text("id,image\na,1.nii;2.nii\nb,c.nii#1;c.nii#2\n")
    cases = read_cases(tmp_path / "cases.csv")
    assert {case.channel_names for case in cases} == {("channel 1", "channel 2")}
    assert [each.part for each in cases[1].channels] == [1, 2]
    named = with_channels(cases[0], ["flair", "t1"])
    assert named.channel_names == ("flair", "t1")
    with pytest.raises(InputError, match="lacks the channel dwi: it has flair, t1"):
        with_channels(named, ["flair", "dwi"])
    with pytest.raises(InputError, match=r"has 2 channels \(flair, t1\), and one image is taken"):
        with_channels(named, [])


def test_pictures_of_different_sizes(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "1.png")
    Image.new("L", (4, 5)).save(tmp_path / "2.png")
    (tmp_path / "cases.csv").write_text("id,image\na,x=1.png;y=2.png\n")
    (case,) = read_cases(tmp_path / "cases.csv")
    assert isinstance(case, Case)
    with pytest.raises(
        InputError, match=r"2.png: the channel y is of 5 x 4 pixels, and x, .*1.png, of 3 x 4"
    ):
        open_case(case)
