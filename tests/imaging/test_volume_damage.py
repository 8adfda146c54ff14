"""Damaged, cut-off and oversized volumes: one line that names the file, never other voxels."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK as sitk  # noqa: N813

from segdistill.errors import UnreadableImage
from segdistill.imaging import read_volume as module
from segdistill.imaging.limits import dicom_start
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import read_volume, read_volume_mask
from segdistill.imaging.volume import Geometry, Volume, check_size, label_mask
from tests.imaging.volumes import blocks, organ, write_itk, write_series


def refuse(path: Path, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_volume(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def compressed(folder: Path, ending: str) -> tuple[Path, int]:
    """A compressed volume, and where its stream begins."""
    path = write_itk(folder / f"a.{ending}", blocks((6, 14, 16)), compress=True)
    data = path.read_bytes()
    if ending == "mha":
        return path, data.index(b"LOCAL\n") + 6
    return path, data.index(b"\x1f\x8b") if ending == "nrrd" else 0


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_a_flipped_bit_is_never_read_as_other_voxels(tmp_path: Path, ending: str) -> None:
    path, start = compressed(tmp_path, ending)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    whole = zlib.decompressobj(47).decompress(data[start:])
    for _ in range(300):
        changed = bytearray(data)
        changed[int(rng.integers(start, len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        engine = zlib.decompressobj(47)
        try:
            sound = engine.decompress(bytes(changed[start:])) == whole and engine.eof
        except zlib.error:
            sound = False
        if sound:  # a bit that no checksum covers, such as the time in gzip's header
            assert np.array_equal(read_volume(path, turn=False).voxels, blocks((6, 14, 16)))
        else:
            refuse(path, "damaged|cut off|does not belong|do not belong|holds more data|Analyze")


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_the_end_of_a_stream(tmp_path: Path, ending: str) -> None:
    path, start = compressed(tmp_path, ending)
    data = path.read_bytes()
    for missing in range(1, 9 if ending != "mha" else 5):
        path.write_bytes(data[:-missing])
        refuse(path, "checksum at its end is missing")
    path.write_bytes(data + bytes(5000))  # archives fill up with zeros
    assert np.array_equal(read_volume(path, turn=False).voxels, blocks((6, 14, 16)))
    path.write_bytes(data + b"and more")
    refuse(path, "bytes that do not belong to it")
    raw = zlib.decompressobj(47).decompress(data[start:])
    pack: Callable[[bytes], bytes] = zlib.compress if ending == "mha" else gzip.compress
    path.write_bytes(data[:start] + pack(raw + bytes(100)))
    assert np.array_equal(read_volume(path, turn=False).voxels, blocks((6, 14, 16)))
    path.write_bytes(data[:start] + pack(raw + bytes(20_000_000)))
    refuse(path, "holds more data than its header claims")
    path.write_bytes(data[:start] + pack(raw[:-1]))
    refuse(path, rf"cut off: {len(raw) - 1} of {len(raw)} bytes")


def test_several_members_are_all_checked(tmp_path: Path) -> None:
    path, _ = compressed(tmp_path, "nii.gz")
    raw = gzip.decompress(path.read_bytes())
    parts = [gzip.compress(raw[k : k + 1000]) for k in range(0, len(raw), 1000)]
    path.write_bytes(b"".join(parts))
    assert np.array_equal(read_volume(path, turn=False).voxels, blocks((6, 14, 16)))
    for number in (0, 1, len(parts) - 1):
        changed = bytearray(parts[number])
        changed[-6] ^= 1  # of its checksum
        path.write_bytes(b"".join([*parts[:number], bytes(changed), *parts[number + 1 :]]))
        refuse(path, "damaged compressed data")


@pytest.mark.parametrize("field", ["scl_slope", "scl_inter"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number(tmp_path: Path, field: str, value: float) -> None:
    path = write_itk(tmp_path / "a.nii", blocks())
    data = bytearray(path.read_bytes())
    struct.pack_into("<ff", data, 112, 1.0, 0.0)
    struct.pack_into("<f", data, 112 if field == "scl_slope" else 116, value)
    path.write_bytes(data)
    if field == "scl_slope":  # nibabel takes such a slope for none
        assert np.array_equal(read_volume(path, turn=False).voxels, blocks())
    else:
        refuse(path, "scl_slope or scl_inter is no number")


@pytest.mark.parametrize(
    ("offset", "kind", "value"),
    [
        (108, "<f", float("nan")),
        (108, "<f", 1e30),
        (108, "<f", -5.0),
        (40, "<h", -3),
        (40, "<h", 0),
        (42, "<h", -1),
        (70, "<h", 77),
        (256, "<f", float("nan")),
        (280, "<f", float("inf")),
        (344, "<i", 0),
    ],
)
def test_damaged_fields_of_a_nifti_header(tmp_path: Path, offset: int, kind: str, value: float) -> None:
    path = write_itk(tmp_path / "a.nii", blocks())
    data = bytearray(path.read_bytes())
    struct.pack_into("<hh", data, 252, 1, 1)  # both transforms count
    struct.pack_into(kind, data, offset, value)
    path.write_bytes(data)
    if offset == 256:  # the qform beside a good sform
        assert read_volume(path, turn=False).second is None
    else:
        refuse(path, "header|claims")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("x"),
        RecursionError(),
        MemoryError(),
        struct.error("x"),
        zlib.error("x"),
        KeyError("x"),
        AssertionError(),
        EOFError(),
        OSError(5, "Input/output error"),
        NotImplementedError(),
        SyntaxError("x\ny"),
    ],
)
def test_whatever_a_decoder_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> Volume:
        raise error

    monkeypatch.setattr(module, "_reader", lambda path: broken)
    path = write_itk(tmp_path / "a.nii", blocks())
    refuse(path, "cannot be read|does not fit into memory")


def test_limits_count_bytes() -> None:
    assert check_size((2, 3, 4), 8, 192) == (2, 3, 4)
    for itemsize, limit in ((8, 191), (4, 95), (2, 95), (1, 95)):
        with pytest.raises(Exception, match=f"voxels of {itemsize} bytes, more than the {limit} bytes"):
            check_size((2, 3, 4), itemsize, limit)
    with pytest.raises(Exception, match=r"claims 1e\+18 x 1 x 1 voxels"):
        check_size((10**400, 1, 1), 1, 2**31)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell how much memory a process took")
@pytest.mark.parametrize("kind", ["float64", "uint8", "int16 scaled"])
def test_a_small_file_does_not_take_much_memory(tmp_path: Path, kind: str) -> None:
    """Zeros compress a thousand times: 270 MB from 0.3 MB must take no copy of themselves."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind.split()[0])
    header.set_data_shape((512, 512, 128))
    header.set_qform(np.diag([0.8, 0.8, 2, 1]), 1)
    header["vox_offset"] = 352
    if "scaled" in kind:
        header["scl_slope"], header["scl_inter"] = 2, -1
    with gzip.open(tmp_path / "a.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(128):
            file.write(bytes(512 * 512 * header.get_data_dtype().itemsize))
    script = (
        "import resource, sys\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "from segdistill.imaging.read_volume import read_volume\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "volume = read_volume(sys.argv[1])\n"
        "print(volume.voxels.nbytes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.nii.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, taken = map(int, done.stdout.split())
    assert size == 512 * 512 * 128 * {"float64": 8, "uint8": 1, "int16 scaled": 4}[kind]
    assert taken < 1.1 * size + 60e6


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
def test_pipes_and_folders_are_no_volumes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    refuse(tmp_path / "a.nii", "is not a regular file")
    path = write_itk(tmp_path / "b.mhd", blocks())
    (tmp_path / "b.raw").unlink()
    os.mkfifo(tmp_path / "b.raw")
    refuse(path, "voxels are missing")


def test_a_pair_and_analyze_are_called_what_they_are(tmp_path: Path) -> None:
    path = write_itk(tmp_path / "a.nii", blocks())
    data = path.read_bytes()
    path.write_bytes(data[:344] + b"ni1\0" + data[348:])
    refuse(path, "half of a .hdr/.img pair")
    path.write_bytes(data[:344] + bytes(4) + data[348:])
    refuse(path, "Analyze 7.5")


# headers of NRRD and MetaImage


def nrrd(path: Path, extra: str = "", remark: str = "", encoding: str = "gzip", kind: str = "uint8") -> Path:
    """The organ as NRRD; `extra` are further fields, `remark` a key/value pair."""
    lines = [
        "NRRD0004",
        f"type: {kind}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: 10 12 5",
        "space directions: (0.5,0,0) (0,0.6,0) (0,0,3)",
        f"encoding: {encoding}",
        "space origin: (1,2,3)",
        "endian: little",
    ]
    text = "\n".join([*lines, *filter(None, [extra, remark])]) + "\n\n"
    data = organ().astype({"float": "float32"}.get(kind, kind)).tobytes()
    if encoding in ("ascii", "text", "txt"):
        numbers = organ().astype(kind).ravel().tolist()
        data = "\n".join(" ".join(map(str, numbers[k : k + 10])) for k in range(0, len(numbers), 10)).encode()
    pack = {"gzip": gzip.compress, "bzip2": bz2.compress, "bz2": bz2.compress}.get(encoding, bytes)
    path.write_bytes(text.encode() + pack(data))
    return path


@pytest.mark.parametrize("encoding", ["gzip", "raw"])
@pytest.mark.parametrize("structures", [1, 120, 3000])
def test_long_headers(tmp_path: Path, structures: int, encoding: str) -> None:
    tags = "\n".join(f"Segment{n}_Tags:=" + "category~type~region " * 30 for n in range(structures))
    path = nrrd(tmp_path / "a.seg.nrrd", remark=tags, encoding=encoding)
    assert np.array_equal(read_volume(path, turn=False).voxels, organ())
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), organ())
    one_line = nrrd(tmp_path / "b.nrrd", remark="Notes:=" + "x" * 700 * structures, encoding=encoding)
    assert np.array_equal(read_volume(one_line, turn=False).voxels, organ())
    path = write_itk(tmp_path / "c.mha", organ(), compress=True)
    start = path.read_bytes()
    comment = b"Comment = " + b"long = " * 100 * structures + b"\n"
    path.write_bytes(start.replace(b"NDims", comment + b"NDims", 1))
    assert np.array_equal(read_volume(path, turn=False).voxels, organ())


def test_remarks_are_no_fields(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", remark="type:=float\nsizes:=9 9 9\nspace origin:=(7,7,7)")
    assert np.array_equal(read_volume(path, turn=False).voxels, organ())
    assert read_volume(path, turn=False).geometry.origin == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("kind", ["int64", "uint64", "int32"])
def test_long_integers_of_nrrd(tmp_path: Path, kind: str) -> None:
    path = nrrd(tmp_path / "a.nrrd", kind=kind)
    assert np.array_equal(read_volume(path, turn=False).voxels, organ())


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("byte skip: 16", "'byte skip' before its voxels"),
        ("line skip: 1", "'line skip' before its voxels"),
        ("data file: a.raw", "in another file"),
    ],
)
def test_nrrd_fields_that_are_not_followed(tmp_path: Path, extra: str, reason: str) -> None:
    refuse(nrrd(tmp_path / "a.nrrd", extra), reason)


@pytest.mark.parametrize("encoding", ["bzip2", "bz2", "ascii", "text", "txt"])
@pytest.mark.parametrize("kind", ["uint8", "int16", "float", "double"])
def test_other_encodings_of_nrrd(tmp_path: Path, encoding: str, kind: str) -> None:
    path = nrrd(tmp_path / "a.nrrd", encoding=encoding, kind=kind)
    volume = read_volume(path, turn=False)
    assert np.array_equal(volume.voxels, organ())
    if encoding in ("ascii", "text"):
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), organ())
    remark = "Segment0_ID:=a\nSegment0_Name:=liver\nSegment0_LabelValue:=1\nSegment0_Layer:=0"
    if kind == "uint8":
        path = nrrd(tmp_path / "a.seg.nrrd", encoding=encoding, remark=remark)
        assert np.array_equal(read_volume_mask([path], volume), organ() > 0)


def test_damaged_text_of_nrrd(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", encoding="ascii")
    data = path.read_bytes()
    head, numbers = data.split(b"\n\n")
    for content, reason in (
        (numbers[:-2], "is cut off: 599 of 600 numbers are there"),
        (numbers + b" 1", "holds more data than its header claims"),
        (numbers[:-1] + b"x", "what is no number of its type, uint8"),
        (numbers[:-1] + b"0.5", "what is no number of its type, uint8"),
        (numbers[:-1] + b"256", "holds the number 256, and its type goes from 0 to 255"),
        (numbers[:-1] + b"-1", "holds the number -1, and"),
        (b"1" * 200_000, "a number without end"),
        (b"", "is cut off: 0 of 600"),
    ):
        path.write_bytes(head + b"\n\n" + content)
        refuse(path, reason)
    path.write_bytes(data.replace(b"sizes: 10 12 5", b"sizes: 99999 9999 999"))
    refuse(path, "more than the")
    real = nrrd(tmp_path / "b.nrrd", encoding="ascii", kind="float").read_bytes()
    path.write_bytes(real[:-3] + b"nan")
    refuse(path, "NaN or infinite")
    path.write_bytes(real[:-3] + b"1e999")
    refuse(path, "NaN or infinite")


def test_damaged_bzip2_of_nrrd(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", encoding="bzip2")
    data = path.read_bytes()
    start = data.index(b"BZh")
    path.write_bytes(data[:-8])
    refuse(path, "cut off")
    damaged = bytearray(data)
    damaged[start + 12] ^= 255
    path.write_bytes(bytes(damaged))
    refuse(path, "damaged compressed data")
    path.write_bytes(data + b"more of it")
    refuse(path, "followed by bytes that do not belong")
    path.write_bytes(data[:start] + bz2.compress(bytes(1 << 26)))  # a bomb
    refuse(path, "holds more data than its header claims")
    halves = [bz2.compress(half) for half in (organ().tobytes()[:300], organ().tobytes()[300:])]
    path.write_bytes(data[:start] + b"".join(halves) + bytes(512))  # members, and what archives fill up with
    assert np.array_equal(read_volume(path, turn=False).voxels, organ())
    rng = np.random.default_rng(0).integers(0, 9, (40, 90, 90)).astype(np.uint8)  # more than a part
    large = data[:start].replace(b"sizes: 10 12 5", b"sizes: 90 90 40") + bz2.compress(rng.tobytes())
    path.write_bytes(large)
    assert np.array_equal(read_volume(path, turn=False).voxels, rng)


def test_nrrd_reasons(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"encoding: gzip", b"encoding: hex"))
    refuse(path, "encoding 'hex', which is not read: save them raw, gzip, bzip2 or as text")
    path.write_bytes(data.replace(b"type: uint8", b"type: block"))
    refuse(path, "type 'block', which is not read")
    path.write_bytes(data.split(b"\n\n")[0] + b"\n")
    refuse(path, "header without voxels behind it")


# masks


def labels(array: np.ndarray, classes: int = 0) -> np.ndarray:
    geometry = Geometry(array.shape, (1.0, 1.0, 1.0))  # type: ignore[arg-type]
    return label_mask(Volume(array, None, Path("m.nii"), geometry), classes)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("label", [1, 2, 7, 200])
def test_nearly_whole_labels(kind: type, label: int) -> None:
    rng = np.random.default_rng(0)
    for beside in (0.9e-3, -0.9e-3, 1e-4, -1e-4):
        array = (organ() * label).astype(kind) + (rng.random(organ().shape) < 0.5) * kind(beside)
        assert np.array_equal(labels(array), organ() > 0)
        assert np.array_equal(labels(array, classes=label + 1), organ() > 0)
    for beside in (1.1e-3, -1.1e-3, 0.5, 0.01):
        with pytest.raises(Exception, match="holds fractions, such as"):
            labels((organ() * label).astype(kind) + organ() * kind(beside))
    assert np.array_equal(labels(organ() * kind(254.9995), classes=2), organ() > 0)


def test_a_scaled_label_map(tmp_path: Path) -> None:
    """A slope of 1/255 makes labels that are not quite whole."""
    path = write_itk(tmp_path / "m.nii", organ() * 255)
    data = bytearray(path.read_bytes())
    struct.pack_into("<ff", data, 112, 1 / 255.02, 0.0)
    path.write_bytes(data)
    image = read_volume(write_itk(tmp_path / "i.nii", blocks()), turn=False)
    assert np.array_equal(read_volume_mask([path], image), organ() > 0)


# DICOM


def bare(name: str, folder: Path, meta: bool = False, start: bytes = b"") -> Path:
    """One of pydicom's files with `start` for the preamble, and with `meta` False without the group that follows it."""
    source = Path(pydicom.data.get_testdata_file(name, download=False))
    data = source.read_bytes()
    assert data[128:132] == b"DICM"
    begin = 132
    if not meta:
        begin += 12 + int(pydicom.dcmread(source).file_meta.FileMetaInformationGroupLength)
    target = folder / f"{source.stem}-{meta}.dcm"
    target.write_bytes(start + data[begin:])
    return target


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("start", [b"", b"DICM", bytes(128)])
@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"]
)
def test_dicom_without_preamble(tmp_path: Path, name: str, meta: bool, start: bytes) -> None:
    path = bare(name, tmp_path, meta, start)
    whole = Path(pydicom.data.get_testdata_file(name, download=False))
    assert np.array_equal(read_picture(path).pixels, read_picture(whole).pixels)
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "no-suffix").write_bytes(path.read_bytes())
    volume = read_volume(folder)
    source = pydicom.dcmread(whole)
    expected = source.pixel_array * float(source.get("RescaleSlope", 1)) + float(
        source.get("RescaleIntercept", 0)
    )
    assert np.array_equal(volume.voxels[0], expected)


def test_dicom_without_preamble_and_compressed(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="no transfer syntax that names the compression"):
        read_picture(bare("JPEG2000.dcm", tmp_path))
    assert read_picture(bare("JPEG2000.dcm", tmp_path, meta=True)).pixels.any()


def test_a_deflated_file_is_refused_with_and_without_preamble(tmp_path: Path) -> None:
    source = Path(pydicom.data.get_testdata_file("image_dfl.dcm", download=False))
    (tmp_path / "a.dcm").write_bytes(source.read_bytes()[132:])
    for path in (source, tmp_path / "a.dcm"):
        with pytest.raises(UnreadableImage, match="Deflated"):
            read_picture(path)


def test_what_is_no_dicom(tmp_path: Path) -> None:
    for start in (
        b"",
        b"\x08\x00",
        b"\x08\x00\x05\x00CS",
        b"hello world" * 20,
        bytes(200),
        b"\x00\x08\x00\x05\xff\xff\xff\xff",
    ):
        assert dicom_start(start) == (0 if start == b"\x08\x00\x05\x00CS" else None)
    folder = write_series(tmp_path / "s", blocks())
    (folder / "IM0000.dcm").write_bytes(b"hello world" * 20)
    refuse(folder, "IM0000.dcm: is not a DICOM file")


def test_a_single_slice_without_thickness_has_no_known_size(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", blocks((1, 12, 10)))
    assert read_volume(folder).spacing == (3.0, 0.6, 0.5)
    write_series(folder, blocks((1, 12, 10)), SliceThickness=None)
    assert read_volume(folder).spacing is None
