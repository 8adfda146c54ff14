"""A case table written in the formats of other tools, with its images: raster formats to the bit, others as polygons.

Every class of a case is one annotation, or one per piece: a table does not tell instances apart.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.data.case import (
    Case,
    only_channel,
    reference_mask,
    require_unique,
    table_channels,
    table_classes,
)
from segdistill.data.levels import with_levels
from segdistill.data.opened import first_volume, open_picture
from segdistill.data.pack import file_names
from segdistill.data.table import write_cases
from segdistill.errors import InputError
from segdistill.files import new_folder, write_json, write_text
from segdistill.imaging.boxes import tight_box
from segdistill.imaging.classes import MaskClass, class_names
from segdistill.imaging.contours import save_indices
from segdistill.imaging.dicom_seg import write_seg
from segdistill.imaging.dicom_series import series_files
from segdistill.imaging.nifti import save_nifti, save_voxels
from segdistill.imaging.nrrd import write_nrrd_mask
from segdistill.imaging.picture import Pixels
from segdistill.imaging.polygons import Ring, trace, without_holes
from segdistill.imaging.read import image_size, read_picture
from segdistill.imaging.read_volume import nifti_info, read_volume, read_volume_mask
from segdistill.imaging.rle import encode_runs, pack_runs
from segdistill.imaging.rtstruct import write_rtstruct
from segdistill.imaging.several import read_channel_volumes
from segdistill.imaging.volume import Volume
from segdistill.registry import near_names

_COPIED = (".png", ".jpg", ".jpeg")
_NO_GROUPS = (
    "cases belong to groups, such as patients, which the format does not keep: divide them by the table, not in the "
    "other tool"
)
_NO_SPACING = (
    "cases have their voxel size from the table, which the format does not keep: the headers of their files state "
    "another"
)
_NOT_WRITTEN = (
    "cases without a reference are not written: the format would say that there is nothing to find in them"
)


@dataclass(frozen=True)
class Export:
    """What is written.

    Attributes:
        cases: of the table, with the name of each one's files.
        names: of the classes, in order.
        folder: to write into.
        split_holes: cut what has holes into parts, where a format cannot hold them.
        told: what is to be known -> how often.
    """

    cases: Sequence[tuple[Case, str]]
    names: tuple[str, ...]
    folder: Path
    split_holes: bool
    told: Counter[str] = field(default_factory=Counter)

    def labelled(self) -> list[tuple[Case, str]]:
        """The cases with a reference; the others are counted."""
        found = [(case, stem) for case, stem in self.cases if case.has_reference]
        if not found:
            raise InputError("none of the cases has a reference: there is nothing to write in this format")
        self.told[_NOT_WRITTEN] += len(self.cases) - len(found)
        return found

    @property
    def labels(self) -> dict[str, int]:
        """Class -> value, with the background."""
        return {"background": 0} | {name: k for k, name in enumerate(self.names, start=1)}


def export_cases(
    name: str, cases: Sequence[Case], folder: str | Path, split_holes: bool = False
) -> list[str]:
    """Writes images and references into a new folder, which appears when it is complete.

    Args:
        name: one of `FORMATS`.
        cases: pictures or volumes, not both.
        folder: new, or empty.
        split_holes: for `yolo_seg`, which holds no holes: cut such parts in two instead of refusing them.

    Returns:
        lines on what the format does not keep.

    Raises:
        InputError: an unknown format, one that does not hold volumes or pictures, a file that cannot be read, a hole,
            or a folder that is not empty.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp())
    >>> Image.fromarray(np.eye(4, dtype=np.uint8)).save(place / "a.png")
    >>> export_cases("palette", [Case("a", place / "a.png", (place / "a.png",))], place / "out")
    []
    >>> sorted(path.name for path in (place / "out").rglob("*.*"))
    ['a.png', 'a.png', 'cases.csv']
    """
    if name not in FORMATS:
        raise InputError(f"unknown format '{name}': {near_names(name, FORMATS)}")
    require_unique(cases)
    cases = with_levels(cases)
    write, kinds = FORMATS[name]
    channels = table_channels(cases)
    if channels and name not in ("nnunet", "msd"):
        raise InputError(
            f"the cases have {len(channels)} channels ({', '.join(channels)}), and {name} holds one image a case: "
            "write nnunet, or msd of volumes"
        )
    for case in cases:
        kind = "volume" if case.is_volume else "picture"
        if kind not in kinds or case.is_volume != cases[0].is_volume:
            known = ", ".join(other for other, (_, of) in FORMATS.items() if kind in of)
            raise InputError(
                f"case '{case.id}' is a {kind}: {name} takes {' or '.join(f'{each}s' for each in kinds)}, all of one "
                f"kind; of {kind}s write {known}"
            )
    names = class_names(table_classes(cases)) or ("foreground",)
    with new_folder(folder) as temporary:
        export = Export(list(zip(cases, file_names(cases), strict=True)), names, temporary, split_holes)
        write(export)
        if not (temporary / "cases.csv").is_file():
            shared = Counter(case.group_key for case in cases)
            export.told[_NO_GROUPS] += sum(shared[case.group_key] > 1 for case in cases)
            export.told[_NO_SPACING] += sum(case.is_volume and case.spacing_mm is not None for case in cases)
    return [f"{count} {line}" for line, count in export.told.items() if count]


def _picture_labels(case: Case) -> Pixels:
    return np.asarray(reference_mask(case, image_size(case.image))).astype(np.uint8)


def _write_picture(case: Case, stem: str, folder: Path) -> Path:
    """The picture: the file itself where every tool shows it alike, else a PNG of what we see."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = read_picture(case.image, intensity=case.intensity)
    suffix = case.image.suffix.lower()
    if suffix in _COPIED and not picture.turned and case.levels is None:
        shutil.copyfile(case.image, folder / f"{stem}{suffix}")
        return folder / f"{stem}{suffix}"
    Image.fromarray(picture.pixels).save(folder / f"{stem}.png")
    return folder / f"{stem}.png"


def _nnunet(export: Export) -> None:
    """The raw dataset of nnU-Net, version 2."""
    kept, colours = _task(export, "_0000")
    names = table_channels([case for case, _ in export.cases])
    channels = dict(enumerate("RGB")) if colours else dict(enumerate(names or (_one_name(export),)))
    write_json(
        export.folder / "dataset.json",
        {
            "channel_names": {str(key): value for key, value in channels.items()},
            "labels": export.labels,
            "numTraining": sum(part == "Tr" for part, _, _ in kept),
            "file_ending": ".nii.gz" if export.cases[0][0].is_volume else ".png",
        },
    )


def _one_name(export: Export) -> str:
    """What the only channel is called."""
    return only_channel([case for case, _ in export.cases]) or "image"


def _msd(export: Export) -> None:
    """A task of the Medical Segmentation Decathlon; several channels are a fourth dimension."""
    kept, _ = _task(export, "")
    names = table_channels([case for case, _ in export.cases])
    training = [name for part, name, _ in kept if part == "Tr"]
    test = [name for part, name, _ in kept if part == "Ts"]
    write_json(
        export.folder / "dataset.json",
        {
            "modality": {str(key): name for key, name in enumerate(names or (_one_name(export),))},
            "tensorImageSize": "4D" if names else "3D",
            "labels": {str(value): name for name, value in export.labels.items()},
            "numTraining": len(training),
            "numTest": len(test),
            "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in training],
            "test": [f"./imagesTs/{name}" for name in test],
        },
    )


def _task(export: Export, channel: str) -> tuple[list[tuple[str, str, Case]], bool]:
    """Writes imagesTr, labelsTr and those of Ts; gives (part, file's name, case), and whether there are colours."""
    kept: list[tuple[str, str, Case]] = []
    volumes = export.cases[0][0].is_volume
    ending = ".nii.gz" if volumes else ".png"
    names = table_channels([case for case, _ in export.cases])
    colours = (
        not volumes and not names and any(open_picture(case).pixels.ndim == 3 for case, _ in export.cases)
    )
    for case, stem in export.cases:
        part = "Tr" if case.has_reference and case.split != "test" else "Ts"
        images, labels = export.folder / f"images{part}", export.folder / f"labels{part}"
        for place in (images, labels):
            place.mkdir(exist_ok=True)
        target, mask = images / f"{stem}{channel}{ending}", labels / f"{stem}{ending}"
        if volumes:
            volume = _write_image(case, target) if channel or not names else _write_in_one(case, target)
            if case.has_reference:
                save_nifti(_volume_labels(case, volume), volume, mask, export.names)
        else:
            picture = open_picture(case)
            image = Image.fromarray(picture.shown)
            (image.convert("RGB") if colours else image).save(target)
            for c in range(1, len(names)):
                Image.fromarray(picture.pixels[..., c]).save(images / f"{stem}_{c:04d}{ending}")
            if case.has_reference:
                Image.fromarray(_picture_labels(case)).save(mask)
        kept.append((part, mask.name, case))
        export.told["cases for validation are among those to train on"] += case.split == "val"
        export.told["test cases, or cases without a reference, are in imagesTs"] += part == "Ts"
    return kept, colours


def _seg_nrrd(export: Export) -> None:
    """Segmentations of 3D Slicer beside volumes as .nii.gz."""

    def write(case: Case, stem: str) -> tuple[Path, Path]:
        image, mask = (export.folder / part for part in (f"images/{stem}.nii.gz", f"masks/{stem}.seg.nrrd"))
        volume = _write_image(case, image)
        if case.has_reference:
            write_nrrd_mask(_volume_labels(case, volume), volume, mask, export.names)
        return image, mask

    _volume_tables(export, write)


def _dicom_seg(export: Export) -> None:
    """DICOM SEG over the DICOM series that they belong to."""
    _over_series(export, write_seg, "a DICOM SEG")


def _rtstruct(export: Export) -> None:
    """RTSTRUCT over the DICOM series that they belong to."""
    _over_series(export, write_rtstruct, "an RTSTRUCT")


def _over_series(
    export: Export, write_mask: Callable[[Pixels, Volume, Path, tuple[str, ...], str], None], what: str
) -> None:
    """Copies of the series, and an object over each."""

    def write(case: Case, stem: str) -> tuple[Path, Path]:
        image, mask = (export.folder / part for part in (f"images/{stem}", f"masks/{stem}.dcm"))
        volume = read_volume(case.image, turn=False)
        if not volume.is_series:
            raise InputError(
                f"case '{case.id}': its image is no DICOM series, to whose slices {what} refers: write seg_nrrd, "
                "nnunet or msd"
            )
        image.mkdir()
        for number, file in enumerate(series_files(case.image), start=1):
            shutil.copyfile(file, image / f"{number:05}.dcm")
        if case.has_reference:
            write_mask(_volume_labels(case, volume), volume, mask, export.names, "")
        return image, mask

    _volume_tables(export, write)


def _volume_tables(export: Export, write: Callable[[Case, str], tuple[Path, Path]]) -> None:
    """images/, masks/ whose files name their structures, and a case table."""
    for part in ("images", "masks"):
        (export.folder / part).mkdir()
    classes = tuple(MaskClass(name) for name in export.names)
    written = []
    for case, stem in export.cases:
        image, mask = write(case, stem)
        masks = (mask,) if case.has_reference else ()
        named = tuple(each._replace(path=image, part=0) for each in case.channels)
        plain = replace(
            case, image=image, channels=named, masks=masks, classes=classes, box=None, levels=None
        )
        written.append(replace(plain, mask_classes=(), foreground=(), background=(), resize_mask=False))
    write_cases(written, export.folder / "cases.csv")


def _volume_labels(case: Case, volume: Volume) -> NDArray[np.uint8]:
    """The indices of classes (D, H, W) on the grid of the volume as stored."""
    if not case.masks:
        return np.zeros(volume.geometry.shape, np.uint8)
    return np.asarray(read_volume_mask(case.masks, volume, case.reading)).astype(np.uint8)


def _write_image(case: Case, target: Path) -> Volume:
    """A volume as .nii.gz, the file itself where it is one, each channel on its own; gives the first one as stored."""
    volume = first_volume(case, turn=False)
    for c, channel in enumerate(case.image_channels):
        place = target.with_name(target.name.replace("_0000.nii.gz", f"_{c:04d}.nii.gz")) if c else target
        if channel.part or not channel.path.name.lower().endswith((".nii.gz", ".nii")):
            save_voxels(read_volume(channel.path, turn=False, part=channel.part), place)
        elif channel.path.name.lower().endswith(".nii.gz"):
            shutil.copyfile(channel.path, place)
        else:
            place.write_bytes(gzip.compress(channel.path.read_bytes(), 6, mtime=0))
    return volume


def _write_in_one(case: Case, target: Path) -> Volume:
    """All channels as one .nii.gz of four dimensions, the file itself where it is one; gives the first as stored."""
    (path, *more), parts = case.image_files, [each.part for each in case.channels]
    whole = parts == list(range(1, len(parts) + 1)) and not more
    if whole and path.name.lower().endswith(".nii.gz") and nifti_info(path).dimensions[3:] == (len(parts),):
        shutil.copyfile(path, target)
        return first_volume(case, turn=False)
    first, *others = read_channel_volumes(case.channels, turn=False)
    save_voxels(first, target, others)
    return first


def _coco(export: Export) -> None:
    """COCO's JSON: the run lengths of each class, compressed; a file per split."""
    tables: dict[str, dict[str, list[Any]]] = {}
    for case, stem in export.labelled():
        categories = [{"id": k, "name": name} for k, name in enumerate(export.names, start=1)]
        table = tables.setdefault(case.split, {"images": [], "annotations": [], "categories": categories})
        image = _write_picture(case, stem, export.folder / "images" / case.split)
        labels = _picture_labels(case)
        number = len(table["images"]) + 1
        height, width = labels.shape
        table["images"].append({"id": number, "file_name": image.name, "height": height, "width": width})
        for k in np.unique(labels[labels > 0]):
            box = tight_box(labels == k, largest=False)
            assert box is not None
            left, top, right, bottom = box
            table["annotations"].append(
                {
                    "id": len(table["annotations"]) + 1,
                    "image_id": number,
                    "category_id": int(k),
                    "segmentation": {
                        "size": [height, width],
                        "counts": pack_runs(encode_runs(labels == k)),
                    },
                    "area": int(np.count_nonzero(labels == k)),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
    for split, table in tables.items():
        write_json(export.folder / "annotations" / f"instances{f'_{split}' if split else ''}.json", table)


def _cvat(export: Export) -> None:
    """CVAT's XML for images, version 1.1: a mask for each class, as run lengths along the rows of its box."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
    )
    for name in export.names:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, (case, stem) in enumerate(export.labelled()):
        image = _write_picture(case, stem, export.folder / "images" / case.split)
        found = _picture_labels(case)
        size = {"width": str(found.shape[1]), "height": str(found.shape[0])}
        place = image.relative_to(export.folder / "images").as_posix()
        entry = ElementTree.SubElement(root, "image", {"id": str(number), "name": place, **size})
        if case.split:
            entry.set("subset", case.split)
        for k in np.unique(found[found > 0]):
            box = tight_box(found == k, largest=False)
            assert box is not None
            left, top, right, bottom = box
            runs = encode_runs(found[top:bottom, left:right] == k, columns=False)
            ElementTree.SubElement(
                entry,
                "mask",
                {
                    "label": export.names[k - 1],
                    "source": "manual",
                    "occluded": "0",
                    "rle": ", ".join(str(count) for count in runs),
                    "left": str(left),
                    "top": str(top),
                    "width": str(right - left),
                    "height": str(bottom - top),
                    "z_order": "0",
                },
            )
    ElementTree.indent(root)
    content = ElementTree.tostring(root, encoding="unicode")
    write_text(export.folder / "annotations.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{content}\n')


def _yolo_seg(export: Export) -> None:
    """YOLO's polygons, as shares of the image."""
    splits = {}
    for case, stem in export.labelled():
        image = _write_picture(case, stem, export.folder / "images" / case.split)
        splits[case.split] = image.parent.relative_to(export.folder).as_posix()
        labels = _picture_labels(case)
        lines = []
        for k, name in enumerate(export.names):
            for ring in _whole_rings(labels == k + 1, case, name, export):
                shares = (ring / (labels.shape[1], labels.shape[0])).ravel()
                lines.append(" ".join([str(k), *(f"{share:.9g}" for share in shares)]) + "\n")
        write_text(export.folder / "labels" / case.split / f"{stem}.txt", "".join(lines))
    train = splits.get("train", splits.get("", "images"))
    settings = {"train": train, "val": splits.get("val", train)} | (
        {"test": splits["test"]} if "test" in splits else {}
    )
    lines = [f"{key}: {value}\n" for key, value in settings.items()]
    lines += [
        "names:\n",
        *(f"  {k}: {json.dumps(name, ensure_ascii=False)}\n" for k, name in enumerate(export.names)),
    ]
    write_text(export.folder / "data.yaml", "".join(lines))
    export.told["table without validation cases: data.yaml names those to train on for both"] += (
        "val" not in splits
    )


def _whole_rings(mask: NDArray[np.bool_], case: Case, name: str, export: Export) -> list[Ring]:
    """Rings without holes; what has one is refused, or cut into parts."""
    outlines = trace(mask)
    if not any(outline.holes for outline in outlines):
        return [outline.outer for outline in outlines]
    if not export.split_holes:
        raise InputError(
            f"case '{case.id}': {name} has a hole, which YOLO's polygons cannot hold: --holes split cuts it into parts"
        )
    export.told["classes with holes are cut into parts without, which touch"] += 1
    return [outline.outer for part in without_holes(mask) for outline in part]


def _labelme(export: Export) -> None:
    """LabelMe's JSON beside each picture; a hole is joined to the line around it by a cut of no width."""
    for case, stem in export.cases:
        image = _write_picture(case, stem, export.folder / case.split)
        if not case.has_reference:
            export.told["cases without a reference have no JSON"] += 1
            continue
        labels = _picture_labels(case)
        shapes = [
            {
                "label": name,
                "points": outline.keyhole().tolist(),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for k, name in enumerate(export.names, start=1)
            for outline in trace(labels == k)
        ]
        height, width = labels.shape
        content: dict[str, Any] = {
            "version": "5.0.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": image.name,
            "imageData": None,
        }
        write_json(image.with_suffix(".json"), content | {"imageHeight": height, "imageWidth": width})


def _index(export: Export) -> None:
    """Grey index masks."""
    _tables(export, lambda labels, path: Image.fromarray(labels).save(path))


def _palette(export: Export) -> None:
    """Index masks with a palette."""
    _tables(export, lambda labels, path: save_indices(labels, path, len(export.names)))


def _tables(export: Export, save: Callable[[Pixels, Path], None]) -> None:
    """images/, masks/ and a case table."""
    (export.folder / "masks").mkdir()
    classes = tuple(MaskClass(name, (k,)) for k, name in enumerate(export.names, start=1))
    written = []
    for case, stem in export.cases:
        image = _write_picture(case, stem, export.folder / "images")
        masks: tuple[Path, ...] = ()
        if case.has_reference:
            masks = (export.folder / "masks" / f"{stem}.png",)
            save(_picture_labels(case), masks[0])
        plain = replace(case, image=image, channels=(), masks=masks, classes=classes, box=None, levels=None)
        written.append(replace(plain, mask_classes=(), foreground=(), background=(), resize_mask=False))
    write_cases(written, export.folder / "cases.csv")


FORMATS: dict[str, tuple[Callable[[Export], None], tuple[str, ...]]] = {
    "nnunet": (_nnunet, ("picture", "volume")),
    "msd": (_msd, ("volume",)),
    "seg_nrrd": (_seg_nrrd, ("volume",)),
    "dicom_seg": (_dicom_seg, ("volume",)),
    "rtstruct": (_rtstruct, ("volume",)),
    "coco": (_coco, ("picture",)),
    "cvat": (_cvat, ("picture",)),
    "yolo_seg": (_yolo_seg, ("picture",)),
    "labelme": (_labelme, ("picture",)),
    "index": (_index, ("picture",)),
    "palette": (_palette, ("picture",)),
}
"""Name -> what writes it, and the kinds of cases that it takes."""
