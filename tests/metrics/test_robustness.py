from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from segdistill.data.case import Case
from segdistill.errors import InputError
from segdistill.experiment.evaluation import Evaluation, Subject
from segdistill.imaging.picture import Picture
from segdistill.metrics.robustness import PERTURBATIONS, STRENGTHS, blur, disturbed, gamma, speckle


def picture(seed: int = 0, colour: bool = False) -> np.ndarray:
    shape = (40, 31, 3) if colour else (40, 31)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("colour", [False, True])
def test_blur_is_scipys(sigma: float, colour: bool) -> None:
    pixels = picture(colour=colour)
    sigmas = (sigma, sigma, 0) if colour else sigma
    theirs = ndimage.gaussian_filter(pixels.astype(float), sigmas, mode="nearest", truncate=4)
    assert np.abs(blur(pixels, sigma).astype(float) - theirs).max() <= 0.5 + 1e-6


def test_blur_where_the_kernel_is_wider_than_the_picture() -> None:
    assert blur(picture()[:5, :3], 4.0).shape == (5, 3)


def test_gamma_by_its_formula() -> None:
    pixels = picture(1, colour=True)
    for strength in STRENGTHS["gamma"]:
        theirs = 255 * (pixels / 255.0) ** strength
        assert np.abs(gamma(pixels, strength) - theirs).max() <= 0.5
    assert gamma(pixels, 0.5).mean() > pixels.mean() > gamma(pixels, 2.0).mean()


def test_speckle_is_multiplicative_and_the_same_for_everyone() -> None:
    grey = np.full((200, 200), 100, np.uint8)
    noisy = speckle(grey, 0.2)
    assert noisy.mean() == pytest.approx(100, abs=0.5)
    assert noisy.std() == pytest.approx(20, rel=0.02)
    assert speckle(np.full((200, 200), 50, np.uint8), 0.2).std() == pytest.approx(10, rel=0.02)
    np.testing.assert_array_equal(noisy, speckle(grey, 0.2))
    colour = speckle(np.full((9, 9, 3), 100, np.uint8), 0.2)
    assert (colour == colour[..., :1]).all()
    assert (speckle(picture(1), 0.1) != speckle(picture(2), 0.1)).any()


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_pictures_stay_pictures(kind: str) -> None:
    pixels = picture()
    before = pixels.copy()
    for strength in STRENGTHS[kind]:
        changed = PERTURBATIONS[kind](pixels, strength)
        assert (changed.shape, changed.dtype) == (pixels.shape, np.uint8)
        assert (changed != pixels).any()
    np.testing.assert_array_equal(pixels, before)


def cases(folder: Path) -> list[Case]:
    """Bright squares on dark ground, and one image without any."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(4):
        mask = np.zeros((32, 32), bool)
        mask[8 : 16 + k, 6:20] = k < 3
        pixels = np.where(mask, 150, 60) + rng.normal(0, 5, mask.shape)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"i{k}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(folder / f"m{k}.png")
        label = "lesion" if k < 3 else "normal"
        made.append(Case(f"c{k}", folder / f"i{k}.png", (folder / f"m{k}.png",), label=label))
    return made


def test_a_threshold_fails_as_it_must(tmp_path: Path) -> None:
    made = cases(tmp_path)

    def predict(seen: Picture) -> np.ndarray:
        return seen.pixels > 105

    evaluation = Evaluation(Subject("threshold", predict))
    assert len([*evaluation.measure(made), *evaluation.disturb(made)]) == len(made) + 10
    found = {(d.kind, d.strength): d for d in evaluation.robustness}
    assert set(found) == {(kind, s) for kind, values in STRENGTHS.items() for s in values}
    assert all(d.difference.n == 3 for d in found.values())  # the normal image is left out
    # 255 (150/255)^2 = 88 is below the threshold: nothing is found any more
    assert found["gamma", 2.0].score.mean == 0.0
    assert found["gamma", 2.0].difference.mean == pytest.approx(-1.0, abs=0.01)
    # 255 (60/255)^0.5 = 124 lies above it: all is marked
    sizes = [8 * 14, 9 * 14, 10 * 14]
    assert found["gamma", 0.5].score.mean == pytest.approx(
        np.mean([2 * s / (s + 1024) for s in sizes]), abs=1e-3
    )
    assert found["blur", 1.0].score.mean > found["blur", 4.0].score.mean  # type: ignore[operator]
    assert found["speckle", 0.1].score.mean > found["speckle", 0.4].score.mean  # type: ignore[operator]


def test_unknown_disturbance() -> None:
    with pytest.raises(InputError, match="did you mean 'blur'"):
        disturbed(lambda seen: seen.pixels, "blurr", 1.0)
