"""Values of a volume, or of a picture with more than 8 bits, to 8 bits: a window, the z-score, or the whole range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.picture import Pixels

_AT_ONCE = 2**26  # voxels
_DEPTHS = (8, 10, 12, 14, 16)


PERCENTILES = (0.5, 99.5)
"""Of pixel values that become black and white: a few hot or dead pixels then do not decide the contrast."""


def to_eight_bits(values: NDArray[Any], intensity: Intensity | None = None) -> Pixels:
    """Scales pixel values of any type to uint8, keeping their shape; 8 bits stay as they are.

    With `intensity` every other picture is scaled by it. Without, by this picture alone:

    - unsigned values up to 65535: divided by the full scale of the smallest of 8, 10, 12, 14 or 16 bits that
      holds the largest value, so that two pictures of one device keep their relative brightness;
    - real numbers within 0..1: times 255; whole ones within 0..255: as they are;
    - anything else: between `robust_range`.

    Raises:
        ValueError: a value is NaN or infinite.

    >>> to_eight_bits(np.array([0, 4095], np.uint16)).tolist()
    [0, 255]
    >>> to_eight_bits(np.array([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    >>> to_eight_bits(np.array([0, 4095], np.uint16), Intensity("window", 0, 8190)).tolist()
    [0, 128]
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):  # min and max hand a NaN on
        raise ValueError("has pixels that are NaN or infinite")
    if intensity is not None:
        return intensity(values)
    if low >= 0 and not np.issubdtype(values.dtype, np.floating) and high <= 65535:
        return _round(values * (255.0 / (2 ** next(bits for bits in _DEPTHS if high < 2**bits) - 1)))
    if low >= 0 and high <= 1:
        return _round(values * 255.0)
    if low >= 0 and high <= 255 and np.array_equal(values, np.rint(values)):
        return values.astype(np.uint8)
    return stretch(values, *robust_range(values))


def robust_range(values: NDArray[Any]) -> tuple[float, float]:
    """The values at PERCENTILES; the smallest and the largest where these are equal.

    >>> robust_range(np.append(np.arange(1000.0), 1e9))
    (5.0, 995.0)
    """
    flat = values.reshape(-1)
    low = float(np.percentile(flat, PERCENTILES[0], method="lower"))
    high = float(np.percentile(flat, PERCENTILES[1], method="higher"))
    return (low, high) if low < high else (float(flat.min()), float(flat.max()))


def stretch(values: NDArray[Any], low: float, high: float) -> Pixels:
    """Scales `low`..`high` linearly to 0..255 and clips what lies outside; all zero when they are equal.

    >>> stretch(np.array([-100, 0, 100]), -100, 100).tolist()
    [0, 128, 255]
    """
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    return _round((values.astype(np.float64) - low) / (high - low) * 255.0)


def _round(values: NDArray[Any]) -> Pixels:
    rounded: Pixels = np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)
    return rounded


def _moments(voxels: NDArray[Any]) -> tuple[float, float]:
    """Mean and standard deviation; of a volume whose copy in double precision might not fit, slice by slice."""
    if voxels.size <= _AT_ONCE:
        return float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64))
    mean = float(voxels.mean(dtype=np.float64))
    squares = sum(float(np.square(values - mean, dtype=np.float64).sum()) for values in voxels)
    return mean, math.sqrt(squares / voxels.size)


KINDS = ("window", "z_score", "range")


@dataclass(frozen=True)
class Intensity:
    """How the values of a volume, or of a picture with more than 8 bits, become 0..255.

    Attributes:
        kind: "window": `low`..`high` in the file's numbers (HU for CT); "z_score": `low`..`high` in standard
            deviations from the mean of the volume or picture; "range": from its smallest to its largest value.
        low, high: what becomes 0 and 255; what lies beyond is clipped. Of no meaning for "range".

    Raises:
        InputError: an unknown kind, or `low` not below `high`.

    >>> CT(np.array([[[-500.0, 40.0, 240.0]]]))[0].tolist()
    [[0, 128, 255]]
    """

    kind: str = "range"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown intensity '{self.kind}': use {', '.join(KINDS)}")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"intensity needs low below high, not {self.low} and {self.high}")

    def levels(self, voxels: NDArray[Any]) -> Callable[[NDArray[Any]], Pixels]:
        """A function from a slice of this volume (D, H, W) to uint8; the volume is looked at once.

        >>> Intensity().levels(np.array([[[0, 10]]]))(np.array([[5]])).tolist()
        [[128]]
        """
        low, high = self.low, self.high
        if self.kind == "range":
            low, high = float(voxels.min()), float(voxels.max())
        elif self.kind == "z_score":
            mean, deviation = _moments(voxels)
            low, high = mean + low * deviation, mean + high * deviation
        return lambda values: stretch(values, low, high)

    def __call__(self, voxels: NDArray[Any]) -> Pixels:
        """The whole volume (D, H, W) as uint8."""
        return self.levels(voxels)(voxels)

    def network_scale(self) -> tuple[float, float]:
        """(mean, std) for `Preprocess`, with which the network sees standard deviations, or the window as -1..1.

        >>> CT.network_scale()
        (0.5, 0.5)
        """
        if self.kind != "z_score":
            return 0.5, 0.5
        return -self.low / (self.high - self.low), 1 / (self.high - self.low)

    def to_dict(self) -> dict[str, Any]:
        """The settings in JSON types.

        >>> Intensity.from_dict(MR.to_dict()) == MR
        True
        """
        return {"kind": self.kind, "low": self.low, "high": self.high}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | str) -> Intensity:
        """From `to_dict`, or the name of a preset; InputError for what is neither.

        >>> Intensity.from_dict("ct") == CT
        True
        """
        if isinstance(values, str):
            if values not in PRESETS:
                raise InputError(
                    f"unknown intensity '{values}': use {', '.join(PRESETS)}, or kind, low and high"
                )
            return PRESETS[values]
        if not isinstance(values, Mapping) or not set(values) <= {"kind", "low", "high"}:
            raise InputError("intensity may have kind, low and high, nothing else")
        try:
            return cls(
                str(values.get("kind", "range")), float(values.get("low", 0)), float(values.get("high", 1))
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"intensity has a value of the wrong type: {error}") from error


CT = Intensity("window", -160.0, 240.0)
MR = Intensity("z_score", -3.0, 5.0)  # bright tissue and fluid reach further from the mean than air does
PRESETS: dict[str, Intensity] = {"ct": CT, "mr": MR, "range": Intensity()}

AnyIntensity = Intensity | tuple[Intensity | None, ...] | None
"""Of an image; of several channels one for each."""


def intensity_of(intensity: AnyIntensity, channel: int) -> Intensity | None:
    """That of one channel, counted from 0.

    >>> intensity_of((CT, None), 0) == CT, intensity_of(MR, 1) == MR
    (True, True)
    """
    return intensity[channel] if isinstance(intensity, tuple) else intensity


def intensity_to_json(intensity: AnyIntensity) -> Any:
    """In JSON types; a list for several channels.

    >>> intensity_to_json((CT, None))
    [{'kind': 'window', 'low': -160.0, 'high': 240.0}, None]
    """
    if isinstance(intensity, tuple):
        return [each and each.to_dict() for each in intensity]
    return intensity and intensity.to_dict()


def intensity_from_json(values: Any) -> AnyIntensity:
    """The reverse of `intensity_to_json`, or the name of a preset; InputError for what is none of these.

    >>> intensity_from_json(["ct", None]) == (CT, None)
    True
    """
    if isinstance(values, (list, tuple)):
        return tuple(Intensity.from_dict(each) if each else None for each in values)
    return Intensity.from_dict(values) if values else None


def scale_of(intensity: AnyIntensity, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) for `Preprocess`: one number each, or one for each of several channels.

    >>> scale_of(None, 3), scale_of((CT, None), 2)
    (((0.0,), (1.0,)), ((0.5, 0.0), (0.5, 1.0)))
    """
    several = [intensity_of(intensity, k) for k in range(channels if isinstance(intensity, tuple) else 1)]
    pairs = [(0.0, 1.0) if each is None else each.network_scale() for each in several]
    return tuple(mean for mean, _ in pairs), tuple(std for _, std in pairs)


def preset_of_channel(name: str) -> str:
    """The preset for a channel of volumes by its name, as nnU-Net decides (Isensee et al. 2021): CT, or else MR.

    nnU-Net takes the z-score for all names but CT and a few that stand for a normalisation: noNorm, rescale_to_0_1.

    >>> preset_of_channel("CT"), preset_of_channel("flair"), preset_of_channel("rescale_to_0_1")
    ('ct', 'mr', 'range')
    """
    plain = name.lower()
    return "ct" if plain == "ct" else "range" if plain in ("nonorm", "rescale_to_0_1", "rgb_to_0_1") else "mr"
