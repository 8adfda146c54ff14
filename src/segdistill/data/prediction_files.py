"""One prediction of another tool as the probability of the foreground: labels, maps, and files of several classes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.datasets.base import stem_of
from segdistill.errors import InputError
from segdistill.files import shown
from segdistill.imaging.channels import Channels
from segdistill.imaging.read import READABLE_SUFFIXES, read_stored
from segdistill.imaging.read_volume import VOLUME_SUFFIXES, nifti_info, read_channels, read_volume
from segdistill.imaging.volume import Geometry, Volume

Map = NDArray[np.float32]

_JSON = 1 << 24  # bytes of a JSON file
_RANGE = 1e-3  # how far a probability may lie outside of 0 to 1
_SUM = 0.02  # how far the classes' sum may lie from 1: float16 and resampling
_AGREE = 0.01  # share of the foreground in which probabilities and the segmentation beside them may differ
_SHOWN = 8
_CANONICAL = (
    (0.0, 0.0, 1.0),
    (0.0, -1.0, 0.0),
    (-1.0, 0.0, 0.0),
)  # slices up, rows to the front, columns right


@dataclass(frozen=True)
class Classes:
    """What the values of a label map, or the maps of a file with several classes, mean.

    Attributes:
        values: name -> its values, background excluded; several are a region. In the order of the file.
        order: of regions, the value that each one gets, in the order in which they are painted; () without regions.

    >>> Classes({"tumour": (1, 2), "core": (2,)}, (1, 2)).order
    (1, 2)
    """

    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How predictions are read.

    Attributes:
        foreground: names or values that become the one class; () where there is only one.
        hard: the probability that a hard label becomes.
        grey_is_labels: grey pictures hold labels, not probabilities: see `grey_holds_labels`.
    """

    foreground: tuple[int | str, ...] = ()
    hard: float = 0.98
    grey_is_labels: bool = False


@dataclass(frozen=True)
class Entry:
    """The prediction of one case.

    Attributes:
        place: its file, or its folder with one file per class.
        parts: class -> file of such a folder; {} for a single file.
        segmentation: of an .npz file, the segmentation that was written beside it.
        names: the JSON file that names its labels; None without one.
    """

    place: Path
    parts: Mapping[str, Path] = field(default_factory=dict)
    segmentation: Path | None = None
    names: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that hold its values."""
        if self.parts:
            return tuple(self.parts.values())
        return (self.place,) if self.segmentation is None else (self.place, self.segmentation)


def is_prediction(path: Path) -> bool:
    """Whether a file's name is that of a prediction.

    >>> [is_prediction(Path(name)) for name in ("a.nii.gz", "a.npz", "a.png", "a.pkl", "plans.json")]
    [True, True, True, False, False]
    """
    name = path.name.lower()
    return name.endswith((".npz", *VOLUME_SUFFIXES)) or path.suffix.lower() in READABLE_SUFFIXES


def read_classes(path: Path) -> Classes:
    """The labels of a JSON file: name: value, as in nnU-Net's dataset.json, or value: name, as in the Decathlon's.

    Raises:
        InputError: it cannot be read, is larger than 16 MiB, or names no labels.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "dataset.json"
    >>> _ = path.write_text('{"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}')
    >>> read_classes(path)
    Classes(values={'whole': (1, 2), 'core': (2,)}, order=(1, 2))
    """
    try:
        if path.stat().st_size > _JSON:
            raise InputError(f"{path}: is larger than {_JSON} bytes: it should only name labels")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        labels = content.get("labels", content)
        if all(str(key).isdecimal() for key in labels):
            labels = {str(name): int(value) for value, name in labels.items()}
        listed = {str(name): _values(value) for name, value in labels.items() if name != "ignore"}
        order = tuple(int(value) for value in content.get("regions_class_order") or ())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f'{path}: names no labels ({type(error).__name__}): write "labels": {{"background": 0, "organ": 1}}, or '
            "remove the file"
        ) from error
    named = {name: values for name, values in listed.items() if set(values) != {0}}
    if not any(len(values) > 1 for values in named.values()):
        return Classes(named)
    if len(order) != len(named):
        raise InputError(
            f"{path}: has {len(named)} regions and {len(order)} values in regions_class_order: restore the file"
        )
    return Classes(named, order)


def _values(value: Any) -> tuple[int, ...]:
    return tuple(int(each) for each in value) if isinstance(value, list) else (int(value),)


def grey_holds_labels(files: Iterable[Path], foreground: Sequence[int | str]) -> bool:
    """Whether the grey pictures of a folder hold labels; else they are probabilities, value / largest value.

    They hold labels where all of them together have two values; where at most 32 values occur and none reaches half of
    white; or where at most 32 values occur and `foreground` names some of them.

    Raises:
        InputError: a file cannot be read.

    >>> grey_holds_labels([], ())
    True
    """
    levels: set[float] = set()
    known: set[float] = set()
    for file in files:
        values = _grey(file)
        if values is None or values.dtype.kind == "f":
            continue
        white = 1 if values.dtype == np.bool_ else np.iinfo(values.dtype).max
        found = np.flatnonzero(np.bincount(values.reshape(-1))).tolist()
        known |= set(found)
        levels |= {value / white for value in found}
        if len(known) > 32:
            return False
    named = bool(foreground) and all(isinstance(value, str) or value in known for value in foreground)
    return len(known) <= 2 or levels <= {0.0, 1.0} or max(levels) < 0.5 or named


def _grey(path: Path) -> NDArray[Any] | None:
    """Grey values (H, W); None for a palette's numbers, which are labels."""
    stored = read_stored(path)
    if stored.is_lossy:
        raise InputError(f"{shown(path)}: is a JPEG, which moves values: save predictions as PNG")
    values = stored.values
    if stored.colours is not None:
        return None
    if values.ndim == 3:
        if (values[..., :3] != values[..., :1]).any() or (values[..., 3] != 255).any():
            raise InputError(
                f"{shown(path)}: is coloured or transparent: save labels with a palette, or probabilities in grey"
            )
        values = values[..., 0]
    if values.dtype.kind == "i":  # Pillow gives 16 bits of some formats as 32
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise InputError(
                f"{shown(path)}: holds values from {low} to {high}: pictures of 8 or 16 bits are read"
            )
        return values.astype(np.uint16)
    return values


def read_picture_map(entry: Entry, reading: Reading) -> Map:
    """The probability (H, W) of the foreground of a picture.

    Raises:
        InputError: a file that cannot be read or is of a volume, values outside of [0, 1] or NaN, or several
            classes of which `foreground` chooses none.
    """
    if entry.parts:
        return _joined([_picture(path, reading, Classes(), is_part=True) for path in _chosen(entry, reading)])
    classes = read_classes(entry.names) if entry.names else Classes()
    if entry.segmentation is not None:
        labels = read_stored(entry.segmentation).values
        channels = read_channels(entry.place)
        if channels.shape[0] != 1:
            raise _not_a_picture(entry.place)
        beside = Volume(
            labels[None], None, entry.segmentation, Geometry((1, *labels.shape[:2]), (1.0, 1.0, 1.0))
        )
        found: Map = _checked_channels(channels, classes, reading, beside)[0][0]
        return found
    return _picture(entry.place, reading, classes, is_part=False)


def read_volume_map(entry: Entry, reading: Reading) -> list[Volume]:
    """The probability (D, H, W) of the foreground of a volume, as stored; several are joined by their maximum.

    Raises:
        InputError: a file that cannot be read or is of a picture, values outside of [0, 1] or NaN, several classes
            of which `foreground` chooses none, or probabilities that differ from the segmentation beside them.
    """
    if entry.parts:
        return [_volume(path, reading, Classes(), is_part=True) for path in _chosen(entry, reading)]
    classes = read_classes(entry.names) if entry.names else Classes()
    if entry.segmentation is None:
        return [_volume(entry.place, reading, classes, is_part=False)]
    beside = read_volume(entry.segmentation, turn=False)
    values, geometry = _checked_channels(read_channels(entry.place), classes, reading, beside)
    second = beside.second if geometry is beside.geometry else None
    return [Volume(values, None, entry.place, geometry, second)]


def _joined(maps: list[Map]) -> Map:
    joined = maps[0]
    for each in maps[1:]:
        if each.shape != joined.shape:
            raise InputError("the files of a case's classes differ in size: restore them")
        joined = np.maximum(joined, each)
    return joined


def _chosen(entry: Entry, reading: Reading) -> list[Path]:
    """The files of the classes that are foreground."""
    names = reading.foreground or (tuple(entry.parts) if len(entry.parts) == 1 else ())
    if not names:
        raise _several(entry.place, "one file per class", entry.parts)
    for name in names:
        if str(name) not in entry.parts:
            raise InputError(
                f"{shown(entry.place)}: has no file of the class {name!r}: foreground must name some of "
                f"{_few(entry.parts)}"
            )
    return [entry.parts[str(name)] for name in names]


def _picture(path: Path, reading: Reading, classes: Classes, is_part: bool) -> Map:
    if not is_prediction(path) or path.name.lower().endswith((".npz", *VOLUME_SUFFIXES)):
        raise _not_a_picture(path)
    values = _grey(path)
    if values is None:
        return _of_labels(read_stored(path).values, path, classes, reading, is_part)
    if values.dtype.kind == "f":
        return _of_numbers(values, path, classes, reading, is_part)
    if reading.grey_is_labels or values.dtype == np.bool_:
        return _of_labels(values, path, classes, reading, is_part)
    if reading.foreground and not is_part:
        raise _one_class(path)
    found: Map = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    return found


def _volume(path: Path, reading: Reading, classes: Classes, is_part: bool) -> Volume:
    if not path.name.lower().endswith(VOLUME_SUFFIXES):
        raise InputError(
            f"{shown(path)}: is a picture, but its case is a volume: save the prediction as NIfTI"
        )
    if path.name.lower().endswith((".nii", ".nii.gz")):
        info = nifti_info(path)
        if len(info.dimensions) > 3:
            channels = read_channels(path)
            assert channels.geometry is not None
            return Volume(_of_channels(channels, classes, reading)[0], None, path, channels.geometry)
        named = {name: (value,) for name, value in info.labels.items() if value}
        classes = Classes(named) if named and not is_part else classes
    stored = read_volume(path, turn=False)
    take = _of_labels if stored.voxels.dtype.kind in "iub" else _of_numbers
    values = take(np.asarray(stored.voxels), path, classes, reading, is_part)
    return Volume(values, None, path, stored.geometry, stored.second)


def _of_numbers(values: NDArray[Any], path: Path, classes: Classes, reading: Reading, is_part: bool) -> Map:
    """Real numbers: labels where all are whole, else probabilities of one class."""
    if all(_is_whole(part) for part in values):
        return _of_labels(np.rint(values).astype(np.int32), path, classes, reading, is_part)
    found = _probabilities(values, path)
    if reading.foreground and not is_part:
        raise _one_class(path)
    return found


def _is_whole(values: NDArray[Any]) -> bool:
    """Whether real numbers are labels; a part at a time is looked at, since a volume is large."""
    if not np.isfinite(values).all() or values.min() < -_RANGE or values.max() >= 2**31:
        return False
    return bool((np.abs(values - np.rint(values)) <= _RANGE).all())


def _labels_in(values: NDArray[Any]) -> list[int]:
    """The labels that occur, without 0, in their order."""
    found: set[int] = set()
    for part in values:
        if part.dtype.kind == "b" or (part.min() >= 0 and part.max() < 1 << 16):
            found.update(np.flatnonzero(np.bincount(part.reshape(-1))).tolist())
        else:
            found.update(np.unique(part).tolist())
    return sorted(found - {0})


def _probabilities(values: NDArray[Any], path: Path) -> Map:
    """float32 from 0 to 1, or InputError."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{shown(path)}: holds NaN or infinite values: write probabilities from 0 to 1")
    if low < -_RANGE or high > 1 + _RANGE:
        raise InputError(
            f"{shown(path)}: holds values from {low:.6g} to {high:.6g}: probabilities lie from 0 to 1: apply softmax "
            "or sigmoid to logits before they are saved"
        )
    return np.clip(values.astype(np.float32), 0, 1)


def _of_labels(values: NDArray[Any], path: Path, classes: Classes, reading: Reading, is_part: bool) -> Map:
    """Labels as probabilities: `hard` in the foreground, 1 - `hard` elsewhere."""
    present = _labels_in(values)
    if present and present[0] < 0:
        raise InputError(f"{shown(path)}: holds negative labels, down to {present[0]}: labels count from 0")
    if is_part:
        if len(present) > 1 or not set(present) <= {1, 255, 65535}:
            raise InputError(f"{shown(path)}: is the file of one class, but holds the labels {_few(present)}")
        chosen = present
    elif reading.foreground:
        chosen = [
            value for named in reading.foreground for value in _values_of(named, path, classes, present)
        ]
    elif classes.values:
        every = set(classes.values)
        if len(every) > 1:
            here = [name for name in classes.values if set(classes.values[name]) & set(present)]
            raise _several(path, "labels", [*here, *(name for name in classes.values if name not in here)])
        chosen = [value for each in classes.values.values() for value in each]
    elif len(present) > 1 or not set(present) <= {1, 255, 65535}:
        raise _several(path, "labels", present)
    else:
        chosen = present
    is_fore = np.isin(values, chosen)
    return np.where(is_fore, np.float32(reading.hard), np.float32(1 - reading.hard))


def _values_of(named: int | str, path: Path, classes: Classes, present: Sequence[int]) -> tuple[int, ...]:
    """The values that one entry of `foreground` means."""
    if str(named) in classes.values:
        return classes.values[str(named)]
    if str(named).isdecimal():
        known = {value for values in classes.values.values() for value in values}
        if int(named) == 0 or (known and int(named) not in known):
            raise InputError(
                f"{shown(path)}: foreground holds {named}, which is "
                f"{'the background' if int(named) == 0 else 'no label'}: name some of {_few(classes.values or present)}"
            )
        return (int(named),)
    if not classes.values:
        raise InputError(
            f"{shown(path)}: foreground holds {named!r}, but no file names its labels: write values, such as "
            f"foreground: [{present[0] if present else 1}], or put a dataset.json beside it"
        )
    raise InputError(
        f"{shown(path)}: has no label {named!r}: foreground must name some of {_few(classes.values)}"
    )


def _of_channels(
    channels: Channels, classes: Classes, reading: Reading, painted: _Painted | None = None
) -> tuple[Map, NDArray[np.int16] | None]:
    """The foreground's probability of several maps, read one after the other, and the labels that they give."""
    chosen = _channels_of(channels, classes, reading)
    summed, highest, total = (np.zeros(channels.shape, np.float32) for _ in range(3))
    is_hard = True
    for k, raw in enumerate(channels.read()):
        values = _probabilities(raw, channels.source)
        is_hard = is_hard and bool(((values == 0) | (values == 1)).all())
        total += values
        if painted is not None:
            painted.add(k, values)
        if k in chosen:
            summed += values
            np.maximum(highest, values, out=highest)
    is_shared = not classes.order and channels.count > 1 and bool((np.abs(total - 1) <= _SUM).all())
    _require_sense(channels, classes, reading, chosen, is_shared)
    found: Map = np.clip(summed, 0, 1) if is_shared else highest
    if is_hard:
        found = np.where(found >= 0.5, np.float32(reading.hard), np.float32(1 - reading.hard))
    return found, None if painted is None else painted.labels


def _channels_of(channels: Channels, classes: Classes, reading: Reading) -> set[int]:
    """The numbers of the maps that are foreground."""
    names = list(classes.values)
    expected = len(names) if classes.order else 1 + len(names)
    if names and channels.count != expected:
        raise InputError(
            f"{shown(channels.source)}: holds {channels.count} maps, but its dataset.json names {expected} "
            f"({_few(names)}{'' if classes.order else ' and the background'}): put the right one beside it"
        )
    if not reading.foreground:
        if channels.count > (1 if classes.order else 2):
            listed = names or range(channels.count)
            raise _several(channels.source, "maps of classes", listed)
        return {channels.count - 1}
    if classes.order:
        return {_region_of(named, channels.source, classes) for named in reading.foreground}
    present = range(channels.count)
    found = {
        value
        for named in reading.foreground
        for value in (
            (0,) if named == 0 and not names else _values_of(named, channels.source, classes, present)
        )
    }
    if max(found) >= channels.count:
        raise InputError(
            f"{shown(channels.source)}: foreground holds {max(found)}, but the file has {channels.count} maps, counted "
            "from 0"
        )
    return found


def _region_of(named: int | str, path: Path, classes: Classes) -> int:
    names = list(classes.values)
    if str(named) in names:
        return names.index(str(named))
    alone = [k for k, name in enumerate(names) if classes.values[name] == (named,)]
    if alone:
        return alone[0]
    raise InputError(f"{shown(path)}: has no region {named!r}: foreground must name some of {_few(names)}")


def _require_sense(
    channels: Channels, classes: Classes, reading: Reading, chosen: set[int], is_shared: bool
) -> None:
    """InputError where the maps' sum contradicts what was chosen."""
    if is_shared and 0 in chosen:
        raise InputError(
            f"{shown(channels.source)}: foreground holds 0, which is the background, since all classes add up to 1: "
            f"name some of {_few(range(1, channels.count))}"
        )
    if classes.order or is_shared or channels.count == 1:
        return
    if classes.values:
        raise InputError(
            f"{shown(channels.source)}: its classes do not add up to 1, as softmax makes them: of regions the "
            "dataset.json must name them, with regions_class_order"
        )
    if not reading.foreground:
        raise _several(channels.source, "maps of classes", range(channels.count))


class _Painted:
    """The labels that nnU-Net makes of probabilities: the largest one, or regions above 0.5, one after the other."""

    def __init__(self, shape: tuple[int, int, int], classes: Classes) -> None:
        self.labels = np.zeros(shape, np.int16)
        self._order = classes.order
        self._best = np.full(shape, -1, np.float32)

    def add(self, k: int, values: Map) -> None:
        """Takes the map of class or region `k`."""
        is_new = values > (0.5 if self._order else self._best)
        self.labels[is_new] = self._order[k] if self._order else k
        if not self._order:
            np.maximum(self._best, values, out=self._best)


def _checked_channels(
    channels: Channels, classes: Classes, reading: Reading, beside: Volume
) -> tuple[Map, Geometry]:
    """The foreground's probability where its labels are those of the segmentation beside it, and how it lies."""
    path = shown(channels.source)
    if beside.voxels.ndim != 3:
        raise InputError(f"{path}: the segmentation beside it is coloured: restore {beside.source.name}")
    found, labels = _of_channels(channels, classes, reading, _Painted(channels.shape, classes))
    assert labels is not None
    share = 1.0
    for geometry, voxels in _arrangements(beside):
        if voxels.shape == labels.shape:
            fore = int(np.count_nonzero((labels > 0) | (voxels > 0)))
            apart = int(np.count_nonzero(labels != voxels))
            if apart <= _AGREE * fore:
                return found, geometry
            share = min(share, apart / max(fore, 1))
    sides = [" x ".join(map(str, each)) for each in (channels.shape, beside.voxels.shape)]
    if sides[0] != sides[1]:
        raise InputError(f"{path}: is of {sides[0]} voxels, but {beside.source.name} beside it of {sides[1]}")
    raise InputError(
        f"{path}: differs from {beside.source.name} beside it in {share:.1%} of the foreground (1 % is accepted): both "
        "must come from one prediction, without postprocessing, with its dataset.json"
    )


def _arrangements(beside: Volume) -> list[tuple[Geometry, NDArray[Any]]]:
    """The segmentation as stored, and as nnU-Net's NibabelIOWithReorient sees it."""
    canonical = Geometry((1, 1, 1), (1.0, 1.0, 1.0), _CANONICAL)
    geometry, order, flips = beside.geometry.towards(canonical)
    turned = beside.voxels.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return [(beside.geometry, beside.voxels), (geometry, turned)]


def _several(path: Path, what: str, names: Iterable[object]) -> InputError:
    """Several classes, of which none was chosen: the line to write."""
    listed = [str(name) for name in names]
    return InputError(
        f"{shown(path)}: holds {what}, several or of unknown meaning ({_few(listed)}): choose those that become the "
        f"foreground: write foreground: [{listed[-1] if listed[:1] == ['0'] else listed[0]}]"
    )


def _one_class(path: Path) -> InputError:
    return InputError(
        f"{shown(path)}: holds the probability of one class, of which none is chosen: remove foreground"
    )


def _not_a_picture(path: Path) -> InputError:
    return InputError(f"{shown(path)}: is no picture, but its case is one: save the prediction as PNG")


def _few(names: Iterable[object]) -> str:
    listed = [str(name) for name in names]
    return ", ".join([*listed[:_SHOWN], *(["..."] if len(listed) > _SHOWN else [])])


def json_beside(path: Path, folder: Path) -> Path | None:
    """The JSON file that names a prediction's labels: one of its own name, or the nearest dataset.json.

    Args:
        path: the prediction.
        folder: the folder of all of them, above which nothing is looked for, but for nnU-Net's fold_k/validation.
    """
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    own = [path.parent / f"{stem_of(path)}.json"] if is_nifti else []  # beside a TIFF it holds the spacing
    top = (
        folder.parent.parent
        if folder.name == "validation" and folder.parent.name.startswith("fold_")
        else folder
    )
    above = [place for place in path.parents if place == top or place.is_relative_to(top)]
    return next(
        (file for file in (*own, *(place / "dataset.json" for place in above)) if file.is_file()), None
    )
