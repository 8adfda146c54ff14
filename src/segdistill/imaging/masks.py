"""Reference masks from files as people really store them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.errors import InputError
from segdistill.imaging.classes import TRANSPARENT, Reading, Value, unknown_value
from segdistill.imaging.intensity import to_eight_bits
from segdistill.imaging.picture import Mask, Pixels
from segdistill.imaging.read import StoredPicture, read_stored
from segdistill.imaging.volume import Noticed

_DARK, _LIGHT = 16, 239
_LABELS = 32  # a lossless file with at most so many values may hold labels rather than soft edges
_LOSSY = 32  # how far a lossy file may move a value
_SHOWN = 6


def read_mask(
    paths: Sequence[str | Path],
    size: tuple[int, int] | None = None,
    tolerance: float = 0.1,
    resize: bool = False,
    foreground: Sequence[Value] = (),
    background: Sequence[Value] = (),
) -> Mask:
    """Reads the mask files of one case and joins them (union).

    Without `foreground` and `background` a file must have two values, in grey, by a palette, in colour or by
    transparency, or values between 0 and 255 along smooth edges (lossy files), which are cut at half. Background is
    black, the darker grey or what is transparent; of two other colours it is the one of most border pixels. Several
    values may be classes or instances: they are refused, and so is a file where these rules contradict each other.

    Args:
        paths: one or several files.
        size: (height, width) that the mask must have; None: that of the first file.
        tolerance: share of pixels that may be neither dark nor light; above it, a file is a photograph.
        resize: bring a file of another size to `size` (bilinear, then cut at half) rather than refuse it.
        foreground: the values that are foreground; all others are background.
        background: the values that are background; all others are foreground, unless `foreground` is given, too.

    Returns:
        bool (H, W).

    Raises:
        UnreadableImage: a file cannot be decoded.
        InputError: a file has another size, is not a mask, or holds several values; they are named.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "m.png"
    >>> Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8)).save(path)
    >>> read_mask([path], foreground=[1]).tolist()
    [[False, True], [True, False]]
    """
    if not paths:
        raise InputError("no mask file given")
    joined: Mask | None = None
    for path in paths:
        stored = read_stored(path)
        grey = _Reader(Path(path), tolerance, tuple(foreground), tuple(background)).read(stored)
        if size is None:
            size = (grey.shape[0], grey.shape[1])
        if grey.shape != size:
            _require_resize(path, grey.shape, size, resize)
            image = Image.fromarray(grey).resize((size[1], size[0]), Image.Resampling.BILINEAR)
            grey = np.asarray(image)
        mask = grey >= 128
        joined = mask if joined is None else joined | mask
    assert joined is not None
    return joined


def read_class_mask(
    paths: Sequence[str | Path],
    reading: Reading,
    size: tuple[int, int] | None = None,
    resize: bool = False,
    noticed: Noticed | None = None,
) -> Pixels:
    """Reads the mask files of one case with several classes as one index mask.

    Either each file holds the values of all classes (of several files the later wins where both have one), or each
    holds one class, `reading.of_file`: then the later of `reading.classes` wins where two overlap.

    Args:
        paths: one or several files.
        reading: the classes and their values.
        size: (height, width) that the mask must have; None: that of the first file.
        resize: bring a file of another size to `size` (nearest, or as `read_mask` for a file of one class).
        noticed: gets the overlap of classes.

    Returns:
        uint8 (H, W), 0 for background, k for the k-th class.

    Raises:
        UnreadableImage: a file cannot be decoded.
        InputError: a file has another size, is no mask, is lossy, or holds a value that no class has.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "m.png"
    >>> Image.fromarray(np.array([[0, 1], [4, 2]], np.uint8)).save(path)
    >>> from segdistill.imaging.classes import parse_classes
    >>> read_class_mask([path], Reading(parse_classes({"head": 4, "body": [1, 2]}))).tolist()
    [[0, 2], [1, 2]]
    """
    if reading.of_file:
        return _painted(paths, reading, size, resize, noticed or Noticed())
    joined: Pixels | None = None
    for path in paths:
        found = _indices(Path(path), reading)
        size = size or (found.shape[0], found.shape[1])
        if found.shape != size:
            _require_resize(path, found.shape, size, resize)
            found = np.asarray(Image.fromarray(found).resize((size[1], size[0]), Image.Resampling.NEAREST))
        if joined is not None:
            if noticed is not None:
                noticed.overlap += int(np.count_nonzero((found > 0) & (joined > 0) & (found != joined)))
            found = np.where(found > 0, found, joined)
        joined = found
    if joined is None:
        raise InputError("no mask file given")
    return joined


def _painted(
    paths: Sequence[str | Path],
    reading: Reading,
    size: tuple[int, int] | None,
    resize: bool,
    noticed: Noticed,
) -> Pixels:
    """Files of one class each, painted one over the other in the order of the classes."""
    placed = sorted(
        (reading.index(name), Path(path)) for name, path in zip(reading.of_file, paths, strict=True)
    )
    mask: Pixels | None = None
    for index, path in placed:
        drawn = read_mask(
            [path], size, resize=resize, foreground=reading.foreground, background=reading.background
        )
        size = (drawn.shape[0], drawn.shape[1])
        mask = np.zeros(size, np.uint8) if mask is None else mask
        noticed.overlap += int(np.count_nonzero(drawn & (mask > 0) & (mask != index)))
        mask[drawn] = index
    assert mask is not None
    return mask


def _indices(path: Path, reading: Reading) -> Pixels:
    """The index of the class of every pixel of one file."""
    stored = read_stored(path)
    values = _distinct(stored, path)
    if values.is_lossy:
        raise InputError(
            f"{path}: a JPEG moves values, so that classes cannot be told apart: save the masks as PNG"
        )
    lookup = np.zeros(len(values), np.uint8)
    for n, name in enumerate(values.names):
        of_class = [k for k, each in enumerate(reading.classes, 1) if _is_one_of(values, n, each.values, 0)]
        if of_class:
            lookup[n] = of_class[0]
        elif n not in values.darkest() and not _is_one_of(values, n, reading.background, 0):
            raise unknown_value(name, reading, path)
    found: Pixels = lookup[values.where]
    return found


def _require_resize(path: str | Path, found: tuple[int, ...], wanted: tuple[int, int], resize: bool) -> None:
    if not resize:
        here, there = (f"{h} x {w}" for h, w in (found, wanted))
        raise InputError(f"{path}: mask is {here} pixels, but {there} are expected")


def looks_inverted(masks: NDArray[Any]) -> bool:
    """Whether foreground is most of the border of these masks (..., H, W), or most of them, as in inverted masks.

    >>> disc = np.zeros((1, 8, 8), bool)
    >>> disc[:, 3:5, 3:5] = True
    >>> looks_inverted(disc), looks_inverted(~disc)
    (False, True)
    """
    found = np.asarray(masks) != 0
    edges = (found[..., 0, :], found[..., -1, :], found[..., 1:-1, 0], found[..., 1:-1, -1])
    on_border = sum(int(np.count_nonzero(edge)) for edge in edges)
    return bool(2 * on_border > sum(edge.size for edge in edges) or 2 * np.count_nonzero(found) > found.size)


@dataclass(frozen=True, eq=False)
class _Values:
    """The distinct values of a file.

    Attributes:
        where: (H, W), the number of each pixel's value.
        names: of the values, as users see them.
        counts: pixels of each value.
        colours: RGBA (N, 4) of each value; None for grey levels.
        is_lossy: the file's format moves values.
    """

    where: NDArray[np.intp]
    names: list[Value | float]
    counts: NDArray[np.intp]
    colours: Pixels | None
    is_lossy: bool

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_grey(self) -> bool:
        """Grey levels, or a palette of as many different opaque ones."""
        if self.colours is None:
            return True
        alike = (self.colours[:, :3] == self.colours[:, :1]).all() and bool((self.colours[:, 3] == 255).all())
        return alike and len(np.unique(self.colours[:, 0])) == len(self)

    @property
    def levels(self) -> NDArray[np.float64]:
        """How bright each value is: grey, or the brightest channel."""
        found = self.names if self.colours is None else self.colours[:, :3].max(axis=1)
        return np.asarray(found, np.float64)

    @property
    def grey(self) -> Pixels:
        """(H, W), scaled to 8 bits where the levels have more."""
        lookup = self.levels.astype(np.float64 if any(level % 1 for level in self.levels) else np.int64)
        eight: Pixels = to_eight_bits(lookup)[self.where]
        return eight

    def darkest(self) -> list[int]:
        """The numbers of the values that are transparent; if none is, of those that are black."""
        if self.colours is None:
            return [n for n, name in enumerate(self.names) if name == 0]
        clear = np.flatnonzero(self.colours[:, 3] == 0)
        found = clear if len(clear) else np.flatnonzero(self.colours[:, :3].max(axis=1) == 0)
        return [int(n) for n in found]

    def border(self) -> int | None:
        """The number of the value of more than half of all border pixels; None: there is none."""
        edge = self.where[0], self.where[-1], self.where[1:-1, 0], self.where[1:-1, -1]
        counts = np.bincount(np.concatenate(edge), minlength=len(self))
        most = int(counts.argmax())
        return most if 2 * counts[most] > counts.sum() else None


@dataclass(frozen=True)
class _Reader:
    """Decides which pixels of one file are foreground: `read` gives grey (H, W), foreground from 128 on."""

    path: Path
    tolerance: float
    foreground: tuple[Value, ...]
    background: tuple[Value, ...]

    def read(self, stored: StoredPicture) -> Pixels:
        values = _distinct(stored, self.path)
        if self.foreground or self.background:
            return self._as_named(values)
        if len(values) == 1:
            return self._one(values)
        if len(values) == 2:
            back = self._back(values)
            return np.where(values.where == back, np.uint8(0), np.uint8(255))
        return self._soft(values)

    def _as_named(self, values: _Values) -> Pixels:
        near = _LOSSY if values.is_lossy else 0
        fore = np.array([_is_one_of(values, n, self.foreground, near) for n in range(len(values))])
        back = np.array([_is_one_of(values, n, self.background, near) for n in range(len(values))])
        if not self.foreground:
            fore = ~back
        elif self.background and not (fore | back).all() and not values.is_lossy:
            unknown = values.names[int(np.flatnonzero(~(fore | back))[0])]
            raise InputError(
                f"{self.path}: holds the value {unknown}, which is named neither foreground nor background"
            )
        return fore[values.where].astype(np.uint8) * np.uint8(255)

    def _one(self, values: _Values) -> Pixels:
        """A file of one value: nothing, or everything, is foreground."""
        shape, name = values.where.shape, values.names[0]
        if values.darkest() or (values.colours is not None and name == 0 and not values.is_grey):
            return np.zeros(shape, np.uint8)
        if values.is_grey and values.levels[0] in ((1, 255, 65535) if values.colours is None else (255,)):
            return np.full(shape, 255, np.uint8)
        raise InputError(
            f"{self.path}: every pixel is {name}: a mask has two values, 0 for background: {_advice(values, 0)}"
        )

    def _back(self, values: _Values) -> int:
        """The background's number, of two values."""
        border, dark = values.border(), values.darkest()
        if values.is_grey:
            low = int(values.levels.argmin())
            if values.levels[low] == 0 or border == low:
                return low
        elif len(dark) == 1 and border in (dark[0], None):
            return dark[0]
        elif not dark and border is not None:
            return border
        first, second = values.names
        raise InputError(
            f"{self.path}: which of {first} and {second} is the background cannot be seen: most of the border is "
            f"{'neither' if border is None else values.names[border]}: {_advice(values, border)}"
        )

    def _soft(self, values: _Values) -> Pixels:
        """A file of three and more values, where these are smooth edges between two."""
        grey = values.grey if values.is_grey else self._of_one_colour(values)
        counts = np.bincount(grey.ravel(), minlength=256)
        is_photo = counts[_DARK:_LIGHT].sum() / grey.size > self.tolerance
        if is_photo or not counts[_LIGHT:].any() or _are_labels(grey, values.is_lossy):
            raise InputError(self._several(values))
        return grey

    def _of_one_colour(self, values: _Values) -> Pixels:
        """The brightest channel of a drawing in one colour on black, with smooth edges."""
        assert values.colours is not None
        rgb = values.colours[:, :3].astype(np.int64)
        level = rgb.max(axis=1)
        grey: Pixels = level.astype(np.uint8)[values.where]
        drawn = np.flatnonzero(level >= 128)
        if not len(drawn):
            raise InputError(self._several(values))
        weight = values.counts[drawn]
        main = rgb[drawn[int(weight.argmax())]]
        other = weight[np.abs(rgb[drawn] - main).max(axis=1) > 96].sum() / weight.sum()
        edge = np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1]))
        on_black = 2 * np.count_nonzero(edge < _DARK) > edge.size
        is_plain = np.ptp(main) <= 32 and other <= 0.001 and bool((grey < _DARK).any())
        if other > 0.02 or not (on_black or is_plain):
            raise InputError(self._several(values))
        return grey

    def _several(self, values: _Values) -> str:
        few = ", ".join([*map(str, values.names[:_SHOWN]), *(["..."] if len(values) > _SHOWN else [])])
        what = "grey values" if values.colours is None else "palette values"
        what = "colours" if isinstance(values.names[0], str) else what
        return (
            f"{self.path}: is not a mask: it holds {len(values)} {what} ({few}); a mask has two; if these are classes "
            f"or instances, {_advice(values, values.border())}"
        )


def _advice(values: _Values, back: int | None) -> str:
    """The line to write."""
    if len(values) > _SHOWN:
        key, name = "background", 0 if back is None else values.names[back]
    else:
        found = [name for n, name in enumerate(values.names) if n != back and n not in values.darkest()]
        key, name = "foreground", (found or values.names)[0]
    shown = f"'{name}'" if isinstance(name, str) else f"{name:g}"
    named = ""
    if key == "foreground" and len(values) > 2 and len(found) > 1 and not values.is_lossy:
        pairs = ";".join(f"{letter}={value}" for letter, value in zip("abcdef", found, strict=False))
        named = (
            f"name them (--classes '{pairs}' of data index, data.classes in a recipe, or a column classes in the "
            "table); as one structure, "
        )
    return (
        f"{named}write {key}: [{shown}] with the values that are {key} (data.{key} in a recipe, --{key} {shown} of "
        f"data index, or a column {key} in the table)"
    )


def _distinct(stored: StoredPicture, path: Path) -> _Values:
    values = stored.values
    if values.ndim == 3:
        drawn = _drawn(values)
        if drawn.ndim == 3:
            return _distinct_colours(drawn, stored.is_lossy)
        values = drawn
    if np.issubdtype(values.dtype, np.floating):
        values = _whole(values, path)
    known, first, where, counts = np.unique(
        values.reshape(-1), return_index=True, return_inverse=True, return_counts=True
    )
    colours = None if stored.colours is None else stored.colours.reshape(-1, 4)[first]
    if colours is not None and len(np.unique(colours, axis=0)) < len(known):
        colours = None  # a palette that shows different values alike: the numbers count
    names: list[Value | float] = [value.item() for value in known]
    return _Values(where.reshape(values.shape), names, counts, colours, stored.is_lossy)


def _distinct_colours(rgba: Pixels, is_lossy: bool) -> _Values:
    packed = np.ascontiguousarray(rgba).view(">u4")[..., 0]
    known, where, counts = np.unique(packed.reshape(-1), return_inverse=True, return_counts=True)
    colours = known.astype(">u4").view(np.uint8).reshape(-1, 4)
    names: list[Value | float] = ["#" + bytes(one[:3]).hex() if one[3] else TRANSPARENT for one in colours]
    return _Values(where.reshape(packed.shape), names, counts, colours, is_lossy)


def _drawn(rgba: Pixels) -> Pixels:
    """What is drawn: grey (H, W) where one channel has it all, else RGBA (H, W, 4) with an alpha of 0 or 255."""
    colour, alpha = rgba[..., :3], rgba[..., 3]
    if not alpha.any():
        return np.zeros_like(alpha)
    if alpha.min() == alpha.max():
        if (colour == colour[..., :1]).all():
            return colour[..., 0]
        return np.dstack([colour, np.full_like(alpha, 255)])
    shown = colour[alpha > 0]
    if (shown == shown[0]).all():
        return alpha
    over_black = (colour.astype(np.uint16) * alpha[..., None] + 127) // 255
    return np.dstack([over_black, np.where(alpha > 0, 255, 0)]).astype(np.uint8)


def _whole(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Real numbers as labels where all are nearly whole; shares from 0 to 1 as 8 bits."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{path}: is not a mask: it holds NaN or infinite values: write whole numbers")
    whole: NDArray[Any] = np.rint(values)
    if np.abs(values - whole).max() <= 1e-3 and max(-low, high) < 2**31:
        return whole.astype(np.int64)
    if low >= 0 and high <= 1:
        return to_eight_bits(values)
    raise InputError(
        f"{path}: is not a mask: it holds fractions from {low:g} to {high:g}: write whole numbers"
    )


def _is_one_of(values: _Values, n: int, named: Sequence[Value], near: int) -> bool:
    """Whether a value is one of those that a user has named, by its number or by its colour."""
    return any(_is_value(values, n, value, near) for value in named)


def _is_value(values: _Values, n: int, value: Value, near: int) -> bool:
    own, colour = values.names[n], None if values.colours is None else values.colours[n].astype(int)
    if own == value or (own is True and value == 255):
        return True
    if isinstance(value, int) and not isinstance(own, str):
        return abs(own - value) <= near
    wanted = _rgb(value)
    return colour is not None and wanted is not None and bool(np.abs(colour - wanted).max() <= near)


def _rgb(value: Value) -> NDArray[np.int64] | None:
    """RGBA of the colour that a user means; a number is a grey level, since it is compared with a colour."""
    if value == TRANSPARENT:
        return None
    return np.array([*([value] * 3 if isinstance(value, int) else bytes.fromhex(value[1:])), 255], np.int64)


def _are_labels(grey: Pixels, is_lossy: bool) -> bool:
    """Whether three and more values are classes or instances, which fill areas, and not smooth or lossy edges."""
    counts = np.bincount(grey.ravel(), minlength=256)
    found = np.flatnonzero(counts)
    dark, pale = ((found > 0) & (found < _DARK)).sum(), ((found > _LIGHT) & (found < 255)).sum()
    is_lossy = is_lossy or bool(min(dark, pale) >= 2 and len(found) >= 8)  # once a JPEG
    light = grey if is_lossy else np.where(grey >= 250, np.uint8(255), grey)
    low, high = _ranked(light, np.minimum), _ranked(light, np.maximum)
    return _fill_areas(light, low, high) or (not is_lossy and _are_few(light, low, high))


def _fill_areas(grey: Pixels, low: Pixels, high: Pixels) -> bool:
    """Whether many values between dark and light lie among their like, or none of them between dark and light."""
    between = (grey >= 32) & (grey < 224)
    total = np.count_nonzero(between)
    flat = np.count_nonzero(between & (high - low <= 16))
    on_edge = np.count_nonzero(between & (low < grey) & (high > grey))
    return bool((flat >= 4 and flat >= 0.02 * total) or (total >= 20 and on_edge < 0.3 * total))


def _are_few(grey: Pixels, low: Pixels, high: Pixels) -> bool:
    """Whether a lossless file has so few values, or such areas of them, that they are labels."""
    counts = np.bincount(grey.ravel(), minlength=256)
    found = np.flatnonzero(counts)
    if len(found) <= 4:
        return len(found) > 2
    inner = (grey > found[0]) & (grey < found[-1])
    on_edge = inner & (low < grey) & (high > grey)
    if len(found) <= 8 and np.count_nonzero(on_edge) < 0.9 * np.count_nonzero(inner):
        return True
    flat = np.bincount(grey[inner & (low == high)], minlength=256)
    is_area = (counts >= 9) & (flat >= np.maximum(1, 0.25 * counts))
    return len(found) <= _LABELS and bool(is_area.any())


def _ranked(grey: Pixels, choose: np.ufunc) -> Pixels:
    """The least or the greatest value of each pixel and its eight neighbours."""
    padded = np.pad(grey, 1, mode="edge")
    rows = choose(choose(padded[:-2], padded[1:-1]), padded[2:])
    found: Pixels = choose(choose(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    return found
