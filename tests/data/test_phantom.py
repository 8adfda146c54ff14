from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from segdistill.data.phantom import draw_phantom, write_phantom
from segdistill.data.table import read_cases
from segdistill.errors import InputError


@pytest.mark.parametrize("kind", ["benign", "malignant"])
def test_one_lesion_darker_than_what_surrounds_it(kind: str) -> None:
    for seed in range(30):
        pixels, mask = draw_phantom(kind, seed, 128)
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
        assert 0.005 < mask.mean() < 0.3
        ring = ndimage.binary_dilation(mask, iterations=8) & ~ndimage.binary_dilation(mask, iterations=2)
        assert pixels[mask].mean() < 0.85 * pixels[ring].mean()


def test_benign_are_smoother_than_malignant() -> None:
    def roughness(kind: str) -> float:
        values = []
        for seed in range(20):
            mask = draw_phantom(kind, seed, 256)[1]
            edge = mask & ~ndimage.binary_erosion(mask)
            values.append(edge.sum() / np.sqrt(mask.sum()))
        return float(np.mean(values))

    assert roughness("malignant") > 1.2 * roughness("benign")


def test_shadow_behind_malignant_and_enhancement_behind_benign() -> None:
    def behind(kind: str) -> float:
        ratios = []
        for seed in range(40):
            pixels, mask = draw_phantom(kind, seed, 128)
            bottom, columns = np.nonzero(mask)[0].max(), mask.any(axis=0)
            band = pixels[bottom + 3 : bottom + 20].astype(float)
            ratios.append(band[:, columns].mean() / band[:, ~columns].mean())
        return float(np.median(ratios))

    assert behind("malignant") < 0.9
    assert behind("benign") > 1.05


def test_normal_has_no_lesion_and_speckle_is_correlated() -> None:
    pixels, mask = draw_phantom("normal", 3, 128)
    assert not mask.any()
    detail = pixels - ndimage.uniform_filter(pixels.astype(float), 15)
    across = (detail[:, 1:] * detail[:, :-1]).mean() / (detail**2).mean()
    assert across > 0.3


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    cases = write_phantom(tmp_path / "a", count=10, size=48, seed=5)
    write_phantom(tmp_path / "b", count=10, size=48, seed=5)
    write_phantom(tmp_path / "c", count=10, size=48, seed=6)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 22
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    image = files[files.index(Path("images/phantom_0001.png"))]
    assert (tmp_path / "a" / image).read_bytes() != (tmp_path / "c" / image).read_bytes()
    assert read_cases(tmp_path / "a" / "cases.csv") == cases
    assert Counter(case.label for case in cases) == {"benign": 5, "malignant": 4, "normal": 1}
    assert Image.open(cases[0].image).mode == "L"


def test_an_interrupted_drawing_is_finished_and_other_files_are_safe(tmp_path: Path) -> None:
    write_phantom(tmp_path / "a", count=10, size=32)
    (tmp_path / "a" / "phantom.json").unlink()
    (tmp_path / "a" / "cases.csv").unlink()
    assert len(write_phantom(tmp_path / "a", count=10, size=32)) == 10
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="something else"):
        write_phantom(tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        write_phantom(tmp_path / "mine" / "thesis.txt")


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="unknown phantom"):
        draw_phantom("cyst", 0)
    with pytest.raises(InputError, match="too small"):
        draw_phantom("benign", 0, 8)
