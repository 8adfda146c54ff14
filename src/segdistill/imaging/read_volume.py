"""Reads one volume of any format; an error is one line with the reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging.channels import Channels, read_npz
from segdistill.imaging.classes import Reading, class_names, few
from segdistill.imaging.read import DICOM_SUFFIXES
from segdistill.imaging.segments import (
    Choose,
    Painting,
    Segment,
    class_of_segments,
    meant,
    names_structures,
)
from segdistill.imaging.volume import (
    MAX_BYTES,
    Misfit,
    Noticed,
    Volume,
    class_mask,
    label_mask,
    require_same_geometry,
)

if TYPE_CHECKING:
    from segdistill.imaging.nifti import NiftiInfo

__all__ = [
    "MAX_BYTES",
    "VOLUME_SUFFIXES",
    "is_volume",
    "nifti_info",
    "read_channels",
    "read_segments",
    "read_volume",
    "read_volume_mask",
    "volume_files",
]

DRAWN = ("SEG", "RTSTRUCT")
"""Modalities of DICOM files that hold segments over another series."""

VOLUME_SUFFIXES = (".mhd", ".mha", ".nii", ".nii.gz", ".nrrd")
"""Endings (lower case) of files that hold a volume; a folder is taken for a DICOM series."""


def may_be_series(folder: Path) -> bool:
    """Whether a folder holds a DICOM series; names are looked at first: headers and pydicom take a while.

    >>> may_be_series(Path(__file__).parent)
    False
    """
    named = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (*DICOM_SUFFIXES, "") or path.suffix[1:].isdecimal()
    ]
    if sum(path.is_file() for path in named) < 2:
        return False
    from segdistill.imaging.dicom_series import is_series

    return is_series(folder)


def is_volume(path: str | Path) -> bool:
    """Whether a path names a volume: a file with one of VOLUME_SUFFIXES, or a folder.

    >>> is_volume("Case13.mhd"), is_volume("7.png")
    (True, False)
    """
    return str(path).lower().endswith(VOLUME_SUFFIXES) or Path(path).is_dir()


def volume_files(path: Path) -> list[Path]:
    """All files that a volume's content lies in: a header's voxels, a series' slices; the file itself otherwise.

    Raises:
        UnreadableImage: no such volume.
    """
    with _reasons(path):
        if path.is_dir():
            from segdistill.imaging.dicom_series import series_files

            return series_files(path)
        if path.suffix.lower() in (".mhd", ".mha"):
            from segdistill.imaging.metaimage import data_file

            return list(dict.fromkeys((path, data_file(path))))
        return [path]


def read_volume(
    path: str | Path,
    max_bytes: int = MAX_BYTES,
    turn: bool = True,
    trust_unit_spacing: bool = False,
    part: int = 0,
) -> Volume:
    """Decodes a MetaImage, NIfTI or NRRD file, or a folder with one DICOM series.

    Args:
        path: the file or folder.
        max_bytes: larger volumes are refused, from their header; a voxel counts its bytes in memory, at least four.
        turn: axial volumes are turned as DICOM shows them (`Geometry.turned`); False: as stored.
        trust_unit_spacing: a header of exactly (1, 1, 1) means one millimetre; else it counts as unknown.
        part: number of a channel, from 1, of a NIfTI file of four dimensions; 0: the file holds one volume.

    Raises:
        UnreadableImage: missing, damaged, cut off, over the budget, four dimensions, or an incomplete series. Nothing
            else is raised, whatever a decoder meets.

    >>> read_volume("nowhere.nii")
    Traceback (most recent call last):
    segdistill.errors.UnreadableImage: nowhere.nii: no such file
    """
    path = Path(path)
    with _reasons(path):
        if path.is_dir() and not part:
            from segdistill.imaging.dicom_series import read_series

            volume = read_series(path, max_bytes)
        else:
            volume = _reader(path, part)(path, max_bytes, trust_unit_spacing)
    return volume.turned() if turn else volume


def read_volume_mask(
    paths: Sequence[Path],
    image: Volume,
    reading: Reading | None = None,
    noticed: Noticed | None = None,
) -> NDArray[np.bool_] | NDArray[np.uint8]:
    """The mask files of a volume, joined; where values are not named, every label above 0 is foreground.

    Args:
        paths: one or several files or folders.
        image: the volume as stored (`turn=False`) on whose grid they must lie.
        reading: the classes, and which values are which; None: one kind of foreground. With several classes the later
            file wins where two overlap, or, with one file per class, the later class.
        noticed: gets what is noticed of masks that are accepted.

    Returns:
        (D, H, W), as stored: bool, or with several classes uint8, k for the k-th class.

    Raises:
        InputError: a file that cannot be read, lies on another grid, or is no mask.
    """
    reading = reading or Reading()
    names = reading.of_file or ("",) * len(paths)
    placed = [(reading.index(name) if name else 0, path) for name, path in zip(names, paths, strict=True)]
    joined: NDArray[Any] = np.zeros(image.geometry.shape, np.bool_ if reading.is_binary else np.uint8)
    seen = Noticed()
    for k, (index, path) in enumerate(sorted(placed) if reading.of_file else placed):
        with _reasons(path):
            found = _one_mask(path, image, reading, index, seen, counts=noticed is not None)
        if reading.is_binary:
            joined |= found > 0 if found.dtype != np.bool_ else found
        else:
            own = index or found
            if k and noticed is not None:
                seen.overlap += int(np.count_nonzero((found > 0) & (joined > 0) & (joined != own)))
            np.copyto(joined, own, where=found > 0)
    if seen.unknown and not joined.any():
        _require_known(seen.unknown, paths, reading)
    if noticed is not None:
        noticed.add(seen)
    return joined


def _require_known(unknown: dict[str, Path], paths: Sequence[Path], reading: Reading) -> None:
    """InputError where no segment of the mask files is of a class; of several files one may hold none."""
    known = class_names(reading.classes)
    small = {name.casefold() for name in known}
    for path in paths:
        with _reasons(path):
            if any(each.name.casefold() in small for each in read_segments(path)):
                return
    raise UnreadableImage(
        f"{paths[0]}: none of its segments ({few(unknown)}) is of a class ({few(known)}){meant(unknown, known)}: name "
        "the classes as the file names them, or by its values (classes: {liver: 1})"
    )


def _one_mask(
    path: Path, image: Volume, reading: Reading, index: int, seen: Noticed, counts: bool
) -> NDArray[Any]:
    """The labels of one file or series, of one class (its index) or of all; `counts`: also its labels, if not named."""
    if (read := _segments_reader(path)) is not None:
        painting, misfit = read(
            path, image, lambda segments: class_of_segments(segments, reading, index, path, seen.unknown)
        )
        seen.misfits += [misfit] if misfit else []
        seen.overlap += 0 if index else painting.overlaps
        return painting.labels
    plain = bool(index) or not reading.is_named
    if path.is_dir():
        if not plain:
            raise InputError(
                "is a DICOM series, which is read as one structure: name its class before it (liver=FOLDER), or save "
                "the mask as NIfTI"
            )
        from segdistill.imaging.dicom_series import read_series_mask

        drawn, misfit = read_series_mask(path, image, MAX_BYTES)
        seen.misfits += [misfit] if misfit else []
        return drawn
    mask = read_volume(path, turn=False)
    misfit = require_same_geometry(image, mask)
    seen.misfits += [misfit] if misfit else []
    if plain:
        found = label_mask(mask)
        if counts and not index:  # it takes time
            seen.labels |= {int(value) for value in np.unique(np.rint(mask.voxels[found]))}
        return found
    if len(reading.classes) == 1 and reading.classes[0].values == (1,):
        return label_mask(mask, 2)
    return class_mask(mask, reading)


def _segments_reader(
    path: Path,
) -> Callable[[Path, Volume, Choose], tuple[Painting, Misfit | None]] | None:
    """The reader of a mask file that names its structures; None for other files."""
    if path.name.lower().endswith(".nrrd"):
        from segdistill.imaging.nrrd import read_nrrd_mask, read_nrrd_segments

        return read_nrrd_mask if read_nrrd_segments(path) else None
    if (file := _drawing_file(path)) is not None:
        if _modality(file) == "SEG":
            from segdistill.imaging.dicom_seg import read_seg_mask as read
        else:
            from segdistill.imaging.rtstruct import read_rtstruct_mask as read

        return lambda _, image, choose: read(file, image, choose)
    return None


def _modality(file: Path) -> str:
    """The modality of a DICOM file of segments; InputError for another DICOM file."""
    from segdistill.imaging.dicom import read_tags

    modality = str(read_tags(file, ["Modality"]).get("Modality", ""))
    if modality not in DRAWN:
        raise InputError(
            f"is a DICOM file of modality {modality[:16]!r}, not a mask over a series: give a {' or '.join(DRAWN)}, or "
            "the folder of a series of labels"
        )
    return modality


def _drawing_file(path: Path) -> Path | None:
    """The DICOM file of segments that a mask is: the file itself, or the only one of a folder; None for others."""
    if not path.is_dir():
        return path if names_structures(path) else None
    from segdistill.imaging.dicom import read_tags
    from segdistill.imaging.dicom_series import series_files

    files = series_files(path)
    is_one = len(files) == 1 and read_tags(files[0], ["Modality"]).get("Modality") in DRAWN
    return files[0] if is_one else None


def read_segments(path: str | Path) -> list[Segment]:
    """The structures that a mask file names, from its header; none where it names none.

    Args:
        path: a segmentation of 3D Slicer (.seg.nrrd), a DICOM SEG or an RTSTRUCT.

    Raises:
        UnreadableImage: missing or damaged.

    >>> read_segments("nowhere.seg.nrrd")
    Traceback (most recent call last):
    segdistill.errors.UnreadableImage: nowhere.seg.nrrd: no such file
    """
    path = Path(path)
    with _reasons(path):
        if path.name.lower().endswith(".nrrd"):
            from segdistill.imaging.nrrd import read_nrrd_segments

            return read_nrrd_segments(path)
        if (file := _drawing_file(path)) is not None:
            from segdistill.imaging.dicom import read_whole
            from segdistill.imaging.dicom_seg import read_seg_segments
            from segdistill.imaging.rtstruct import read_roi_segments

            read = read_seg_segments if _modality(file) == "SEG" else read_roi_segments
            return read(read_whole(file))
        return []


def read_channels(path: str | Path, max_bytes: int = MAX_BYTES) -> Channels:
    """Opens a file with one map per class: nnU-Net's .npz, or NIfTI of four dimensions.

    Args:
        path: the file.
        max_bytes: of one class; larger ones are refused before they are read.

    Raises:
        UnreadableImage: as `read_volume`, here or while the classes are read.

    >>> read_channels("nowhere.npz")
    Traceback (most recent call last):
    segdistill.errors.UnreadableImage: nowhere.npz: no such file
    """
    path = Path(path)
    with _reasons(path):
        if path.name.lower().endswith((".nii", ".nii.gz")):
            from segdistill.imaging.nifti import read_nifti_channels

            channels = read_nifti_channels(path, max_bytes)
        else:
            channels = read_npz(path, max_bytes)

    def read() -> Iterator[NDArray[Any]]:
        with _reasons(path):
            yield from channels.read()

    return replace(channels, read=read)


def nifti_info(path: str | Path) -> NiftiInfo:
    """The dimensions and the label table of a NIfTI file, from its header alone.

    Raises:
        UnreadableImage: missing, damaged, or no NIfTI file.
    """
    from segdistill.imaging.nifti import read_nifti_info

    path = Path(path)
    with _reasons(path):
        return read_nifti_info(path)


def _reader(path: Path, part: int = 0) -> Callable[[Path, int, bool], Volume]:
    name = path.name.lower()
    if part:
        if not name.endswith((".nii", ".nii.gz")):
            raise InputError("holds one image: channels of one file are read from NIfTI of four dimensions")
        from segdistill.imaging.nifti import read_nifti

        return partial(read_nifti, part=part)
    if name.endswith((".mhd", ".mha")):
        from segdistill.imaging.metaimage import read_metaimage

        return read_metaimage
    if name.endswith((".nii", ".nii.gz")):
        from segdistill.imaging.nifti import read_nifti

        return read_nifti
    if name.endswith(".nrrd"):
        from segdistill.imaging.nrrd import read_nrrd

        return read_nrrd
    raise InputError(f"is not a volume: {', '.join(VOLUME_SUFFIXES)} and folders of DICOM files are")


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong inside into one line that names the path."""
    try:
        if not path.exists():
            raise UnreadableImage("no such file")
        if not path.is_dir() and not path.is_file():
            raise UnreadableImage("is not a regular file")
        if path.is_file() and path.stat().st_size == 0:
            raise UnreadableImage("is empty (0 bytes): restore the file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn of what is an error here, and quote patient tags
            yield
    except InputError as error:
        text = str(error)
        raise UnreadableImage(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except MemoryError as error:
        raise UnreadableImage(f"{path}: does not fit into memory: crop it, or free memory") from error
    except (
        Exception
    ) as error:  # decoders raise whatever damage leads to: OSError, ValueError, RecursionError, ...
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnreadableImage(f"{path}: cannot be read ({reason}): restore the file") from error
