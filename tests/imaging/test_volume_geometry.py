"""Where voxels lie: compared between image and mask, kept in written masks, sheared by a gantry tilt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging.nifti import _geometry as geometry_of
from segdistill.imaging.nifti import _grid as grid_of
from segdistill.imaging.nifti import save_nifti
from segdistill.imaging.read_volume import read_volume, read_volume_mask
from segdistill.imaging.volume import Geometry, Misfit, Noticed
from tests.imaging.volumes import blocks, organ, write_itk, write_series

SCANNER = np.array([[-0.7, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
TEMPLATE = np.array([[0.7, 0, 0, 1], [0, 0.8, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])


def turn(degrees: float) -> np.ndarray:
    """About the axis from head to feet."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def nifti(
    path: Path,
    array: np.ndarray,
    sform: np.ndarray | None,
    qform: np.ndarray | None = None,
    codes: tuple[int, int] = (1, 1),
    kind: type = nibabel.Nifti1Image,
    unit: str = "mm",
) -> Path:
    """(D, H, W) as NIfTI; `codes` are of the qform and the sform."""
    image = kind(array.transpose(2, 1, 0), None)
    image.header.set_xyzt_units(unit)
    image.header.set_zooms((0.7, 0.8, 2.5))
    if qform is not None:
        image.header.set_qform(qform, codes[0])
    if sform is not None:
        image.header.set_sform(sform, codes[1])
    nibabel.save(image, path)
    return path


def misfit(image: Path, mask: Path) -> Misfit | None:
    found = Noticed()
    read_volume_mask([mask], read_volume(image, turn=False), noticed=found)
    return found.misfits[0] if found.misfits else None


ITK = {"spacing": (0.7, 0.8, 2.5), "origin": (-10.0, -20.0, 5.0)}
ENDINGS = [".nii.gz", ".mha", ".nrrd"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(
    ("share", "accepted"), [(0.9e-3, True), (1.1e-3, False), (-0.9e-3, True), (0.5, False)]
)
def test_an_origin_may_differ_by_a_thousandth_of_a_voxel(
    tmp_path: Path, ending: str, axis: int, share: float, accepted: bool
) -> None:
    image = write_itk(tmp_path / f"i{ending}", blocks(), **ITK)
    origin = np.array(ITK["origin"])
    origin[axis] += share * ITK["spacing"][axis]
    mask = write_itk(tmp_path / f"m{ending}", organ(), ITK["spacing"], origin=tuple(origin))
    if not accepted:
        with pytest.raises(InputError, match=r"i\..*have an origin of -10 -20 5 against .* mm apart"):
            misfit(image, mask)
        return
    found = misfit(image, mask)
    assert found is not None
    assert found.what == "rounding"
    assert found.voxels == pytest.approx(abs(share), rel=0.02)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("factor", "accepted"), [(1 + 2e-5, True), (1 - 9e-4, False), (1.01, False)])
def test_a_spacing_may_differ_by_a_thousandth(
    tmp_path: Path, ending: str, factor: float, accepted: bool
) -> None:
    image = write_itk(tmp_path / f"i{ending}", blocks(), **ITK)
    for axis in range(3):
        spacing = np.array(ITK["spacing"])
        spacing[axis] *= factor
        mask = write_itk(tmp_path / f"m{ending}", organ(), tuple(spacing), origin=ITK["origin"])
        if accepted:
            found = misfit(image, mask)
            assert found is not None
            assert found.what == "rounding"
        else:
            with pytest.raises(InputError, match=r"have a spacing of .* against .* mm"):
                misfit(image, mask)


def test_small_differences_of_spacing_add_up() -> None:
    long = Geometry((3, 512, 512), (3.0, 0.7, 0.7), origin=(1.0, 2.0, 3.0))
    other = Geometry((3, 512, 512), (3.0, 0.7, 0.70035), origin=(1.0, 2.0, 3.0))
    assert (
        long.differs(other)
        == "a spacing of 3 x 0.7 x 0.7 against 3 x 0.7 x 0.70035 mm (by up to 0.26 voxels)"
    )
    near = Geometry((3, 512, 512), (3.0, 0.7, 0.700001), origin=(1.0, 2.0, 3.0))
    assert long.differs(near) == ""
    assert long.offset(near) == pytest.approx(511 / 7e5, rel=1e-3)
    both = Geometry((3, 512, 512), (3.0, 0.7, 0.700001), origin=(1.0005, 2.0, 3.0))
    assert long.differs(both) == "a spacing, orientation or origin (by up to 0.0014 voxels)"


def oblique(number: int, origin: float = 300.0) -> np.ndarray:
    """The affine of a CT of 0.7 x 0.7 x 1 mm; every third is turned by nearly half a turn."""
    rng = np.random.default_rng(number)
    half = turn(180 + 0.02 * rng.normal() if number % 3 == 0 else rng.uniform(1, 150))
    matrix = turn(20)[[2, 0, 1, 3]][:, [2, 0, 1, 3]] @ half @ np.diag([0.7, 0.7, 1, 1])
    matrix[:3, 3] = rng.uniform(-origin, origin, 3)
    return matrix


@pytest.mark.parametrize("number", range(12))
def test_what_rounding_of_headers_explains_is_accepted(number: int) -> None:
    """A CT of 512 x 512 x 300 voxels: a matrix is exact enough; a quaternion may turn by what it cannot hold."""
    affine, shape = oblique(number), (300, 512, 512)
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape[::-1])
    header.set_sform(affine, 1)
    exact = grid_of(affine, shape, True)
    by_matrix = geometry_of(header, shape)[0]
    assert by_matrix.rounding == 0
    assert exact.offset(by_matrix) < 1e-4
    assert exact.differs(by_matrix) == ""
    header.set_sform(None, 0)
    header.set_qform(affine, 1)
    by_quaternion = geometry_of(header, shape)[0]
    assert exact.differs(by_quaternion) == by_quaternion.differs(exact) == ""
    assert exact.offset(by_quaternion) <= max(by_quaternion.rounding, 1e-3) < 0.9
    if number % 3:
        assert by_quaternion.rounding < 0.02
    beside = replace(by_quaternion, origin=tuple(np.add(by_quaternion.origin, 0.0015)))
    assert "an origin of" in exact.differs(beside)
    wide = replace(by_quaternion, step_mm=tuple(np.multiply(by_quaternion.step_mm, 1 + 1e-5)))
    assert "a spacing of" in exact.differs(wide)


@pytest.mark.parametrize(
    ("degrees", "accepted"), [(0.001, True), (0.01, False), (0.2, False), (5, False), (90, False)]
)
def test_an_orientation_may_hardly_differ(tmp_path: Path, degrees: float, accepted: bool) -> None:
    image = nifti(tmp_path / "i.nii", blocks((5, 12, 12)), SCANNER)
    turned = turn(degrees) @ SCANNER
    turned[:3, 3] = SCANNER[:3, 3]
    mask = nifti(tmp_path / "m.nii", organ((5, 12, 12)), turned)
    if accepted:
        found = misfit(image, mask)
        assert found is not None
        assert found.what == "rounding"
    else:
        with pytest.raises(
            InputError, match=r"an orientation (that differs by 0.(01|2) degrees|of SPL against S|that)"
        ):
            misfit(image, mask)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_lost_origin_is_told(tmp_path: Path, ending: str) -> None:
    image = write_itk(tmp_path / f"i{ending}", blocks(), **ITK)
    lost = write_itk(tmp_path / f"m{ending}", organ(), ITK["spacing"], origin=(0.0, 0.0, 0.0))
    for one, other in ((image, lost), (lost, write_itk(tmp_path / f"n{ending}", organ(), **ITK))):
        found = misfit(one, other)
        assert found is not None
        assert found.what == "origin"
        assert "-10 -20 5" in found.words
    assert misfit(lost, lost) is None


def test_a_mask_may_lie_on_either_transform_of_its_image(tmp_path: Path) -> None:
    image = nifti(tmp_path / "i.nii", blocks(), TEMPLATE, SCANNER, (1, 2))
    assert np.allclose(nibabel.load(image).affine, TEMPLATE)
    away = SCANNER.copy()
    away[2, 3] += 30
    for name, sform, qform in (
        ("a", TEMPLATE, None),
        ("b", None, SCANNER),
        ("c", SCANNER, SCANNER),
        ("d", TEMPLATE, SCANNER),
    ):
        assert misfit(image, nifti(tmp_path / f"{name}.nii", organ(), sform, qform)) is None
    with pytest.raises(InputError, match="does not lie on its image"):
        misfit(image, nifti(tmp_path / "e.nii", organ(), away, SCANNER))
    found = misfit(image, nifti(tmp_path / "f.nii", organ(), TEMPLATE, away))
    assert found is not None
    assert found.what == "transform"
    assert "qform" in found.words


def test_without_any_transform_the_voxel_sizes_count(tmp_path: Path) -> None:
    image = nifti(tmp_path / "i.nii", blocks(), None)
    base = nibabel.load(image).header.get_base_affine()
    assert misfit(image, nifti(tmp_path / "m.nii", organ(), None)) is None
    assert misfit(image, nifti(tmp_path / "n.nii", organ(), base)) is None
    moved = base.copy()
    moved[0, 3] += 30
    found = misfit(image, nifti(tmp_path / "o.nii", organ(), moved))
    assert found is not None
    assert found.what == "origin"


@pytest.mark.parametrize("codes", [(1, 2), (1, 1), (0, 2), (1, 0), (4, 3), (2, 5), (0, 0)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("unit", ["mm", "micron", "unknown"])
def test_a_written_mask_carries_both_transforms(
    tmp_path: Path, codes: tuple[int, int], kind: type, unit: str
) -> None:
    image = nifti(tmp_path / "i.nii.gz", blocks(), TEMPLATE, SCANNER, codes, kind, unit)
    save_nifti(organ(), read_volume(image, turn=False), tmp_path / "m.nii.gz")
    before, after = nibabel.load(image), nibabel.load(tmp_path / "m.nii.gz")
    for field in (
        "qform_code",
        "sform_code",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "qoffset_y",
        "qoffset_z",
        "xyzt_units",
    ):
        assert np.array_equal(after.header[field], before.header[field]), field
    assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == codes
    assert np.array_equal(after.header["pixdim"][:4], before.header["pixdim"][:4])
    assert np.array_equal(after.affine, before.affine)
    assert type(after) is kind
    assert np.array_equal(np.asarray(after.dataobj).transpose(2, 1, 0), organ())
    assert np.array_equal(
        read_volume_mask([tmp_path / "m.nii.gz"], read_volume(image, turn=False)), organ() > 0
    )
    assert misfit(image, tmp_path / "m.nii.gz") is None


@pytest.mark.parametrize("mirrored", [False, True])
def test_itk_sees_image_and_mask_in_one_place(tmp_path: Path, mirrored: bool) -> None:
    direction = np.diag([-1.0 if mirrored else 1.0, 1, 1, 1])
    for name, affine in (("straight", SCANNER @ direction), ("oblique", turn(25) @ SCANNER @ direction)):
        image = nifti(tmp_path / f"{name}.nii.gz", blocks(), affine, affine)
        save_nifti(organ(), read_volume(image, turn=False), tmp_path / "m.nii.gz")
        one, other = (sitk.ReadImage(str(path)) for path in (image, tmp_path / "m.nii.gz"))
        assert one.GetOrigin() == other.GetOrigin()
        assert one.GetSpacing() == other.GetSpacing()
        assert one.GetDirection() == other.GetDirection()


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".mhd"])
def test_masks_of_other_formats_lie_on_their_image(tmp_path: Path, ending: str) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    for direction in (
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
        (-1, 0, 0, 0, c, -s, 0, s, c),
        (0, -1, 0, 1, 0, 0, 0, 0, -1),
    ):
        image = write_itk(tmp_path / f"i{ending}", blocks(), direction=direction, **ITK)
        save_nifti(organ(), read_volume(image, turn=False), tmp_path / "m.nii.gz")
        one, other = (sitk.ReadImage(str(path)) for path in (image, tmp_path / "m.nii.gz"))
        assert one.GetOrigin() == pytest.approx(other.GetOrigin(), abs=1e-5)
        assert one.GetSpacing() == pytest.approx(other.GetSpacing(), abs=1e-6)
        assert one.GetDirection() == pytest.approx(other.GetDirection(), abs=1e-6)


def tilted(folder: Path, degrees: float, aside: tuple[float, float] = (0.0, 3.0)) -> Path:
    """A series of 6 slices turned about the left-right axis; from each to the next by `aside` (y, z)."""
    angle = np.radians(degrees)
    folder.mkdir(parents=True)
    from tests.imaging.volumes import dicom_slice

    for k, values in enumerate(blocks((6, 12, 10))):
        place = [-10.0, 5.0 + aside[0] * k, 20.0 + aside[1] * k]
        dicom_slice(
            values,
            0.0,
            ImagePositionPatient=place,
            ImageOrientationPatient=[1, 0, 0, 0, float(np.cos(angle)), -float(np.sin(angle))],
        ).save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


@pytest.mark.parametrize(
    ("degrees", "aside"), [(20, (0.0, 3.0)), (-15, (0.0, 3.0)), (2, (0.0, 3.0)), (0, (0.6, 3.0))]
)
def test_a_gantry_tilt_shears_the_volume(tmp_path: Path, degrees: float, aside: tuple[float, float]) -> None:
    folder = tilted(tmp_path / "ct", degrees, aside)
    volume = read_volume(folder, turn=False)
    save_nifti(organ((6, 12, 10)), volume, tmp_path / "m.nii.gz")
    written = nibabel.load(tmp_path / "m.nii.gz")
    angle = np.radians(degrees)
    for k, row, column in ((0, 0, 0), (5, 0, 0), (5, 11, 9), (3, 4, 7)):
        expected = [
            -10.0 + 0.5 * column,
            5.0 + aside[0] * k + 0.6 * row * np.cos(angle),
            20.0 + aside[1] * k - 0.6 * row * np.sin(angle),
        ]
        x, y, z = (written.affine @ [column, row, k, 1])[:3]
        assert np.allclose([-x, -y, z], expected, atol=1e-4)
    assert int(written.header["sform_code"]) == 1
    assert int(written.header["qform_code"]) == 0  # a qform cannot shear
    size = abs(np.linalg.det(written.affine[:3, :3]))
    assert volume.spacing is not None
    assert np.prod(volume.spacing) == pytest.approx(size, rel=1e-5)
    assert volume.geometry.tilt == pytest.approx(abs(degrees) or np.degrees(np.arctan(0.2)), abs=1e-4)
    assert np.array_equal(read_volume_mask([tmp_path / "m.nii.gz"], volume), organ((6, 12, 10)) > 0)


def test_a_sheared_nifti_keeps_its_shear(tmp_path: Path) -> None:
    sheared = SCANNER.copy()
    sheared[1, 2] = 0.9
    image = nifti(tmp_path / "i.nii", blocks(), sheared)
    volume = read_volume(image)
    assert volume.spacing is not None
    assert np.prod(volume.spacing) == pytest.approx(0.7 * 0.8 * 2.5, rel=1e-6)
    save_nifti(organ(), read_volume(image, turn=False), tmp_path / "m.nii.gz")
    assert np.array_equal(nibabel.load(tmp_path / "m.nii.gz").affine, nibabel.load(image).affine)


def test_a_straight_series_gets_both_transforms(tmp_path: Path) -> None:
    volume = read_volume(write_series(tmp_path / "s", blocks()), turn=False)
    save_nifti(organ(), volume, tmp_path / "m.nii.gz")
    written = nibabel.load(tmp_path / "m.nii.gz")
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 1)
    assert np.allclose(written.get_qform(), written.get_sform(), atol=1e-5)
    assert volume.geometry.tilt == 0


def test_slices_beside_a_straight_line_are_refused(tmp_path: Path) -> None:
    from tests.imaging.volumes import dicom_slice

    folder = write_series(tmp_path / "s", blocks((6, 4, 4)))
    name = f"IM{(3 * 7) % 6:04}.dcm"
    dicom_slice(blocks((1, 4, 4))[0], 0.0, ImagePositionPatient=[-9.0, 5.0, 29.0]).save_as(
        folder / name, enforce_file_format=True
    )
    with pytest.raises(UnreadableImage, match=rf"{name} lies .* mm beside the straight line"):
        read_volume(folder)


def test_a_dicom_mask_beside_its_image_is_refused(tmp_path: Path) -> None:
    from tests.imaging.volumes import dicom_slice

    image = read_volume(write_series(tmp_path / "image", blocks()), turn=False)

    def mask(name: str, place: list[float]) -> list[Misfit]:
        folder = tmp_path / name
        folder.mkdir()
        dicom_slice(organ()[2], 0.0, ImagePositionPatient=place, series="5.5").save_as(
            folder / "2.dcm", enforce_file_format=True
        )
        found = Noticed()
        assert read_volume_mask([folder], image, noticed=found)[2].any()
        return found.misfits

    assert mask("same", [-10.0, 5.0, 26.0]) == []
    (near,) = mask("near", [-10.0 + 0.9e-3 * 0.5, 5.0, 26.0])
    assert near.voxels == pytest.approx(0.9e-3, rel=1e-3)
    for number, place in enumerate(
        ([-10.0 + 1.1e-3 * 0.5, 5.0, 26.0], [-10.0, 5.6, 26.0], [-10.0, 5.0, 26.01])
    ):
        with pytest.raises(InputError, match=r"2\.dcm lies .* beside those of"):
            mask(f"away{number}", place)


def test_a_negative_spacing_turns_its_axis_as_in_itk(tmp_path: Path) -> None:
    path = write_itk(tmp_path / "a.mha", blocks(), **ITK)
    data = path.read_bytes()
    path.write_bytes(
        data.replace(
            b"ElementSpacing = 0.69999999999999996 0.80000000000000004", b"ElementSpacing = 0.7 -0.8"
        )
    )
    assert path.read_bytes() != data
    volume, image = read_volume(path, turn=False), sitk.ReadImage(str(path))
    assert np.allclose(np.asarray(volume.geometry.axes), np.reshape(image.GetDirection(), (3, 3)).T[::-1])
    assert volume.spacing == pytest.approx(image.GetSpacing()[::-1])


@pytest.mark.parametrize(("number", "plane"), [(0, "axial"), (1, "sagittal"), (2, "coronal")])
def test_the_plane_of_the_slices(number: int, plane: str) -> None:
    axes = np.roll(np.eye(3)[::-1], number, axis=0)
    lying = Geometry((2, 3, 4), (1.0, 1.0, 1.0), tuple(tuple(axis) for axis in axes))  # type: ignore[arg-type]
    assert lying.plane == plane


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_absurd_places_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="cannot be"):
        Geometry((1, 1, 1), (1.0, 1.0, 1.0), origin=(bad, 0.0, 0.0))
    with pytest.raises(InputError, match="cannot be"):
        Geometry((1, 1, 1), (1.0, bad, 1.0))
    with pytest.raises(InputError, match="one plane"):
        Geometry((1, 1, 1), (1.0, 1.0, 1.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.6, 0.8, 0.0)))
