"""A compact copy of a table's files: smaller pictures, joined 1-bit masks, and a cases.csv that can be
moved.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from segdistill.data.case import Case, reference_mask, require_unique
from segdistill.data.levels import with_levels
from segdistill.data.table import write_cases
from segdistill.errors import InputError
from segdistill.files import new_folder
from segdistill.imaging.classes import MaskClass, class_names
from segdistill.imaging.preprocess import prepare_mask
from segdistill.imaging.read import read_picture
from segdistill.imaging.small import SMALLEST, SmallComponents, count_small, find_small


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes:
        cases: the packed ones.
        size: longest side.
        small: what happened to the components of the masks.
    """

    cases: list[Case]
    size: int
    small: SmallComponents

    @property
    def note(self) -> str:
        """One line on the components that the packed masks have lost; "" where there is none.

        >>> Packed([], 64, SmallComponents(12, 5)).note[:58]
        '5 of 12 components of the masks are too small for a side o'
        """
        small = self.small
        if not small.vanished:
            return ""
        line = (
            f"{small.vanished} of {small.total} components of the masks are too small for a side of {self.size} and "
            "are not in the packed masks: pack with a larger --size to keep them"
        )
        told = f"{small.exempt} of fewer than {SMALLEST} pixels vanish and are not counted"
        return f"{line}; {told}" if small.exempt else line


def pack_cases(
    cases: Sequence[Case], folder: str | Path, size: int, progress: Callable[[int, int], None] | None = None
) -> Packed:
    """Writes images/*.png (longest side at most `size`), masks/*.png (1 bit) and cases.csv into a new folder.

    Boxes and pixel spacings are scaled with the pictures; more than 8 bits become 8 by the levels of the table. The
    folder appears when it is complete.

    Returns:
        The packed cases, and what small components of the masks were lost.

    Raises:
        InputError: a file that cannot be read, a folder that is not empty or cannot be written, a full disk.
    """
    folder = Path(os.path.abspath(folder))
    require_unique(cases)
    cases = with_levels(cases)
    if size < 16:
        raise InputError(f"size {size} is too small: use at least 16")
    if volume := next((case for case in cases if case.is_volume), None):
        raise InputError(f"case '{volume.id}' is a volume: pack makes small copies of pictures only")
    with new_folder(folder) as temporary:
        for name in ("images", "masks"):
            (temporary / name).mkdir()
        packed: list[Case] = []
        small: list[SmallComponents] = []
        for done, (case, name) in enumerate(zip(cases, file_names(cases), strict=True), start=1):
            case, lost = _pack_one(case, name, temporary, size)
            packed.append(case)
            small.append(lost)
            if progress is not None:
                progress(done, len(cases))
        write_cases(packed, temporary / "cases.csv")
    moved = [
        replace(
            case,
            image=folder / "images" / case.image.name,
            masks=tuple(folder / "masks" / mask.name for mask in case.masks),
        )
        for case in packed
    ]
    return Packed(moved, size, count_small(small))


def _pack_one(case: Case, name: str, folder: Path, size: int) -> tuple[Case, SmallComponents]:
    if case.channel_names:
        raise InputError(
            f"case '{case.id}' has {len(case.channel_names)} channels, and pack holds one picture a case: copy the "
            "table and its files as they are"
        )
    pixels = read_picture(case.image, intensity=case.intensity).pixels
    height, width = pixels.shape[:2]
    mask = reference_mask(case, (height, width)) if case.masks else None
    scale = min(1.0, size / max(height, width))
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    picture = Image.fromarray(pixels)
    if target != (height, width):
        picture = picture.resize(target[::-1], Image.Resampling.BILINEAR, reducing_gap=None)
    image = folder / "images" / f"{name}.png"
    picture.save(image, optimize=True)
    masks: tuple[Path, ...] = ()
    lost = SmallComponents()
    if mask is not None:
        masks = (folder / "masks" / f"{name}.png",)
        small = prepare_mask(mask, target)
        lost = find_small(mask, small)
        if case.reading.is_binary:
            Image.fromarray(small * 255).convert("1").save(masks[0], optimize=True)
        else:
            Image.fromarray(small).save(masks[0], optimize=True)
    rows, columns = target[0] / height, target[1] / width
    box, spacing = case.box, case.spacing_mm
    if box is not None:
        left, top = round(box[0] * columns), round(box[1] * rows)
        box = (left, top, max(left + 1, round(box[2] * columns)), max(top + 1, round(box[3] * rows)))
    if spacing is not None:
        spacing = (spacing[-2] / rows, spacing[-1] / columns)
    names = class_names(case.classes)
    written = (
        ()
        if case.reading.is_binary
        else tuple(MaskClass(name, (k,)) for k, name in enumerate(names, start=1))
    )
    plain = replace(
        case, resize_mask=False, classes=written, mask_classes=(), foreground=(), background=(), levels=None
    )
    return replace(plain, image=image, channels=(), masks=masks, box=box, spacing_mm=spacing), lost


def file_names(cases: Sequence[Case]) -> list[str]:
    """A file name per case, made from its id, unique even where case does not count.

    >>> file_names([Case("a/1", Path("a.png")), Case("a_1", Path("b.png"))])
    ['a_1', 'a_1_2']
    """
    used: set[str] = set()
    names = []
    for case in cases:
        base = re.sub(r"[^\w.() -]+", "_", case.id).strip(" .") or "case"
        name, number = base, 2
        while name.lower() in used:
            name, number = f"{base}_{number}", number + 1
        used.add(name.lower())
        names.append(name)
    return names
