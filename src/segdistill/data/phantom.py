"""A breast ultrasound phantom: synthetic B-mode pictures with exact references, for demonstrations and tests.

Speckle is fully developed (the magnitude of a complex Gaussian field, correlated along the beam and across
it), echoes weaken with depth, benign lesions are smooth ellipses that brighten what lies behind them, and
malignant ones are spiculated and cast a shadow. It is a drawing of the physics, not a simulation: results on
it allow no conclusion about patients.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.data.case import Case
from segdistill.data.table import write_cases
from segdistill.errors import InputError
from segdistill.files import atomic_write, write_json

KINDS = ("benign", "malignant", "normal")
_CYCLE = ("benign", "malignant") * 3 + ("benign", "normal", "malignant", "benign")  # 5 : 4 : 1 in every ten
MARKER = "phantom.json"

Field = NDArray[np.floating[Any]]


def draw_phantom(kind: str, seed: int, size: int = 128) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One picture and its reference, fixed by (kind, seed, size).

    Args:
        kind: "benign", "malignant" or "normal" (no lesion).
        seed: another seed draws another patient.
        size: height and width in pixels, at least 32.

    Returns:
        pixels uint8 (size, size) and mask bool (size, size).

    Raises:
        InputError: unknown kind or a size below 32.

    >>> pixels, mask = draw_phantom("benign", seed=1, size=64)
    >>> pixels.shape, pixels.dtype.name, bool(mask.any()), bool(draw_phantom("normal", 1, 64)[1].any())
    ((64, 64), 'uint8', True, False)
    """
    if kind not in KINDS:
        raise InputError(f"unknown phantom '{kind}': use one of {', '.join(KINDS)}")
    if size < 32:
        raise InputError(f"phantom size {size} is too small: use at least 32")
    rng = np.random.Generator(np.random.PCG64([seed, KINDS.index(kind)]))
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    depth, side = axis[:, None], axis[None, :]
    echo = _tissue(rng, depth, side)
    mask = np.zeros((size, size), dtype=np.bool_)
    if kind != "normal":
        mask = _lesion(rng, depth, side, spiculated=kind == "malignant")
        inside = _blur(mask.astype(np.float32), 1)
        level = rng.uniform(0.01, 0.05) if kind == "malignant" else rng.uniform(0.015, 0.08)
        echo = echo * (1 - inside) + level * (0.7 + 0.6 * _smooth_field(rng, size)) * inside
        path = np.cumsum(mask, axis=0, dtype=np.float32) / size  # how much lesion the beam has crossed
        behind = _blur(path * ~mask, max(1, size // 48))
        echo *= np.exp(behind * (rng.uniform(-6, -2) if kind == "malignant" else rng.uniform(0.8, 2.5)))
    echo *= np.exp(-rng.uniform(0.3, 1.6) * depth)
    amplitude = np.sqrt(echo) * _speckle(rng, size) ** np.float32(
        0.6
    )  # compounding of frames softens speckle
    gain = rng.uniform(0.75, 1.15) * 255 / np.log1p(np.float32(6))
    pixels = np.clip(gain * np.log1p(6 * amplitude) - rng.uniform(0, 20), 0, 255)
    return pixels.astype(np.uint8), mask


def write_phantom(folder: str | Path, count: int = 120, size: int = 128, seed: int = 0) -> list[Case]:
    """Draws `count` phantoms (half benign, two fifths malignant, the rest normal) into images/, masks/ and
    cases.csv.

    The same arguments write the same bytes.

    Raises:
        InputError: a folder that already holds something else, or that cannot be written.

    >>> import tempfile
    >>> cases = write_phantom(Path(tempfile.mkdtemp()) / "synthetic", count=10, size=32)
    >>> [sum(case.label == kind for case in cases) for kind in KINDS]
    [5, 4, 1]
    """
    folder = Path(folder)
    if count < 1:
        raise InputError(f"{count} phantoms make no dataset: draw at least 1")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a new folder for the phantoms")
    there = written(folder)
    if folder.is_dir() and there != {"count": count, "size": size, "seed": seed}:
        left = [path for path in folder.iterdir() if path.name not in ("images", "masks")]
        drawn = all(path.name.startswith((".phantom_", "phantom_")) for path in folder.glob("*/*"))
        if left or not drawn:  # what an interrupted drawing left is drawn over
            raise InputError(f"{folder} holds something else: give a new folder for the phantoms")
    cases = phantom_cases(folder, count)
    for number, case in enumerate(cases):
        pixels, mask = draw_phantom(case.label, seed * 1_000_003 + number, size)
        _write_png(Image.fromarray(pixels), case.image)
        _write_png(Image.fromarray(mask.astype(np.uint8) * 255), case.masks[0])
    write_cases(cases, folder / "cases.csv")
    write_json(folder / MARKER, {"count": count, "size": size, "seed": seed})
    return cases


def phantom_cases(folder: Path, count: int) -> list[Case]:
    """The cases that `write_phantom` makes in a folder, without drawing them."""
    names = [f"phantom_{number:04d}" for number in range(1, count + 1)]
    return [
        Case(
            name,
            folder / "images" / f"{name}.png",
            (folder / "masks" / f"{name}.png",),
            label=_CYCLE[number % 10],
        )
        for number, name in enumerate(names)
    ]


def written(folder: Path) -> dict[str, int] | None:
    """The arguments with which `write_phantom` filled a folder; None when it did not (or was interrupted)."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return {name: int(marker[name]) for name in ("count", "size", "seed")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_png(picture: Image.Image, path: Path) -> None:
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=6)


def _tissue(rng: np.random.Generator, depth: Field, side: Field) -> Field:
    """Echo strength of skin, fat, gland and muscle below wavy boundaries."""
    borders = [rng.uniform(0.03, 0.06), rng.uniform(0.15, 0.30), rng.uniform(0.72, 0.92)]
    levels = [
        rng.uniform(0.7, 1.0),
        rng.uniform(0.12, 0.30),
        rng.uniform(0.35, 0.75),
        rng.uniform(0.08, 0.30),
    ]
    echo = np.full((depth.size, side.size), levels[0], dtype=np.float32)
    for border, level in zip(borders, levels[1:], strict=True):
        wave = sum(
            rng.uniform(0, 0.25) * border / k * np.sin(2 * np.pi * k * side + rng.uniform(0, 6.3))
            for k in (1, 2, 3)
        )
        weight = np.clip((depth - border - 0.4 * wave) * 40 + 0.5, 0, 1)
        echo += (level - echo) * weight
    fibres = 0.12 * np.sin(2 * np.pi * (rng.uniform(6, 14) * depth + rng.uniform(-1.5, 1.5) * side))
    return (echo * (0.4 + 1.2 * _smooth_field(rng, depth.size) + fibres)).clip(0.02, None).astype(np.float32)


def _lesion(rng: np.random.Generator, depth: Field, side: Field, spiculated: bool) -> NDArray[np.bool_]:
    radius = rng.uniform(0.08, 0.20)
    squeeze = rng.uniform(0.75, 1.25) if spiculated else rng.uniform(0.50, 0.80)  # benign: wider than tall
    y = (depth - rng.uniform(0.32, 0.62)) / (radius * squeeze)
    x = (side - rng.uniform(0.28, 0.72)) / radius
    tilt = rng.uniform(-0.3, 0.3)
    y, x = y * np.cos(tilt) - x * np.sin(tilt), y * np.sin(tilt) + x * np.cos(tilt)
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    edge = 1 + sum(rng.uniform(0, 0.06) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3))
    if spiculated:
        edge = edge + sum(
            rng.uniform(0.03, 0.12) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (4, 5, 7)
        )
        spikes = np.cos(rng.integers(7, 12) * angle + rng.uniform(0, 6.3))
        edge = edge + rng.uniform(0.15, 0.35) * np.maximum(spikes, 0) ** 3
    return np.asarray(distance <= edge)


def _speckle(rng: np.random.Generator, size: int) -> Field:
    """Rayleigh speckle of mean square one, about two pixels along the beam and three across it (at 128
    pixels).
    """
    field = rng.standard_normal((2, size, size), dtype=np.float32)
    kernel = np.array([0.25, 0.5, 0.25], dtype=np.float32)
    for axis in (1, 2, 2):
        for _ in range(max(1, size // 128)):
            field = _convolve(field, kernel, axis)
    magnitude: Field = np.sqrt(np.square(field).sum(0) / (2 * field.var()))
    return magnitude


def _smooth_field(rng: np.random.Generator, size: int) -> Field:
    """A random field from 0 to 1 without detail finer than an eighth of the picture."""
    coarse = Image.fromarray(rng.random((9, 9), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)


def _blur(field: Field, radius: int) -> Field:
    kernel = np.ones(2 * radius + 1, dtype=np.float32) / (2 * radius + 1)
    return _convolve(_convolve(field, kernel, 0), kernel, 1)


def _convolve(field: Field, kernel: Field, axis: int) -> Field:
    """Convolution along an axis with a short symmetric kernel; the border is repeated."""
    reach = len(kernel) // 2
    pad = [(0, 0)] * field.ndim
    pad[axis] = (reach, reach)
    padded = np.pad(field, pad, mode="edge")
    length = field.shape[axis]
    result = np.zeros_like(field)
    for shift, weight in enumerate(kernel):
        part = [slice(None)] * field.ndim
        part[axis] = slice(shift, shift + length)
        result += np.float32(weight) * padded[tuple(part)]
    return result
