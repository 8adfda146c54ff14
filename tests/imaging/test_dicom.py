from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging.dicom import read_spacing
from segdistill.imaging.dicom_series import is_series, read_series
from segdistill.imaging.read import image_size, read_picture
from tests.imaging.volumes import dicom_slice as slice_of_series

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def shipped(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), f"pydicom does not ship {name}"
    return Path(path)


def made(pixels: np.ndarray, **tags: object) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    data.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB" if pixels.dtype == np.uint8 else "OW"
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def write(folder: Path, data: Dataset) -> Path:
    path = folder / "case.dcm"
    data.save_as(path, enforce_file_format=True)
    return path


RAMP = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)


def test_eight_bit_grey_is_kept_and_monochrome1_inverted(tmp_path: Path) -> None:
    path = write(tmp_path, made(RAMP))
    assert np.array_equal(read_picture(path).pixels, RAMP)
    assert image_size(path) == (6, 8)
    inverted = write(tmp_path, made(RAMP, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(read_picture(inverted).pixels, 255 - RAMP)


def test_window_follows_the_standard(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1: centre 40, width 400 -> 0 at or below -160, 255 above 239, linear in between
    values = np.array([[-1000, -160, 39, 40, 239, 1000]], np.int16)
    shown = read_picture(write(tmp_path, made(values, WindowCenter=40, WindowWidth=400))).pixels[0]
    expected = ((values[0] - 39.5) / 399 + 0.5) * 255
    assert np.abs(shown - np.clip(expected, 0, 255)).max() <= 0.5
    rescaled = made((values + 1024).astype(np.uint16), RescaleSlope=1, RescaleIntercept=-1024)
    rescaled.WindowCenter, rescaled.WindowWidth = [40, 300], [400, 1500]
    assert np.array_equal(read_picture(write(tmp_path, rescaled)).pixels[0], shown)
    exact = made(values, WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")
    assert read_picture(write(tmp_path, exact)).pixels[0].tolist() == [0, 0, 127, 128, 254, 255]
    sigmoid = made(values, WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID")
    curve = 255 / (1 + np.exp(-4 * (values[0] - 40.0) / 400))
    assert np.abs(read_picture(write(tmp_path, sigmoid)).pixels[0] - curve).max() <= 0.5 + 1e-6


def test_without_window_the_range_is_stretched() -> None:
    values = pydicom.dcmread(shipped("CT_small.dcm")).pixel_array.astype(float)
    expected = (values - values.min()) / (values.max() - values.min()) * 255
    picture = read_picture(shipped("CT_small.dcm"))
    assert np.abs(picture.pixels - expected).max() <= 0.5 + 1e-6
    assert picture.spacing is not None
    assert (picture.spacing.row_mm, picture.spacing.source) == (0.661468, "PixelSpacing")


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm"],
)
def test_every_allowed_encoding_gives_the_same_pixels(name: str) -> None:
    assert np.array_equal(read_picture(shipped(name)).pixels, read_picture(shipped("MR_small.dcm")).pixels)


@pytest.mark.parametrize(
    "name",
    [
        "examples_rgb_color.dcm",
        "examples_jpeg2k.dcm",
        "SC_rgb_rle.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
    ],
)
def test_colour_equals_pydicom_s_rgb(name: str) -> None:
    assert np.array_equal(read_picture(shipped(name)).pixels, pydicom.pixels.pixel_array(shipped(name)))


def test_palette_and_the_tissue_region_of_a_real_ultrasound() -> None:
    picture = read_picture(shipped("examples_palette.dcm"))
    data = pydicom.dcmread(shipped("examples_palette.dcm"))
    looked_up = pydicom.pixels.apply_color_lut(data.pixel_array, data)
    assert np.array_equal(picture.pixels, looked_up >> 8 if looked_up.dtype == np.uint16 else looked_up)
    assert picture.spacing is not None
    assert picture.spacing.row_mm == pytest.approx(0.2623, abs=1e-4)
    assert picture.spacing.source == "ultrasound region"
    assert picture.spacing.region == (60, 120, 350, 800)
    mask = np.zeros(picture.size, bool)
    mask[100:200, 200:300] = True
    assert picture.spacing.holds_for(mask)
    mask[10, 10] = True
    assert not picture.spacing.holds_for(mask)


def region(**changes: object) -> Dataset:
    item = Dataset()
    values: dict[str, object] = {
        "RegionSpatialFormat": 1,
        "RegionDataType": 1,
        "RegionLocationMinX0": 0,
        "RegionLocationMinY0": 0,
        "RegionLocationMaxX1": 9,
        "RegionLocationMaxY1": 9,
        "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3,
        "PhysicalDeltaX": 0.01,
        "PhysicalDeltaY": 0.02,
    }
    for name, value in (values | changes).items():
        setattr(item, name, value)
    return item


def header(*regions: Dataset, **tags: object) -> Dataset:
    data = Dataset()
    data.Rows = data.Columns = 20
    if regions:
        data.SequenceOfUltrasoundRegions = list(regions)
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def test_ultrasound_regions() -> None:
    spacing = read_spacing(header(region()))
    assert spacing is not None
    assert (spacing.row_mm, spacing.column_mm, spacing.region) == (
        pytest.approx(0.2),
        pytest.approx(0.1),
        (0, 0, 10, 10),
    )
    larger = region(RegionLocationMaxX1=19, PhysicalDeltaY=-0.05)
    chosen = read_spacing(header(region(), larger))
    assert chosen is not None
    assert chosen.row_mm == pytest.approx(0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"PhysicalUnitsXDirection": 4},
        {"PhysicalUnitsYDirection": 0},
        {"RegionSpatialFormat": 2},
        {"RegionDataType": 3},
        {"PhysicalDeltaX": 0.0},
        {"PhysicalDeltaX": float("nan")},
        {"RegionLocationMinX0": 15},
    ],
)
def test_a_wrong_millimetre_is_worse_than_none(changes: dict[str, object]) -> None:
    assert read_spacing(header(region(**changes), PixelSpacing=[0.3, 0.3])) is None


def test_projection_spacing() -> None:
    detector = {"ImagerPixelSpacing": [0.2, 0.2], "Modality": "XA"}
    assert read_spacing(header(**detector)) is None
    assert read_spacing(header(**detector, PixelSpacing=[0.2, 0.2])) is None
    corrected = read_spacing(header(**detector, DistanceSourceToDetector=1000, DistanceSourceToPatient=800))
    assert corrected is not None
    assert corrected.row_mm == pytest.approx(0.16)
    assert "estimated" in corrected.source
    calibrated = read_spacing(header(**detector, PixelSpacing=[0.15, 0.15]))
    assert calibrated is not None
    assert calibrated.source == "PixelSpacing"
    assert read_spacing(header(PixelSpacing=[0.0, 1.0])) is None


def refuse(path: Path, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refused_from_the_header(tmp_path: Path) -> None:
    refuse(shipped("examples_ybr_color.dcm"), "holds 30 frames")
    refuse(shipped("image_dfl.dcm"), "Deflated")
    refuse(shipped("JPEG-lossy.dcm"), "transfer syntax")
    refuse(shipped("badVR.dcm"), "damaged DICOM header")
    refuse(shipped("MR_truncated.dcm"), "damaged")
    refuse(write(tmp_path, made(RAMP, PhotometricInterpretation="CMYK")), "photometric")
    refuse(write(tmp_path, made(RAMP, SamplesPerPixel=3)), "samples")


def test_rle_bomb_is_refused_by_its_claim(tmp_path: Path) -> None:
    data = made(RAMP)
    data.Rows = data.Columns = 65535
    data.file_meta.TransferSyntaxUID = RLELossless
    data.PixelData = encapsulate([struct.pack("<16I", 1, 64, *([0] * 14)) + b"\x81\x00" * 2000])
    data["PixelData"].is_undefined_length = True
    path = write(tmp_path, data)
    assert path.stat().st_size < 6000
    refuse(path, "claims 65535 x 65535")


def test_stream_larger_than_its_header_is_not_decoded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (3000, 2000)).save(stream, "JPEG")
    data = made(RAMP)
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.PixelData = encapsulate([stream.getvalue()])
    data["PixelData"].is_undefined_length = True
    refuse(write(tmp_path, data), "stream holds 2000 x 3000")


def test_errors_warnings_and_logs_hold_no_patient_tags(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = made(RAMP, PatientName="Secret^Name", PatientID="Secret")
    content = bytearray(write(tmp_path, data).read_bytes())
    rng = np.random.default_rng(3)
    targets: list[str] = []
    for _ in range(150):
        damaged = bytearray(content)
        for position in rng.integers(132, len(content), 4):
            damaged[position] = rng.integers(256)
        path = tmp_path / "damaged.dcm"
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                read_picture(path, max_pixels=10**6)
            except UnreadableImage as error:
                targets.append(str(error))
        targets.extend(str(warning.message) for warning in caught)
    assert targets
    assert not any("Secret" in text for text in [*targets, caplog.text])


def test_slices_of_two_series_in_one_folder_are_no_pictures(tmp_path: Path) -> None:
    for k in range(6):  # they alternate, so that the first two files are of different series
        of_one = slice_of_series(np.zeros((4, 5)), 3.0 * k, series=f"1.2.{k % 2}", number=k + 1)
        of_one.save_as(tmp_path / f"IM{k:03}.dcm", enforce_file_format=True)
    assert is_series(tmp_path)
    with pytest.raises(InputError, match="several series"):
        read_series(tmp_path, 2**30)
