"""Files of several maps: sizes are judged before anything is inflated, and damage is one line."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segdistill.errors import UnreadableImage
from segdistill.imaging.read_volume import nifti_info, read_channels

SOFT = np.random.default_rng(0).random((3, 4, 5, 6)).astype(np.float32)


def array_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def header_of(shape: tuple[int, ...], descr: object = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def write_zip(
    path: Path, content: bytes, name: str = "probabilities.npy", method: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path: Path, save, dtype: str, order: str) -> None:
    array = np.asarray(SOFT.astype(dtype), order=order)
    save(tmp_path / "a.npz", probabilities=array, other=np.zeros(3))
    channels = read_channels(tmp_path / "a.npz")
    assert (channels.count, channels.shape) == (3, (4, 5, 6))
    np.testing.assert_array_equal(np.stack(list(channels.read())), array)
    np.testing.assert_array_equal(np.stack(list(channels.read())), array)  # once more


def test_npz_that_claims_too_much(tmp_path: Path) -> None:
    """Refused from its header: nothing of it is inflated."""
    for shape, message in (
        ((2, 4096, 4096, 4096), "more than the 2147483648 bytes that are allowed"),
        ((900, 500, 500, 500), "claims 900 channels of 125000000 voxels, more than"),
        ((2000, 1, 2, 2), "claims 2000 channels: from 1 to 1024"),
        ((0, 1, 2, 2), "claims 0 channels"),
        ((2, 0, 2, 2), "claims 0 x 2 x 2 voxels"),
        ((2, 2, 2), "holds an array of 2 x 2 x 2: 'probabilities' has four dimensions"),
    ):
        path = write_zip(tmp_path / "a.npz", header_of(shape) + bytes(64))
        with pytest.raises(UnreadableImage, match=message):
            read_channels(path)


def test_npz_whose_sizes_disagree(tmp_path: Path) -> None:
    content = array_bytes(SOFT)
    for wrong in (content + bytes(1 << 16), content[:-4]):
        with pytest.raises(UnreadableImage, match="claims another number"):
            read_channels(write_zip(tmp_path / "a.npz", wrong))
    path = write_zip(
        tmp_path / "a.npz", content + bytes(1 << 20)
    )  # a bomb whose directory claims what is needed
    raw = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", raw, raw.index(signature) + place, len(content))
    path.write_bytes(raw)
    with pytest.raises(UnreadableImage, match=r"cannot be read|damaged"):
        list(read_channels(path).read())


def test_npz_of_another_kind(tmp_path: Path) -> None:
    content = array_bytes(SOFT)
    for path, message in (
        (write_zip(tmp_path / "a.npz", content, "softmax.npy"), "holds softmax, not 'probabilities'"),
        (
            write_zip(tmp_path / "b.npz", content, method=zipfile.ZIP_BZIP2),
            "is encrypted or compressed in a way",
        ),
        (write_zip(tmp_path / "c.npz", b"\x80\x04."), "is no array of NumPy"),
        (
            write_zip(tmp_path / "d.npz", header_of((1, 1, 1, 1), "|O") + bytes(8)),
            "holds values of type object",
        ),
        (
            write_zip(tmp_path / "e.npz", header_of((1, 1, 1, 1), "<i8") + bytes(8)),
            "holds values of type int64",
        ),
    ):
        with pytest.raises(UnreadableImage, match=message):
            read_channels(path)


def test_npz_damage(tmp_path: Path) -> None:
    """Every single byte may be wrong: it is an error for the user, or the values are the same."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, probabilities=SOFT[:2, :1, :3, :3])
    raw = path.read_bytes()
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        with suppress(UnreadableImage):  # anything else fails the test
            found = np.stack(list(read_channels(path).read()))
            np.testing.assert_array_equal(found, SOFT[:2, :1, :3, :3])


@pytest.mark.parametrize("end", ["nii", "nii.gz"])
@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 5, 4, 1, 3)])
def test_nifti(tmp_path: Path, end: str, shape: tuple[int, ...]) -> None:
    path = tmp_path / f"a.{end}"
    nibabel.save(
        nibabel.Nifti1Image(SOFT.transpose(3, 2, 1, 0).reshape(shape), np.diag([-1.0, -2, 3, 1])), path
    )
    channels = read_channels(path)
    assert (channels.count, channels.shape) == (3, (4, 5, 6))
    assert channels.geometry is not None
    assert channels.geometry.step_mm == (3.0, 2.0, 1.0)
    np.testing.assert_array_equal(np.stack(list(channels.read())), SOFT)


@pytest.mark.parametrize("end", ["nii", "nii.gz"])
def test_scaled_nifti(tmp_path: Path, end: str) -> None:
    image = nibabel.Nifti1Image(SOFT.transpose(3, 2, 1, 0), np.eye(4))
    image.set_data_dtype(np.uint8)
    nibabel.save(image, tmp_path / f"a.{end}")
    expected = nibabel.load(tmp_path / f"a.{end}").get_fdata().transpose(3, 2, 1, 0)
    np.testing.assert_allclose(
        np.stack(list(read_channels(tmp_path / f"a.{end}").read())), expected, atol=1e-6
    )


def test_damaged_nifti(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(SOFT.transpose(3, 2, 1, 0), np.eye(4)), path)
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:-40]))
    with pytest.raises(UnreadableImage, match="is cut off"):
        list(read_channels(path).read())
    path = tmp_path / "a.nii"
    path.write_bytes(raw[:-40])
    with pytest.raises(UnreadableImage, match="is cut off"):
        list(read_channels(path).read())
    claims = bytearray(raw)
    struct.pack_into("<8h", claims, 40, 4, 32767, 32767, 4, 3, 1, 1, 1)
    path.write_bytes(claims)
    with pytest.raises(UnreadableImage, match="bytes that are allowed"):
        read_channels(path)
    nibabel.save(nibabel.Nifti1Image(SOFT[0], np.eye(4)), path)
    with pytest.raises(UnreadableImage, match="has 3 dimensions: maps of several classes have four"):
        read_channels(path)


def test_label_table(tmp_path: Path) -> None:
    """Names with signs of XML, in a table of either form; entities are not expanded."""
    text = (
        '<!DOCTYPE a [<!ENTITY b "bbbb">]><LabelTable><Label Key="1" Red="1"><![CDATA[left <lung>]]></Label>'
        '<Label Key="12" Red="0">&b;</Label> <Label Key="x">no</Label></LabelTable>'
    )
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(30, text.encode()))
    nibabel.save(image, tmp_path / "a.nii.gz")
    info = nifti_info(tmp_path / "a.nii.gz")
    assert info.labels == {"left <lung>": 1, "&b;": 12}
    assert info.dimensions == (2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4)), tmp_path / "b.nii")
    assert nifti_info(tmp_path / "b.nii").labels == {}
