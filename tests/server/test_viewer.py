"""The viewer's own decoding, resizing and measuring, run by node, against Pillow, pydicom, nibabel and the runtime."""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from segdistill.imaging.grid import AnyPreprocess, VolumePreprocess, slices_at
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.patches import PatchGrid
from segdistill.imaging.picture import Spacing
from segdistill.imaging.postprocess import Postprocess, resize_probability
from segdistill.imaging.preprocess import Preprocess
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import read_volume
from segdistill.runtime.measure import measure
from segdistill.runtime.predictor import as_turned, slice_levels
from segdistill.server.page import resizes_tall_first
from tests.server.tab import floats

NODE = shutil.which("node")
HERE = Path(__file__).parent
VIEWER = HERE.parents[1] / "src" / "segdistill" / "server" / "viewer"
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed: it runs the viewer's scripts")
RANDOM = np.random.default_rng(5)


def run(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs of viewer.mjs."""
    assert NODE
    command = [NODE, str(HERE / "viewer.mjs"), str(VIEWER)]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def text(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def settings(preprocess: AnyPreprocess) -> dict[str, Any]:
    return preprocess.to_dict() | {"tall_first": resizes_tall_first()}


def inputs_of(paths: list[Path], preprocess: Preprocess) -> list[Any]:
    """Of each file its inputs, or the reason why it cannot be read."""
    found = run([{"file": str(path), "settings": settings(preprocess)} for path in paths])
    return [each.get("error") or [floats(part) for part in each["inputs"]] for each in found]


def assert_equal_inputs(paths: list[Path], preprocess: Preprocess) -> None:
    for path, found in zip(paths, inputs_of(paths, preprocess), strict=True):
        wanted = preprocess.inputs(read_picture(path, intensity=preprocess.intensity).pixels)
        assert isinstance(found, list), f"{path.name}: {found}"
        assert np.array_equal(np.stack(found).reshape(wanted.shape), wanted), path.name


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png(
    path: Path, samples: Any, depth: int, colour: int, *chunks: bytes, interlaced: bool = False
) -> Path:
    """A PNG file of samples (H, W, S) by hand: every depth, every filter in turn, and Adam7."""
    height, width, count = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
    rows = b""
    for top, left, down, across in passes:
        part = samples[top::down, left::across]
        if not part.size:
            continue
        packed = pack(part, depth)
        rows += filtered(packed, max(1, count * depth // 8))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    data = zlib.compress(rows)
    parts = [
        chunk(b"IHDR", header),
        *chunks,
        chunk(b"IDAT", data[:40]),
        chunk(b"IDAT", data[40:]),
        chunk(b"IEND", b""),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def pack(part: Any, depth: int) -> Any:
    flat = part.reshape(len(part), -1)
    if depth == 16:
        return flat.astype(">u2").view(np.uint8)
    if depth == 8:
        return flat.astype(np.uint8)
    bits = ((flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(len(part), -1)
    return np.packbits(bits.astype(np.uint8), axis=1)


def filtered(rows: Any, step: int) -> bytes:
    """Rows of bytes with filters 0 to 4 in turn."""
    out, above = b"", np.zeros(rows.shape[1], int)
    for number, row in enumerate(rows.astype(int)):
        left, corner = np.zeros_like(row), np.zeros_like(row)
        left[step:], corner[step:] = row[:-step], above[:-step]
        kind = number % 5
        guess = [0 * row, left, above, (left + above) // 2, paeth(left, above, corner)][kind]
        out += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
        above = row
    return out


def paeth(a: Any, b: Any, c: Any) -> Any:
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    return np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))


def every_png(folder: Path) -> list[Path]:
    """One of each depth, colour, transparency, interlacing and orientation."""
    paths = []
    for colour, count, depths in (
        (0, 1, (1, 2, 4, 8, 16)),
        (2, 3, (8, 16)),
        (4, 2, (8, 16)),
        (6, 4, (8, 16)),
    ):
        for depth in depths:
            for interlaced in (False, True):
                samples = RANDOM.integers(0, 2**depth, (23, 37, count))
                paths.append(
                    write_png(
                        folder / f"{colour}-{depth}-{interlaced}.png",
                        samples,
                        depth,
                        colour,
                        interlaced=interlaced,
                    )
                )
    palette = RANDOM.integers(0, 256, 48, dtype=np.uint8).tobytes()
    for depth in (1, 2, 4, 8):
        samples = RANDOM.integers(0, min(2**depth, 16), (9, 11, 1))
        plain = [chunk(b"PLTE", palette[: 3 * min(2**depth, 16)])]
        paths.append(write_png(folder / f"palette-{depth}.png", samples, depth, 3, *plain))
        clear = [*plain, chunk(b"tRNS", bytes([0, 128]))]
        paths.append(write_png(folder / f"clear-{depth}.png", samples, depth, 3, *clear))
    drawing = np.zeros((12, 12, 4), int)
    drawing[3:7, 2:9, 3] = 200
    paths.append(write_png(folder / "drawing.png", drawing, 8, 6))
    paths.append(write_png(folder / "dark-12-bit.png", RANDOM.integers(0, 4000, (20, 30, 1)), 16, 0))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        path = folder / f"turn-{turn}.png"
        Image.fromarray(RANDOM.integers(0, 256, (13, 21), dtype=np.uint8)).save(path, exif=exif.tobytes())
        paths.append(path)
    return paths


def test_every_kind_of_png(tmp_path: Path) -> None:
    paths = every_png(tmp_path)
    assert_equal_inputs(paths, Preprocess((16, 24), "rgb", 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert_equal_inputs(paths, Preprocess((40, 31), "grey", 2, (0.5,), (0.25,), Intensity("z_score", -3, 5)))


def test_resizing(tmp_path: Path) -> None:
    jobs: list[dict[str, Any]] = []
    wanted = []
    for height, width in ((200, 100), (100, 200), (7, 5), (333, 97)):
        path = tmp_path / f"{height}.png"
        levels = RANDOM.integers(0, 256, (height, width), dtype=np.uint8)
        Image.fromarray(levels).save(path)
        plane = RANDOM.random((height, width), np.float32)
        job = {"plane": text(plane), "height": height, "width": width, "tall_first": resizes_tall_first()}
        for size in ((50, 26), (50, 25), (64, 64), (300, 20), (1, 1)):
            preprocess = Preprocess(size, channels=1)
            jobs += [{"file": str(path), "settings": settings(preprocess)}, {**job, "to": list(size)}]
            wanted += [preprocess(levels), resize_probability(plane[None], size)]
    for found, known in zip(run(jobs), wanted, strict=True):
        given = found["plane"] if "plane" in found else found["inputs"][0]
        assert np.array_equal(floats(given), known.ravel())


def test_patches(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RANDOM.integers(0, 256, (75, 62, 3), dtype=np.uint8)).save(path)
    assert_equal_inputs([path], Preprocess((32, 32), "grey", 1, patches=PatchGrid(4, 32)))


def test_measurements() -> None:
    masks = [RANDOM.random((40, 30)) < share for share in (0.0, 0.02, 0.3, 0.6, 1.0)]
    masks.append(np.add.outer((np.arange(40) - 20) ** 2, (np.arange(30) - 12) ** 2) < 90)
    spacings = [None, Spacing(0.2, 0.35, "a"), Spacing(0.2, 0.35, "a", (0, 0, 40, 25))]
    pairs = [(mask, spacing) for mask in masks for spacing in spacings]
    jobs = [
        {
            "mask": text(mask.astype(np.uint8)),
            "height": 40,
            "width": 30,
            "spacing": spacing
            and {"row": spacing.row_mm, "column": spacing.column_mm, "region": spacing.region},
        }
        for mask, spacing in pairs
    ]
    for (mask, spacing), found in zip(pairs, run(jobs), strict=True):
        wanted = measure(mask, spacing)
        for name in ("area_px", "long_px", "short_px", "area_mm2", "long_mm", "short_mm"):
            known = getattr(wanted, name)
            assert found[name] == (known if known is None else pytest.approx(known, rel=1e-12)), name


def test_the_mask_is_written_as_it_is() -> None:
    levels = RANDOM.integers(0, 256, (17, 29), dtype=np.uint8)
    found = run([{"levels": text(levels), "height": 17, "width": 29}])[0]
    image = Image.open(io.BytesIO(base64.b64decode(found["png"])))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), levels)


def volumes(folder: Path) -> list[Path]:
    """Volumes of several types, orders of axes and scales."""
    paths = []
    affines = [
        np.diag([0.8, 0.7, 2.5, 1]),
        np.array([[0, -0.5, 0, 3], [0.6, 0, 0, 1], [0, 0, -3, 2], [0, 0, 0, 1.0]]),
        np.array([[0, 0, 2.0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 1]]),
        np.diag([-0.8, -0.7, 2.5, 1]),
    ]
    for number, (affine, kind) in enumerate(
        zip(
            affines * 2,
            ("int16", "float32", "uint8", "uint16", "int32", "float64", "int8", "int64"),
            strict=True,
        )
    ):
        values = RANDOM.integers(0, 100, (9, 7, 5)).astype(kind)
        image = nibabel.Nifti1Image(values, affine, dtype=kind)
        image.header.set_xyzt_units("mm")
        if number == 0:
            image.header.set_slope_inter(0.3, -7)
        if number == 3:
            image.set_sform(None, code=0)
            image.set_qform(affine, code=1)
        paths.append(folder / f"{number}.nii{'.gz' * (number % 2)}")
        nibabel.save(image, paths[-1])
    second = nibabel.Nifti2Image(RANDOM.integers(0, 100, (4, 5, 6)).astype("int16"), affines[1])
    nibabel.save(second, folder / "two.nii.gz")
    return [*paths, folder / "two.nii.gz"]


@pytest.mark.parametrize("intensity", [None, Intensity("z_score", -3, 5), Intensity("window", 10, 60)])
def test_volumes_and_their_masks(tmp_path: Path, intensity: Intensity | None) -> None:
    preprocess = Preprocess((8, 8), channels=1, intensity=intensity)
    paths = volumes(tmp_path)
    jobs, masks = [], []
    for path in paths:
        volume = read_volume(path, turn=False)
        mask = RANDOM.integers(0, 3, volume.voxels.shape).astype(np.uint8)
        masks.append(mask)
        turned = [text(plane) for plane in as_turned(mask, volume)]
        jobs.append({"file": str(path), "settings": settings(preprocess), "masks": turned})
    for path, mask, found in zip(paths, masks, run(jobs), strict=True):
        volume = read_volume(path, turn=False)
        levels = slice_levels(intensity, volume.turned())
        for k, given in enumerate(found["inputs"]):
            assert np.array_equal(floats(given), preprocess.inputs(levels(k)).ravel()), (path.name, k)
        spacing = volume.turned().spacing
        assert found["voxel"] == (None if spacing is None else pytest.approx(spacing))
        saved = tmp_path / "saved.nii.gz"
        saved.write_bytes(base64.b64decode(found["saved"]))
        image, ours = nibabel.load(path), nibabel.load(saved)
        assert np.array_equal(np.asarray(ours.dataobj).T, mask), path.name
        assert np.allclose(ours.affine, image.affine, atol=1e-5), path.name


def stand_in(batch: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """That of viewer.mjs."""
    patch = batch[0, 0]
    index = np.arange(patch.size).reshape(patch.shape)
    out = np.empty((classes, *patch.shape), np.float32)
    out[0] = 1
    for c in range(1, classes):
        out[c] = patch * ((index + c) % 7 / 7).astype(np.float32) / np.float32(classes - 1)
        out[0] -= out[c]
    return out[None]


GRIDS = (
    VolumePreprocess((3, 4, 5)),
    VolumePreprocess((4, 8, 8), (2.0, 1.1, 0.6), mean=(0.1,), std=(0.9,), overlap=0.25),
    VolumePreprocess((12, 6, 6), (1.3, 0.4, 0.9), channels=2, intensity=Intensity("z_score", -2, 2)),
)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("preprocess", GRIDS, ids=["as-stored", "coarser", "finer"])
def test_volumes_on_the_grid_of_a_network(tmp_path: Path, preprocess: VolumePreprocess, classes: int) -> None:
    paths = volumes(tmp_path)
    jobs = [{"file": str(path), "settings": settings(preprocess), "grid": classes} for path in paths]
    names = tuple(f"c{k}" for k in range(classes))
    for path, found in zip(paths, run(jobs), strict=True):
        volume = read_volume(path)
        shape = (volume.voxels.shape[0], volume.voxels.shape[1], volume.voxels.shape[2])
        prepared = preprocess.prepare_slices(
            slice_levels(preprocess.intensity, volume), shape, volume.spacing
        )
        assert tuple(found["shape"]) == prepared.shape, path.name
        levels = np.frombuffer(base64.b64decode(found["levels"]), np.uint8)
        assert np.array_equal(levels, prepared.ravel()), path.name
        probability = preprocess.predict(prepared, lambda batch: stand_in(batch, classes))
        for k, one in enumerate(slices_at(probability, shape)):
            given = floats(found["foreground"][k])
            wanted = Postprocess(0.5, names).foreground(one, (shape[1], shape[2])).ravel()
            assert np.allclose(given, wanted, rtol=0, atol=1e-6), (path.name, k)
            if classes > 2:
                ours = np.frombuffer(base64.b64decode(found["labels"][k]), np.uint8)
                first, second = np.sort(resize_probability(one, (shape[1], shape[2])), axis=0)[::-1][:2]
                decided = (first - second > 1e-5).ravel()
                known = Postprocess(0.5, names).mask(one, (shape[1], shape[2])).ravel()
                assert np.array_equal(ours[decided], known[decided]), (path.name, k)


DICOM = (
    "MR_small.dcm",
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_padded.dcm",
    "SC_rgb_small_odd.dcm",
)


def test_dicom() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    paths = [folder / name for name in DICOM]
    assert_equal_inputs(paths, Preprocess((32, 40), "rgb", 3))


def test_what_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    whole = write_png(tmp_path / "whole.png", RANDOM.integers(0, 256, (20, 20, 1)), 8, 0).read_bytes()
    huge = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    contents = {
        "empty.png": (b"", "is empty"),
        "text.png": (b"hello", "is not a PNG, JPEG, DICOM or NIfTI file"),
        "cut.png": (whole[:-20], "is cut off"),
        "flipped.png": (whole[:60] + bytes([whole[60] ^ 1]) + whole[61:], "a checksum is wrong"),
        "huge.png": (whole[:8] + chunk(b"IHDR", huge) + whole[33:], "claims 60000 x 60000 pixels"),
        "cut.nii.gz": (b"\x1f\x8b\x08" + bytes(40), "damaged compressed data"),
        "cut.dcm": (bytes(128) + b"DICM" + bytes(200), "has a damaged DICOM header"),
    }
    paths = []
    for name, (content, _) in contents.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    reasons = inputs_of(paths, Preprocess((8, 8)))
    for (name, (_, wanted)), reason in zip(contents.items(), reasons, strict=True):
        assert wanted in str(reason), name


def test_real_ultrasound(data_root: Path) -> None:
    folder = data_root / "busi" / "Dataset_BUSI_with_GT"
    if not folder.is_dir():
        pytest.skip(f"no BUSI images in {folder}")
    paths = [path for path in sorted(folder.rglob("*.png")) if "mask" not in path.name][::60]
    assert_equal_inputs(paths, Preprocess((128, 128), channels=1))
