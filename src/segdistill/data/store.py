"""The prepared store: every case decoded and resized once into arrays that training maps into memory.

A picture is one row, a volume one row per slice; a patch grid makes one row per patch of each.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case, content_key, inverted_note, require_unique
from segdistill.data.levels import is_scaled
from segdistill.data.opened import OpenedCase, open_case
from segdistill.errors import InputError
from segdistill.files import sha256_text
from segdistill.imaging.grid import AnyPreprocess, VolumePreprocess, resample_mask
from segdistill.imaging.intensity import intensity_to_json
from segdistill.imaging.masks import looks_inverted
from segdistill.imaging.preprocess import prepare_mask
from segdistill.imaging.small import SMALLEST, SmallComponents, count_small, find_small
from segdistill.imaging.volume import Noticed

_VERSION = 3
_VOLUMES = 1  # version of how volumes are resampled
_SLICES = 1  # version of how volumes become slices
_CHECKED_BYTES = 1 << 30  # content is checked on opening up to this size, sizes alone beyond

Progress = Callable[[int, int], None]


class Rows(NamedTuple):
    """What one case becomes: its prepared images and masks, what resizing does to the components of its masks, and what
    was noticed of its files.
    """

    images: list[NDArray[np.uint8]]
    masks: list[NDArray[np.uint8]]
    small: list[SmallComponents]
    noticed: Noticed


class Ragged:
    """Arrays of different shapes that lie one after the other in a flat one.

    >>> both = Ragged(np.arange(5, dtype=np.uint8), [(2, 1), (3,)])
    >>> both[1].tolist(), len(both)
    ([2, 3, 4], 2)
    """

    def __init__(self, flat: NDArray[np.uint8], shapes: Sequence[Sequence[int]]) -> None:
        self._flat, self._shapes = flat, [tuple(shape) for shape in shapes]
        self._ends = np.cumsum([0, *(math.prod(shape) for shape in self._shapes)])
        if self._ends[-1] != len(flat):
            raise ValueError("shapes and numbers disagree")

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self._flat[self._ends[row] : self._ends[row + 1]].reshape(
            self._shapes[row]
        )
        return found

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the arrays."""
        return self._shapes


class Store:
    """Prepared cases, opened read-only.

    Attributes:
        folder: where the arrays lie.
        ids: names of the rows: a picture's is its case's id, slice 4 of a volume is "id#4", patch 2 of it "id#4@2".
        cases: the case of every row.
        small: what resizing does to the components of the masks, all cases together.
        keeps_small: whether those that would vanish lie in the masks as one pixel each.

    Made by `prepare_store`.
    """

    def __init__(self, folder: Path) -> None:
        index = _read_index(folder)
        self.folder = folder
        self.ids: list[str] = index["ids"]
        self.cases: list[str] = index.get("cases", self.ids)
        self._has_mask: list[bool] = index["has_mask"]
        images, masks = (_map(folder / name, index["files"][name]) for name in ("images.npy", "masks.npy"))
        self._patch: list[int] | None = index.get("patch")
        volumes = self._patch is not None
        count = [index["channels"]] if "channels" in index else []
        self._images: Any = (
            Ragged(images, [[*each, *count] for each in index["shapes"]]) if volumes else images
        )
        self._masks: Any = Ragged(masks, index["shapes"]) if volumes else masks
        self._foreground: list[bool] | None = index.get("foreground")
        total, vanished, exempt, losing = index["small"]
        self.small = SmallComponents(total, vanished, exempt, frozenset(losing))
        self.keeps_small: bool = index["keep_small"]
        self._inverted: list[str] = index["inverted"]
        self._classes: dict[str, list[int]] = index.get("classes", {})
        self._drawn: int = index["drawn"]
        self._noticed: list[str] = index.get("noticed", [])
        if (
            not len(self._images)
            == len(self._masks)
            == len(self.ids)
            == len(self.cases)
            == len(self._has_mask)
        ):
            raise ValueError("arrays and index disagree")
        self._of_case: dict[str, list[int]] = {}
        for row, name in enumerate(self.cases):
            self._of_case.setdefault(name, []).append(row)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return type(self), (self.folder,)  # another process maps the same files

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width) of every prepared image; of volumes (depth, height, width) of the patches that are seen."""
        return tuple(map(int, self._images.shape[1:3])) if self._patch is None else tuple(self._patch)

    @property
    def holds_volumes(self) -> bool:
        """Whether a row is a whole volume, of which patches are seen."""
        return self._patch is not None

    def shape(self, row: int) -> tuple[int, ...]:
        """(height, width), or (depth, height, width), of a row's mask."""
        found: tuple[int, ...] = self._masks[row].shape
        return found

    def rows(self, case_id: str) -> list[int]:
        """The rows of a case, in the order of its slices and patches.

        Raises:
            InputError: the case is not in the store.
        """
        try:
            return self._of_case[case_id]
        except KeyError as error:
            raise InputError(
                f"case '{case_id}' is not in the prepared store: prepare it from the same table"
            ) from error

    def row(self, case_id: str) -> int:
        """The only row of a case that is a single picture.

        Raises:
            InputError: the case is not in the store, or has several rows.
        """
        rows = self.rows(case_id)
        if len(rows) > 1:
            raise InputError(f"case '{case_id}' has {len(rows)} rows, of slices or patches: read all of them")
        return rows[0]

    def image(self, row: int) -> NDArray[np.uint8]:
        """Prepared pixels, uint8 (H, W, 1 or 3), or voxels (D, H, W), read-only; to be normalised.

        Of several channels (H, W, C), or (D, H, W, C).
        """
        image: NDArray[np.uint8] = self._images[row]
        return image

    def mask(self, row: int) -> NDArray[np.uint8]:
        """Prepared reference, uint8 (H, W) or (D, H, W) of the indices of classes, read-only; zero without one."""
        mask: NDArray[np.uint8] = self._masks[row]
        return mask

    def has_mask(self, row: int) -> bool:
        """Whether the case has a reference (an empty mask of a normal image is one)."""
        return self._has_mask[row]

    def has_foreground(self, row: int) -> bool:
        """Whether the prepared reference holds any foreground."""
        return self._foreground[row] if self._foreground is not None else bool(self._masks[row].any())

    def classes(self, case_id: str) -> frozenset[int]:
        """The indices of the classes that the prepared masks of a case hold, where the table has several."""
        return frozenset(self._classes.get(case_id, ()))

    def notes(self) -> list[str]:
        """What to know of the masks before training, one line each."""
        notes = (self.small_note(), inverted_note(self._inverted, self._drawn), *self._noticed)
        return [note for note in notes if note]

    def small_note(self) -> str:
        """One line on the components that vanish at this size, and the size that keeps them; "" where none does."""
        small, (height, width) = self.small, self.size[-2:]
        if not small.vanished and not small.exempt:
            return ""
        told = f"{small.exempt} of fewer than {SMALLEST} pixels vanish and are not counted"
        if not small.vanished:
            return f"at {height}x{width} no component of a mask is lost; {told}"
        kept = "each is trained as the one pixel that it covers most"
        if not self.keeps_small:
            kept = "they are trained as background (data.keep_small=true keeps each as one pixel)"
        line = (
            f"{small.vanished} of {small.total} components of the masks are too small for {height}x{width} and vanish: "
            f"{kept}; size={small.keeping_size(min(self.size))} keeps all of them"
        )
        return f"{line}; {told}" if small.exempt else line


def prepare_store(
    cases: Sequence[Case],
    preprocess: AnyPreprocess,
    folder: str | Path,
    progress: Progress | None = None,
    workers: int | None = None,
    keep_small: bool = True,
) -> Store:
    """Opens the store of these cases below `folder`; builds it first if it is absent, damaged or of other
    content.

    The store's name is a hash of what decides the pixels: size, colour, and every case's files. It appears
    under that name only when complete, so several processes may build it at once, and a failure leaves
    nothing behind.

    Args:
        cases: at least one case; rows get this order.
        preprocess: `size`, `colour`, `intensity` and `patches` matter here.
        folder: where stores are kept.
        progress: called with (done, total) after every case.
        workers: decoding threads; by default the number of cores, at most 8.
        keep_small: a component of a mask that would vanish becomes the one pixel that it covers most.

    Raises:
        InputError: a file cannot be read (named), the folder cannot be written, or the disk is full.
    """
    if not cases:
        raise InputError("no cases to prepare: check the split and labels that were chosen")
    require_unique(cases)
    folder = Path(folder)
    target = folder / f"store-{_key(cases, preprocess, keep_small)[:16]}"
    store = _open(target)
    if store is None:
        prepare = partial(_prepare, preprocess=preprocess, keep_small=keep_small)
        prepared = _in_order(prepare, cases, workers or min(8, os.cpu_count() or 1))
        about = {"preprocess": preprocess.to_dict(), "keep_small": keep_small}
        _build(cases, preprocess, prepared, about, target, progress)
        store = _open(target)
    if store is None:
        raise InputError(
            f"{target}: damaged right after it was written: check the disk, then delete this folder"
        )
    return store


def _key(cases: Sequence[Case], preprocess: AnyPreprocess, keep_small: bool) -> str:
    files = [content_key(case) for case in cases]
    content: list[object] = [_VERSION, list(preprocess.size), preprocess.colour, keep_small, files]
    is_chosen = preprocess.intensity is not None and any(is_scaled(case) for case in cases)
    if is_chosen or any(case.is_volume for case in cases):
        content.append({"slices": _SLICES, "intensity": intensity_to_json(preprocess.intensity)})
    if preprocess.patches is not None:
        content.append({"patches": preprocess.patches.to_dict()})
    if isinstance(preprocess, VolumePreprocess):
        content.append({"volumes": _VOLUMES, "spacing": preprocess.spacing})
    return sha256_text(json.dumps(content))


def _open(target: Path) -> Store | None:
    try:
        return Store(target)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read_index(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return index


def _noticed_lines(seen: Sequence[tuple[Case, Noticed]]) -> list[str]:
    """One line on masks whose classes overlap, and one on files that lie a little beside their image."""
    lines = []
    overlapping = [(case, each.overlap) for case, each in seen if each.overlap]
    if overlapping:
        case, most = max(overlapping, key=lambda item: item[1])
        lines.append(
            f"classes overlap in {len(overlapping)} cases, where the later class counts: most in case '{case.id}' "
            f"({most} pixels or voxels)"
        )
    beside = [misfit for _, each in seen for misfit in each.misfits]
    if beside:
        worst = max(beside, key=lambda misfit: misfit.voxels)
        lines.append(
            f"{len(beside)} masks or channels do not lie exactly on their image and are accepted: {worst.mask} by most "
            f"({worst.words}); segdistill data check tells more"
        )
    return lines


def _map(path: Path, expected: dict[str, int]) -> NDArray[np.uint8]:
    size = path.stat().st_size
    if size != expected["bytes"] or (size <= _CHECKED_BYTES and checksum(path) != expected["crc32"]):
        raise ValueError(f"{path} is damaged")
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _prepare(case: Case, preprocess: AnyPreprocess, keep_small: bool) -> Rows:
    noticed = Noticed()
    opened = open_case(case, preprocess.intensity, noticed)
    rows = Rows([], [], [], noticed)
    try:
        if isinstance(preprocess, VolumePreprocess):
            return _prepare_volume(opened, preprocess, noticed)
        for k in range(len(opened)):
            cut = preprocess.patches.cut if preprocess.patches else lambda array: [array]
            rows.images.extend(preprocess.prepare(part) for part in cut(opened.pixels(k)))
            for part in cut(opened.reference[k]):
                mask = prepare_mask(part, preprocess.size)
                small = find_small(part, mask)
                if keep_small:
                    for place, index in zip(small.places, small.classes, strict=True):
                        mask[place] = index
                rows.masks.append(mask)
                rows.small.append(small)
    except InputError as error:
        text, image = str(error), str(case.image)
        raise InputError(text if text.startswith(image) else f"{image}: {text}") from error
    return rows


def _prepare_volume(opened: OpenedCase, preprocess: VolumePreprocess, noticed: Noticed) -> Rows:
    """One row: the whole volume on the network's grid."""
    levels, spacing = opened.levels(), opened.spacing_mm if opened.is_volume else None
    image = preprocess.prepare(levels, spacing)
    mask = resample_mask(
        opened.reference, (image.shape[0], image.shape[1], image.shape[2])
    )  # channels come last
    return Rows([image], [mask], [SmallComponents()], noticed)


def _build(
    cases: Sequence[Case],
    preprocess: AnyPreprocess,
    prepared: Iterator[Rows],
    about: dict[str, Any],
    target: Path,
    progress: Progress | None,
) -> None:
    """Writes the rows of all cases and an index with `about` below a passing name, then gives them theirs."""
    folder, temporary = target.parent, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".store-"))
        shapes: list[list[int]] = []
        image_shape, mask_shape = _shapes_of(preprocess)
        ids: list[str] = []
        owners: list[Case] = []
        foreground: list[bool] = []
        small = SmallComponents()
        drawn: list[tuple[str, bool]] = []
        noticed: list[tuple[Case, Noticed]] = []
        classes: dict[str, list[int]] = {}
        with open(temporary / "images.npy", "wb") as images, open(temporary / "masks.npy", "wb") as masks:
            write_header(images, (len(cases), *image_shape))
            write_header(masks, (len(cases), *mask_shape))
            for done, (case, rows) in enumerate(zip(cases, prepared, strict=True), start=1):
                for image, mask in zip(rows.images, rows.masks, strict=True):
                    # plain writes: a full disk is an error here, where writing through a map would end the
                    # process
                    images.write(np.ascontiguousarray(image, dtype=np.uint8).tobytes())
                    masks.write(np.ascontiguousarray(mask, dtype=np.uint8).tobytes())
                    shapes.append(list(mask.shape))
                    foreground.append(bool(mask.any()))
                ids += _row_names(case, len(rows.images), preprocess)
                owners += [case] * len(rows.images)
                noticed.append((case, rows.noticed))
                if not case.reading.is_binary:
                    held = np.flatnonzero(
                        sum(np.bincount(mask.reshape(-1), minlength=256) for mask in rows.masks)
                    )
                    classes[case.id] = [int(k) for k in held if k]
                small = count_small([small, *rows.small])
                if case.is_guessed and any(foreground[-len(rows.masks) :]):
                    drawn.append((case.id, looks_inverted(np.stack(rows.masks))))
                if progress is not None:
                    progress(done, len(cases))
            volumes = isinstance(preprocess, VolumePreprocess)
            count = sum(map(math.prod, shapes)) if volumes else len(ids)
            several = len(preprocess.channel_names)
            if count != len(cases):  # how many slices, or voxels, there are is known only now
                _rewrite_header(images, (count * several if volumes and several else count, *image_shape))
                _rewrite_header(masks, (count, *mask_shape))
        if len(set(ids)) != len(ids):
            raise InputError(
                "a case's id looks like the name of another case's slice: rename it without # and @"
            )
        files = {
            path.name: {"bytes": path.stat().st_size, "crc32": checksum(path)}
            for path in (temporary / "images.npy", temporary / "masks.npy")
        }
        index = {
            "version": _VERSION,
            "ids": ids,
            "cases": [case.id for case in owners],
            "has_mask": [case.has_reference for case in owners],
            "foreground": foreground,
            "small": [small.total, small.vanished, small.exempt, sorted(small.losing)],
            "inverted": [name for name, inverted in drawn if inverted],
            "drawn": len(drawn),
            "noticed": _noticed_lines(noticed),
            "classes": classes,
            "files": files,
            **({"patch": list(preprocess.size), "shapes": shapes} if volumes else {}),
            **({"channels": several} if volumes and several else {}),
            **about,
        }
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
        _publish(temporary, target)
    except OSError as error:
        raise InputError(
            f"cannot write the prepared store to {folder}: {error.strerror or error}: free space or "
            f"choose another folder"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _shapes_of(preprocess: AnyPreprocess) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of one row of the images, and of the masks; volumes lie in flat arrays."""
    if isinstance(preprocess, VolumePreprocess):
        return (), ()
    return (*preprocess.size, preprocess.kept), preprocess.size


def _sweep(folder: Path) -> None:
    """Removes what builds that were killed left behind, once it is a day old."""
    for left in folder.glob(".store-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)


def write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Begins a .npy file of uint8; NumPy leaves room in the header for another number of rows."""
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(file, header)


def _rewrite_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Corrects the number of rows; NumPy leaves room for it in the header."""
    end = file.tell()
    file.seek(0)
    write_header(file, shape)
    file.seek(end)


def _row_names(case: Case, count: int, preprocess: AnyPreprocess) -> list[str]:
    if isinstance(preprocess, VolumePreprocess):
        return [case.id]
    patches = 1 if preprocess.patches is None else preprocess.patches.count**2
    slices = [f"{case.id}#{k}" for k in range(count // patches)] if case.is_volume else [case.id]
    return [f"{name}@{k}" for name in slices for k in range(patches)] if patches > 1 else slices


def _in_order(prepare: Callable[[Case], Rows], cases: Sequence[Case], workers: int) -> Iterator[Rows]:
    """Results in the order of the cases, with a bounded number under way (decoding releases the GIL)."""
    large = any(case.is_volume for case in cases)
    workers = min(workers, 2) if large else workers  # each holds a whole volume
    pool = ThreadPoolExecutor(workers)
    waiting: list[Future[Rows]] = []
    try:
        for case in cases:
            waiting.append(pool.submit(prepare, case))
            if len(waiting) > (workers if large else 4 * workers):
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _publish(temporary: Path, target: Path) -> None:
    temporary.chmod(0o755)  # mkdtemp makes private folders
    if target.exists() and _open(target) is None:
        damaged = Path(tempfile.mkdtemp(dir=target.parent, prefix=".damaged-"))
        try:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                target.rename(damaged / "store")
        finally:
            shutil.rmtree(damaged, ignore_errors=True)
    try:
        temporary.rename(target)
    except OSError:
        if _open(target) is None:  # not simply another process that finished first
            raise
