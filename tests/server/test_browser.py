"""The page in headless Chromium over file://, against the Python runtime on the same files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segdistill.data.case import Case
from segdistill.imaging.grid import VolumePreprocess, slices_at
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.postprocess import Postprocess, resize_probability
from segdistill.imaging.preprocess import Preprocess
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import read_volume
from segdistill.runtime.measure import measure
from segdistill.runtime.predictor import Predictor, as_turned, slice_levels
from segdistill.server.page import PageModel, write_page
from segdistill.server.view import CaseServer
from tests.runtime.small_model import INFO, build, save
from tests.server.tab import Tab, browser, serving

pytestmark = pytest.mark.slow
CLOSE = 1e-3


@pytest.fixture(scope="module")
def chromium() -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if browser() is None:
        pytest.skip("Chromium is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright pixels are its lesions, so that a real picture has a mask with a long border."""
    info = replace(INFO, preprocess=Preprocess((128, 128), "rgb", 3))
    return save(tmp_path_factory.mktemp("model") / "m.onnx", build(info))


@pytest.fixture
def tab(chromium: None, model: Path, tmp_path: Path) -> Iterator[Tab]:
    write_page(model, tmp_path / "m.html")
    with Tab(tmp_path / "m.html") as opened:
        yield opened
        assert opened.requests == []
        assert opened.errors == []


def pictures(data_root: Path, count: int) -> list[Path]:
    folder = data_root / "busi" / "Dataset_BUSI_with_GT"
    if not folder.is_dir():
        pytest.skip(f"no BUSI images in {folder}")
    found = [path for path in sorted(folder.rglob("*.png")) if "mask" not in path.name]
    return [found[k] for k in np.linspace(0, len(found) - 1, count).astype(int)]


@pytest.mark.timeout(3600)  # minutes, and far more on a busy machine
def test_real_cases_are_those_of_the_runtime(tab: Tab, model: Path, data_root: Path) -> None:
    paths = pictures(data_root, 110)
    predictor = Predictor(model, threads=1)
    tab.open(paths)
    for place, path in enumerate(paths):
        known, found = predictor.predict(path), tab.result(place)
        wanted = predictor.info.preprocess(read_picture(path).pixels)
        assert np.array_equal(tab.inputs(place)[0].reshape(wanted.shape), wanted), path.name
        decided = np.abs(known.probability - 0.5) >= CLOSE
        mask = found["foreground"] > np.float32(0.5)
        assert np.array_equal(mask[decided], known.mask[decided] != 0), path.name


def test_the_table_and_the_mask_are_those_of_the_runtime(tab: Tab, model: Path, data_root: Path) -> None:
    paths = pictures(data_root, 4)
    tab.open(paths)
    with tab.page.expect_download() as download:
        tab.page.keyboard.press("t")
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    predictor = Predictor(model, threads=1)
    for path, row in zip(paths, rows, strict=True):
        size = measure(predictor.predict(path).mask)
        assert row["file"] == path.name
        assert float(row["area_px"]) == pytest.approx(size.area_px, abs=3)
        assert float(row["long_px"]) == pytest.approx(size.long_px, abs=3)
    with tab.page.expect_download() as download:
        tab.page.keyboard.press("s")
    mask = np.asarray(Image.open(download.value.path()))
    assert set(np.unique(mask)) <= {0, 255}
    assert np.count_nonzero((mask > 0) != (predictor.predict(paths[0]).mask > 0)) <= 3


def test_jpeg_is_within_one_grey_level(tab: Tab, data_root: Path, tmp_path: Path) -> None:
    paths = []
    for source in pictures(data_root, 3):
        paths.append(tmp_path / f"{source.stem}.jpg")
        Image.open(source).convert("L").save(paths[-1], quality=90)
    tab.open(paths)
    for place, path in enumerate(paths):
        wanted = Preprocess((128, 128), "rgb", 3)(read_picture(path).pixels)
        given = tab.inputs(place)[0].reshape(wanted.shape)
        assert np.abs(given - wanted).max() * 255 <= 1.001


def test_keys_threshold_and_reasons(tab: Tab, data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    tab.open([*pictures(data_root, 2), tmp_path / "notes.png"])
    assert tab.problem(2).startswith("is not a PNG, JPEG, DICOM or NIfTI file")
    before = tab.page.inner_text("#measures")
    for _ in range(6):
        tab.page.keyboard.press("]")
    tab.page.wait_for_timeout(500)
    assert tab.page.inner_text("#threshold-value") == "0.80"
    assert tab.page.inner_text("#measures") != before
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator("#cases button").nth(1).get_attribute("aria-current") == "true"
    tab.page.keyboard.press("?")
    assert tab.page.locator("#help").is_visible()


def test_a_volume_of_several_classes(chromium: None, tmp_path: Path) -> None:
    preprocess = Preprocess((32, 32), channels=1, intensity=Intensity("z_score", -3, 5))
    names = ("background", "dark", "bright")
    info = replace(
        INFO, input_channels=1, classes=names, preprocess=preprocess, postprocess=Postprocess(0.5, names)
    )
    model = save(tmp_path / "m.onnx", build(info, planes=3))
    values = np.random.default_rng(3).normal(100, 30, (20, 24, 9)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.9, 0.8, 2, 1])), tmp_path / "v.nii.gz")
    known = Predictor(model, threads=1).predict_volume(tmp_path / "v.nii.gz")
    write_page(model, tmp_path / "m.html")
    with Tab(tmp_path / "m.html") as tab:
        tab.open([tmp_path / "v.nii.gz"])
        with tab.page.expect_download() as download:
            tab.page.wait_for_selector("#save-mask:enabled")
            tab.page.keyboard.press("s")
        found = np.asarray(
            nibabel.load(Path(download.value.path()).rename(tmp_path / "saved.nii.gz")).dataobj
        ).T
        assert tab.requests == []
        assert tab.errors == []
    assert np.mean(found != known.mask) < 1e-3


def test_two_models_side_by_side(chromium: None, model: Path, data_root: Path, tmp_path: Path) -> None:
    strict = save(
        tmp_path / "strict.onnx",
        build(replace(INFO, preprocess=Preprocess((128, 128), "rgb", 3), postprocess=Postprocess(0.9))),
    )
    paths = pictures(data_root, 3)
    cases = [Case(path.stem, path, label="benign") for path in paths]
    predictors = [Predictor(model, threads=1), Predictor(strict, threads=1)]
    with (
        serving(
            CaseServer([PageModel.read(model), PageModel.read(strict)], ["a.onnx", "b.onnx"], cases)
        ) as url,
        Tab(url) as tab,
    ):
        tab.page.wait_for_selector("#cases li.done >> nth=2", timeout=300_000)
        dices = []
        for place, path in enumerate(paths):
            masks = []
            for n, predictor in enumerate(predictors):
                known, limit = predictor.predict(path), predictor.postprocess.threshold
                found = tab.result(place, network=n)["foreground"]
                decided = np.abs(known.probability - limit) >= CLOSE
                assert np.array_equal((found > np.float32(limit))[decided], known.mask[decided] != 0)
                masks.append(found > np.float32(limit))
            total = masks[0].sum() + masks[1].sum()
            dices.append(2 * (masks[0] & masks[1]).sum() / total if total else 1.0)
            assert f"Dice {dices[-1]:.3f}" in tab.page.locator("#cases li").nth(place).inner_text()
        tab.page.keyboard.press("l")
        first = int(np.argmin(dices))
        tab.page.wait_for_selector(
            f"#cases li:first-child button[title='{paths[first].stem}'][aria-current=true]"
        )
        with tab.page.expect_download() as download:
            tab.page.keyboard.press("t")
        rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
        assert [row["file"] for row in rows[:2]] == [paths[first].stem] * 2
        assert float(rows[0]["dice_between"]) == pytest.approx(dices[first], abs=1e-6)
        assert rows[0]["model"] != rows[1]["model"]
        assert tab.requests == []
        assert tab.errors == []


def volume_model(path: Path, preprocess: VolumePreprocess, classes: int) -> Path:
    names = tuple(["background", "head", "tail"][:classes])
    info = replace(
        INFO,
        input_channels=preprocess.channels,
        classes=names,
        preprocess=preprocess,
        postprocess=Postprocess(0.4, names),
    )
    return save(path, build(info, planes=classes))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_network_of_volumes(chromium: None, data_root: Path, tmp_path: Path, classes: int) -> None:
    folder = data_root / "hippocampus" / "Task04_Hippocampus" / "imagesTr"
    paths = sorted(folder.glob("hippocampus_*.nii.gz"))[:40:20]
    if not paths:
        pytest.skip(f"no hippocampus volumes in {folder}")
    preprocess = VolumePreprocess((16, 24, 16), (1.2, 0.9, 1.1), intensity=Intensity("z_score", -2, 4))
    model = volume_model(tmp_path / "m.onnx", preprocess, classes)
    predictor = Predictor(model, threads=1)
    write_page(model, tmp_path / "m.html")
    with Tab(tmp_path / "m.html") as tab:
        tab.open([*paths, *pictures(data_root, 1)])
        assert tab.problem(2).startswith("is a picture, and the network segments whole volumes")
        for place, path in enumerate(paths):
            tab.page.locator("#cases button").nth(place).click()
            tab.page.wait_for_selector(f"#cases li:nth-child({place + 1}) button[aria-current=true]")
            with tab.page.expect_download(timeout=240_000) as download:
                tab.page.wait_for_selector("#save-mask:enabled")
                tab.page.keyboard.press("s")
            saved = Path(download.value.path()).rename(tmp_path / f"{place}.nii.gz")
            found = np.asarray(nibabel.load(saved).dataobj).T
            known = predictor.predict_volume(path)
            assert known.voxels > 100
            assert np.array_equal(found[decided(predictor, path)], known.mask[decided(predictor, path)])
            row = tab.page.locator("#cases li").nth(place).inner_text()
            assert f"{known.millilitres:.2f} ml" in row
        if classes == 2:  # all slices are measured again at another threshold
            tab.page.keyboard.press("]")
            known = Predictor(model, threads=1, threshold=0.45).predict_volume(paths[-1])
            tab.page.wait_for_selector(
                f"#cases li:nth-child({len(paths)}):has-text('{known.millilitres:.2f} ml')"
            )
        assert tab.requests == []
        assert tab.errors == []


def decided(predictor: Predictor, path: Path) -> NDArray[np.bool_]:
    """Where a probability that is 0.001 off would not change the mask, on the volume's own grid."""
    preprocess, limit = predictor.info.preprocess, predictor.postprocess.threshold
    assert isinstance(preprocess, VolumePreprocess)
    volume = read_volume(path, turn=False)
    turned = volume.turned()
    shape = (turned.voxels.shape[0], turned.voxels.shape[1], turned.voxels.shape[2])
    prepared = preprocess.prepare_slices(slice_levels(preprocess.intensity, turned), shape, turned.spacing)
    probability = preprocess.predict(prepared, lambda batch: predictor.engine.run_both(batch)[0])
    found = np.zeros(volume.voxels.shape, np.uint8)
    for plane, one in zip(as_turned(found, volume), slices_at(probability, shape), strict=True):
        first, second = np.sort(resize_probability(one, (shape[1], shape[2])), axis=0)[::-1][:2]
        foreground = predictor.postprocess.foreground(one, (shape[1], shape[2]))
        plane[:] = (np.abs(foreground - limit) if len(one) <= 2 else first - second) >= CLOSE
    assert found.mean() > 0.9
    return found > 0


def test_a_volume_can_be_cancelled(chromium: None, tmp_path: Path) -> None:
    model = volume_model(tmp_path / "m.onnx", VolumePreprocess((8, 8, 8), overlap=0.75), 2)
    values = np.random.default_rng(3).normal(100, 30, (90, 90, 90)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii.gz")
    write_page(model, tmp_path / "m.html")
    with Tab(tmp_path / "m.html") as tab:
        tab.open([tmp_path / "v.nii.gz"])
        tab.page.wait_for_selector("#whole:enabled")
        tab.page.keyboard.press("a")
        tab.page.wait_for_selector("#progress-text:has-text('window')")
        tab.page.keyboard.press("ArrowUp")  # the page stays alive
        tab.page.wait_for_selector("#caption:has-text('slice 47 of 90')")
        tab.page.keyboard.press("Escape")
        tab.page.wait_for_selector("#progress", state="hidden")
        assert tab.page.inner_text("#status") == "Cancelled"
        assert tab.page.locator("#whole").is_visible()
        assert tab.errors == []


def serious(page: Any, axe: str) -> list[str]:
    """What axe-core finds that is serious or critical: rule, and the first elements."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']][:4]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def test_it_can_be_used_by_everyone(chromium: None, model: Path, data_root: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip("axe-core is not installed: npm ci in web/")
    axe = script.read_text(encoding="utf-8")
    write_page(model, tmp_path / "m.html")
    (tmp_path / "notes.png").write_text("no picture")
    cases = [Case(path.stem, path) for path in pictures(data_root, 2)]
    values = np.random.default_rng(3).normal(100, 30, (20, 24, 9)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii.gz")
    cases.append(Case("v", tmp_path / "v.nii.gz"))
    found: dict[str, list[str]] = {}
    with Tab(tmp_path / "m.html") as tab:
        found["empty"] = serious(tab.page, axe)
        tab.open([*pictures(data_root, 2), tmp_path / "notes.png"])
        found["results"] = serious(tab.page, axe)
        tab.page.locator("#cases button").nth(2).click()
        tab.page.wait_for_selector("#problem:visible")
        found["problem"] = serious(tab.page, axe)
        tab.page.keyboard.press("?")
        tab.page.locator("details summary").click()
        found["help"] = serious(tab.page, axe)
    both = [PageModel.read(model)] * 2
    with serving(CaseServer(both, ["a.onnx", "b.onnx"], cases)) as url, Tab(url, 800) as tab:
        tab.page.wait_for_selector("#cases li.done >> nth=1", timeout=300_000)
        found["two models"] = serious(tab.page, axe)
        tab.page.locator("#cases button").nth(2).click()
        tab.page.wait_for_selector("#slices:visible")
        tab.page.wait_for_selector("#save-overlay:enabled")
        found["volume"] = serious(tab.page, axe)
        tab.page.set_viewport_size({"width": 420, "height": 800})
        found["telephone"] = serious(tab.page, axe)
    assert {state: each for state, each in found.items() if each} == {}
