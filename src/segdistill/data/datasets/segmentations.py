"""Masks that name their structures, anywhere below or beside their images: DICOM SEG and RTSTRUCT, and .seg.nrrd."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, is_hidden, natural_key
from segdistill.data.datasets.folder import case_of, folder_roles, match_masks, parts_below, without_split
from segdistill.errors import InputError
from segdistill.files import walk_once
from segdistill.imaging.dicom import read_tags
from segdistill.imaging.dicom_series import is_drawn, may_be_dicom, series_files
from segdistill.imaging.read_volume import is_volume

_SLICER = ".seg.nrrd"
_WHAT = "volumes with masks that name their structures (DICOM SEG or RTSTRUCT, .seg.nrrd)"
_TAGS = ["SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"]
_REFERENCES = [
    "FrameOfReferenceUID",
    "StudyInstanceUID",
    "ReferencedSeriesSequence",
    "ReferencedFrameOfReferenceSequence",
]


@dataclass(frozen=True)
class _Image:
    """A volume, and what its header states where it is a DICOM series."""

    file: Path
    series: str = ""
    study: str = ""
    frame: str = ""

    @property
    def examination(self) -> str:
        """What its images share: the study, or the folder."""
        return self.study or str(self.file.parent)


@register_dataset(
    "segmentations",
    "Your own volumes with DICOM SEG, RTSTRUCT or .seg.nrrd beside them",
    how_to_get=(
        "Folders of DICOM series with SEG or RTSTRUCT anywhere among them, which state their series; or volumes with "
        "segmentations of 3D Slicer in the same folder, one volume a folder or masks named as their volume. "
        "Sub-folders become splits, sites, labels or groups by their names."
    ),
)
def index(path: Path) -> list[Case]:
    """Cases of DICOM series and of other volumes whose masks name their structures.

    A SEG or RTSTRUCT belongs to the series that it states (SeriesInstanceUID), or to the only one of its frame of
    reference. A .seg.nrrd belongs to the volume of its name in its folder, or to the only volume there, or of the
    folder above. Images without a mask are skipped where another of their study, or of their folder, has one.

    Raises:
        InputError: no such masks, or one whose image is not there or cannot be told.
    """
    find_root(path, lambda _: True, _WHAT)
    files = list(_files(path))
    drawn = [file for file in files if _is_segmentation(file)]
    if not drawn:
        raise InputError(f"{path} is not this dataset: looked for {_WHAT} in all folders below")
    images = list(_images(path, set(drawn)))
    found: dict[Path, list[Path]] = {image.file: [] for image in images}
    series = [image for image in images if image.series]
    for mask in drawn:
        is_slicer = mask.name.lower().endswith(_SLICER)
        owner = _nearest(mask, path, images) if is_slicer else _referenced(mask, series)
        found[owner].append(mask)
    done = {image.examination for image in images if found[image.file]}
    kept = [image for image in images if found[image.file] or image.examination not in done]
    parts = {image.file: parts_below(image.file.parent, path) for image in kept}
    roles = folder_roles([without_split(above)[1] for above in parts.values()])
    # a patient, not each of the studies below
    outer = roles.index("group") + 1 if "group" in roles else len(roles)
    roles = [*roles[:outer], *("" if role == "group" else role for role in roles[outer:])]
    return [case_of(each.file, tuple(found[each.file]), parts[each.file], roles) for each in kept]


def holds_segmentations(path: Path) -> bool:
    """Whether a file below a folder is a DICOM SEG, an RTSTRUCT or a segmentation of 3D Slicer.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a.seg.nrrd").touch()
    >>> holds_segmentations(folder)
    True
    """
    return any(_is_segmentation(file) for file in _files(path))


def _is_segmentation(file: Path) -> bool:
    return file.name.lower().endswith(_SLICER) or (may_be_dicom(file) and is_drawn(file))


def _files(path: Path) -> Iterator[Path]:
    for folder, folders, names in walk_once(path):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in sorted(names, key=natural_key):
            if not is_hidden(name):
                yield Path(folder, name)


def _images(path: Path, drawn: Set[Path]) -> Iterator[_Image]:
    """The volumes at and below a folder, in natural order, without the masks."""
    places = [Path(folder) for folder, _, _ in walk_once(path)]
    for place in sorted(places, key=lambda each: natural_key(str(each))):
        if any(is_hidden(part) for part in place.relative_to(path).parts):
            continue
        slices = [file for file in series_files(place) if file not in drawn]
        if slices:
            header = _header(slices[0], [*_TAGS, "Modality", "ImagePositionPatient"])
            if "ImagePositionPatient" in header and header.get("Modality") != "RTDOSE":
                yield _Image(place, *(str(header.get(tag, "")) for tag in _TAGS))
        for file in sorted(place.iterdir(), key=lambda each: natural_key(each.name)):
            if file.is_file() and is_volume(file) and not is_hidden(file.name) and file not in drawn:
                yield _Image(file)


def _header(file: Path, tags: list[str]) -> Any:
    try:
        return read_tags(file, tags)
    except Exception as error:  # pydicom raises whatever a damaged header leads to
        raise InputError(
            f"{file}: has a damaged DICOM header ({type(error).__name__}): restore the file"
        ) from None


def _referenced(mask: Path, images: Sequence[_Image]) -> Path:
    """The series that a SEG or an RTSTRUCT states, or the only one of its frame of reference."""
    header = _header(mask, _REFERENCES)
    stated, frames = set(_stated_series(header)), set(_stated_frames(header))
    found = [image for image in images if image.series in stated]
    if not found:
        found = [image for image in images if image.frame and image.frame in frames]
        if len(found) != 1:
            number = f"{len(found)} series have" if found else "none has"
            raise InputError(
                f"{mask}: the series that it refers to is not there, and {number} its frame of reference: put the "
                "series below the folder, or move the mask away"
            )
    here = [image for image in found if image.file == mask.parent]
    if len(found) > 1 and not here:
        places = " and ".join(str(image.file) for image in found[:2])
        raise InputError(f"{mask}: the series that it refers to is there twice ({places}): keep one")
    return (here or found)[0].file


def _stated_series(header: Any) -> Iterator[str]:
    """Of a SEG, then of an RTSTRUCT."""
    for item in header.get("ReferencedSeriesSequence") or []:
        yield str(item.get("SeriesInstanceUID", ""))
    for frame in header.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for item in study.get("RTReferencedSeriesSequence") or []:
                yield str(item.get("SeriesInstanceUID", ""))


def _stated_frames(header: Any) -> Iterator[str]:
    yield str(header.get("FrameOfReferenceUID", ""))
    for frame in header.get("ReferencedFrameOfReferenceSequence") or []:
        yield str(frame.get("FrameOfReferenceUID", ""))


def _nearest(mask: Path, root: Path, images: Sequence[_Image]) -> Path:
    """The volume of a segmentation of 3D Slicer: of its name or the only one, in its folder or a folder above."""
    for place in (mask.parent, *mask.parent.parents):
        if not place.is_relative_to(root):
            break
        inside = [each.file for each in images if place in (each.file, *each.file.parents)]
        beside = [file for file in inside if place in (file, file.parent)]
        for files in (beside, inside):
            if len(files) == 1:
                return files[0]
            if owners := _by_name(files, mask):
                return owners[0]
        if inside:
            few = ", ".join(str(file) for file in inside[:3])
            raise InputError(
                f"{mask}: which of {len(inside)} volumes it belongs to cannot be told ({few}): name it as its volume, "
                f"NAME{_SLICER} beside NAME.nii.gz"
            )
    raise InputError(f"{mask}: no volume in its folder or one above: put its volume beside it")


def _by_name(files: Iterable[Path], mask: Path) -> list[Path]:
    matched, _ = match_masks(list(files), [mask])
    return [file for file, masks in matched.items() if masks]
