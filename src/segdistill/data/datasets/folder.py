"""Your own images: a folder with images/ and masks/, or images with masks beside them, in folders of any depth."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unicodedata import normalize

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import (
    find_root,
    list_data,
    list_folders,
    require_pairs,
    stem_of,
    subfolder,
)
from segdistill.errors import InputError

IMAGES = ("images", "image", "imgs", "img", "original", "originals", "pictures")
MASKS = (
    "masks",
    "mask",
    "gt",
    "ground_truth",
    "groundtruth",
    "labels",
    "label",
    "annotations",
    "segmentations",
)
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_STRONG = r"masks?|gt|seg|segmentation|ground_?truth|annotation|anno"
_MASK_WORD = rf"(?:{_STRONG}|label|ann|lesion|tumou?r)"
_MASK_END = re.compile(rf"^(?P<key>.+?)[ _.-]+{_MASK_WORD}(?:[ _.-]?\d+)?$", re.IGNORECASE)
_MASK_START = re.compile(rf"^{_MASK_WORD}[ _.-]+(?P<key>.+)$", re.IGNORECASE)
_SURELY_A_MASK = re.compile(rf"^.+?[ _.-]+(?:{_STRONG})(?:[ _.-]?\d+)?$", re.IGNORECASE)
_IMAGE_AFFIX = re.compile(r"^(?:images?|img|im)[ _.-]+|[ _.-]+(?:images?|img|im)$", re.IGNORECASE)
_GIF = (".gif",)  # read as masks

_LABEL = re.compile(
    r"benign|malign|normal|health|positive|negative|cancer|carcinom|tumou?r|lesion|polyp|cyst|adenom|melanom|na?ev[ui]|"
    r"disease|grade|stage|bi-?rads|class|label|type|categor|level|score|control|covid|pneumon",
    re.IGNORECASE,
)
_SITE_WORD = r"(?i:sites?|hospitals?|cent(?:er|re)s?|clinics?|scanners?|vendors?|devices?|institut\w*)"
_SITE = re.compile(rf"^{_SITE_WORD}(?:[ _.#-].*|[A-Z0-9]{{0,3}})$")
_NOTHING = re.compile(
    r"^(?:folds?|parts?|batch|chunk|sets?|splits?|data|png|jpe?g|tiff?|dicom|nifti)[ _.#-]*\d*$", re.I
)
_PERSON_WORD = (
    "patients?|pat|pt|subjects?|subj?|cases?|persons?|stud(?:y|ies)|series|scans?|videos?|vid|clips?|exams?"
)
_DATE = re.compile(r"(19|20)\d\d([-_.]?\d\d){0,2}")
_PERSON = re.compile(rf"^(?:{_PERSON_WORD}|p|s|id)[ _.#-]*\d|\d\d|^[0-9a-f]{{12,}}$", re.IGNORECASE)
FEW = 20  # labels are no more than that
_WHAT = "images/ and masks/ (or images with masks beside them, such as 7.png and 7_mask.png)"
_FOLDERS = ("auto", "folders", "none")


def split_of(place: Path, root: Path) -> str:
    """The split that the first folder from `root` to `place` with such a name states; "" without one.

    >>> split_of(Path("set/valid/images"), Path("set"))
    'val'
    """
    return next(filter(None, map(split_name, place.relative_to(root).parts)), "")


def split_name(folder: str) -> str:
    """The split that the name of a folder states; "" where it states none.

    >>> split_name("train2017"), split_name("Test Set"), split_name("benign")
    ('train', 'test', '')
    """
    plain = re.sub(r"[\d\s_-]+|dataset|images|imgs|data|split|set", "", folder.lower())
    return SPLIT_FOLDERS.get(plain, "")


def mask_key(stem: str) -> str:
    """The image's name inside a mask's name.

    >>> [mask_key(stem) for stem in ("7_mask_1", "mask-7", "7.gt", "case 7_seg", "7")]
    ['7', '7', '7', 'case 7', '7']
    """
    match = _MASK_END.match(stem) or _MASK_START.match(stem)
    return match["key"] if match else stem


def mask_keys(stem: str) -> list[str]:
    """What a mask's image may be called, the most likely name first.

    >>> mask_keys("7_lesion_mask")
    ['7_lesion_mask', '7_lesion', '7']
    """
    keys = [stem]
    while (key := mask_key(keys[-1])) not in keys:
        keys.append(key)
    return keys


def image_key(stem: str) -> str:
    """An image's name without an image prefix or suffix.

    >>> image_key("img_7"), image_key("7")
    ('7', '7')
    """
    return _IMAGE_AFFIX.sub("", stem) or stem


def pair(images: Sequence[Path], masks: Sequence[Path]) -> dict[Path, tuple[Path, ...]]:
    """Finds every image's masks by name: the same stem first, then without the usual prefixes and suffixes.

    Names are compared in one form of Unicode, and in small letters where nothing else fits.

    Raises:
        InputError: a mask without image, or two images that a mask could belong to.
    """
    found, left = match_masks(images, masks)
    require_pairs(left)
    return {image: tuple(files) for image, files in found.items()}


def match_masks(images: Sequence[Path], masks: Sequence[Path]) -> tuple[dict[Path, list[Path]], list[Path]]:
    """The masks of each image, by their names, and those that belong to none.

    >>> match_masks([Path("7.nii.gz")], [Path("7.seg.nrrd")])[1]
    []

    Raises:
        InputError: two images that a mask could belong to.
    """
    names = _Names(images)
    found: dict[Path, list[Path]] = {image: [] for image in images}
    left: list[Path] = []
    for mask in masks:
        owners = names.owners(mask)
        if len(owners) > 1:
            shown = " and ".join(str(owner) for owner in owners[:2])
            raise InputError(f"{mask}: belongs to {shown} alike: give images and masks distinct names")
        if owners:
            found[owners[0]].append(mask)
        else:
            left.append(mask)
    return found, left


class _Names:
    """Images by all that their masks may call them."""

    def __init__(self, images: Iterable[Path]) -> None:
        self._by: list[dict[str, list[Path]]] = [{}, {}, {}, {}]
        for image in images:
            stem = stem_of(image)
            for names, key in zip(self._by, _forms(stem), strict=True):
                names.setdefault(key, []).append(image)

    def owners(self, mask: Path) -> list[Path]:
        keys = mask_keys(stem_of(mask))
        for names, small in zip(self._by, (False, False, True, True), strict=True):
            for key in keys:
                for form in (key, image_key(key)):
                    if owners := names.get(form.casefold() if small else form):
                        return owners
        return []


def _forms(stem: str) -> tuple[str, str, str, str]:
    return stem, image_key(stem), stem.casefold(), image_key(stem).casefold()


def divide(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Images, and masks that lie beside them, by their names alone.

    >>> images, masks = divide([Path("p1_lesion_0.png"), Path("p1_lesion_0_mask.png")])
    >>> [file.name for file in masks]
    ['p1_lesion_0_mask.png']
    """
    names = _Names(files)
    owner: dict[Path, Path] = {}
    for file in files:
        keys = mask_keys(stem_of(file))[1:]
        owners = [one for key in keys for one in names.owners(file.with_name(f"{key}.x")) if one != file]
        if owners:
            owner[file] = owners[0]
    owning = set(owner.values())
    masks = [
        file
        for file in files
        if (file in owner and not (file in owning and not _SURELY_A_MASK.match(stem_of(file))))
        or (file not in owner and file not in owning and _SURELY_A_MASK.match(stem_of(file)))
    ]
    taken = set(masks)
    return [file for file in files if file not in taken and file.suffix.lower() not in _GIF], masks


@dataclass(frozen=True)
class _Item:
    """A picture, volume or series, and the names of the folders that lead to it."""

    file: Path
    parts: tuple[str, ...]


@dataclass(frozen=True)
class _Unit:
    """A folder that holds images and masks.

    Attributes:
        folder: below which they lie.
        images, masks: what is in it; `parts` count from the folder of images or of masks.
    """

    folder: Path
    images: list[_Item]
    masks: list[_Item]


@register_dataset(
    "folder",
    "Your own images: a folder with images/ and masks/",
    how_to_get=(
        "Put pictures or volumes into images/ and masks of the same names into masks/ (several masks: 7_mask.png, "
        "7_mask_1.png); sub-folders become splits, sites, labels or groups by their names."
    ),
)
def index(path: Path, labels: str = "auto", groups: str = "auto") -> list[Case]:
    """Cases of a folder in one of these layouts; folders may be nested to any depth:

    images/ + masks/, with the same folders inside both · several folders with such a pair, one for each split, class,
    site or patient · images with masks beside them (`7.png`, `7_mask.png`). Mask names equal the image's, or add mask,
    gt, seg, label, ... before or after it. Pictures, volumes and DICOM series are taken.

    Folders named train, val and test become `split`. Of the others those named as hospitals become `site`, a few that
    hold many cases each `label`, and those of patients, scans or videos `group`; see `folder_roles`.

    Args:
        path: the folder, or one above it.
        labels: "folders" takes the outermost folders for labels, "none" none.
        groups: "folders" takes the innermost folders for groups, "none" none.

    Raises:
        InputError: no such layout, no image, a mask without image, or several data sets.
    """
    for option, value in (("labels", labels), ("groups", groups)):
        if value not in _FOLDERS:
            raise InputError(f"{option} '{value}' is unknown: use {', '.join(_FOLDERS)}")
    find_root(path, lambda _: True, _WHAT)
    units = _units(path)
    if not units:
        count = sum(len(list_data(folder)) for folder in _all_folders(path))
        held = (
            f"{count} pictures or volumes and no masks" if count else "no pictures or volumes that are read"
        )
        raise InputError(
            f"{path} holds {held}: put images into images/ and masks of the same names into masks/ (or beside them, "
            "such as 7.png and 7_mask.png), or write a case table with the columns id, image and masks"
        )
    _require_one(path, units, labels, groups)
    root = _common([unit.folder for unit in units])
    found = [(item, masks, parts_below(unit.folder, root)) for unit in units for item, masks in _paired(unit)]
    if not found:
        raise InputError(f"{root}: no images: put them into {root / 'images'}")
    roles = folder_roles([without_split(above + item.parts)[1] for item, _, above in found], labels, groups)
    cases = [case_of(item.file, masks, above + item.parts, roles) for item, masks, above in found]
    order = {"train": 0, "val": 1, "test": 2, "": 3}
    return sorted(cases, key=lambda case: order[case.split])


def has_layout(path: Path) -> bool:
    """Whether a folder, or one below, holds images and masks in one of the layouts of `index`.

    >>> import tempfile
    >>> has_layout(Path(tempfile.mkdtemp()))
    False
    """
    return bool(_units(path))


def is_plain(folder: Path) -> bool:
    """Whether a folder holds images and masks itself, in one of the layouts of `index`."""
    images, masks = subfolder(folder, IMAGES), subfolder(folder, MASKS)
    if images and masks:
        return True
    return _has_pairs(*divide(list_data(folder, _GIF)))


def _has_pairs(images: Sequence[Path], masks: Sequence[Path]) -> bool:
    names = _Names(images)
    return any(names.owners(mask) for mask in masks)


def _units(path: Path) -> list[_Unit]:
    """The folders at one depth, the least, that hold images/ and masks/; else those with masks beside images."""
    level, beside = [path], []
    while level:
        below: list[Path] = []
        found: list[Path] = []
        for folder in level:
            has_images, has_masks = subfolder(folder, IMAGES), subfolder(folder, MASKS)
            if has_masks and (has_images or _has_pairs(list_data(folder), list_data(has_masks, _GIF))):
                found.append(folder)
            below += list_folders(folder)
        if found:
            alone = [one for one in level if one not in found and subfolder(one, IMAGES)]
            return [_pair_unit(folder) for folder in sorted([*found, *alone], key=level.index)]
        beside += [folder for folder in level if is_plain(folder)]
        level = below
    if not beside:
        return []
    root = _common(beside)
    return [_Unit(folder, *_divided(folder)) for folder in _all_folders(root) if list_data(folder)]


def _pair_unit(folder: Path) -> _Unit:
    images, masks = subfolder(folder, IMAGES), subfolder(folder, MASKS)
    inside = list(_items(images)) if images else [_Item(file, ()) for file in list_data(folder)]
    return _Unit(folder, inside, list(_items(masks, more=_GIF)) if masks else [])


def _divided(folder: Path) -> tuple[list[_Item], list[_Item]]:
    images, masks = divide(list_data(folder, _GIF))
    return [_Item(file, ()) for file in images], [_Item(file, ()) for file in masks]


def _items(folder: Path, parts: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> Iterator[_Item]:
    for file in list_data(folder, more):
        yield _Item(file, parts)
    for child in list_folders(folder):
        yield from _items(child, (*parts, _name(child)), more)


def _all_folders(folder: Path) -> list[Path]:
    return [folder, *(one for child in list_folders(folder) for one in _all_folders(child))]


def _common(folders: Sequence[Path]) -> Path:
    """The deepest folder that holds all of them, or is the only one."""
    first, *others = folders
    return next(one for one in (first, *first.parents) if all(other.is_relative_to(one) for other in others))


def _name(folder: Path) -> str:
    return normalize("NFC", folder.name)


def parts_below(folder: Path, root: Path) -> tuple[str, ...]:
    """The names of the folders from `root` to `folder`, in the composed form of Unicode.

    >>> parts_below(Path("set/a/b"), Path("set"))
    ('a', 'b')
    """
    return tuple(normalize("NFC", part) for part in folder.relative_to(root).parts)


def _require_one(path: Path, units: Sequence[_Unit], labels: str, groups: str) -> None:
    """Refuses folders side by side that look like data sets of their own, unless the user has named what they are."""
    root = _common([unit.folder for unit in units])
    names = [part for unit in units for part in without_split(parts_below(unit.folder, root))[1][:1]]
    unknown = [name for name in dict.fromkeys(names) if not (_LABEL.search(name) or _is_site_or_person(name))]
    if len(unknown) > 1 and "folders" not in (labels, groups):
        raise InputError(
            f"{path}: {len(unknown)} folders in it hold {_WHAT} ({', '.join(unknown[:3])}): give one of them, the name "
            "of the published dataset that they belong to (segdistill list datasets), or --groups folders (patients), "
            "--labels folders (classes)"
        )


def _is_site_or_person(name: str) -> bool:
    return bool(_SITE.match(name) or _PERSON.search(name))


def _paired(unit: _Unit) -> list[tuple[_Item, tuple[Path, ...]]]:
    """Images with their masks: those of the same folder, or of a folder that has the image's name."""
    by_folder: dict[tuple[str, ...], list[_Item]] = {}
    for item in unit.images:
        by_folder.setdefault(_small(item.parts), []).append(item)
    found: dict[Path, list[Path]] = {}
    left = list(unit.masks)
    for parts, items in by_folder.items():
        _require_stems(items)
        here = [mask.file for mask in left if _small(mask.parts) == parts]
        matched, _ = match_masks([item.file for item in items], here)
        found |= matched
        taken = {file for files in matched.values() for file in files}
        left = [mask for mask in left if mask.file not in taken]
    _place_rest(unit, left, found)
    return [(item, tuple(found[item.file])) for item in unit.images]


def _place_rest(unit: _Unit, left: list[_Item], found: dict[Path, list[Path]]) -> None:
    """Masks whose folder is not their image's: named as the image, one flat folder for all, or all of one image."""
    named = {(*_small(item.parts), stem_of(item.file).casefold()): item.file for item in unit.images}
    flat = not any(mask.parts for mask in unit.masks) or not any(item.parts for item in unit.images)
    orphans = []
    for mask in left:
        if owner := named.get(_small(mask.parts)):
            found[owner].append(mask.file)
        else:
            orphans.append(mask.file)
    if orphans and flat:
        matched, orphans = match_masks([item.file for item in unit.images], orphans)
        for image, files in matched.items():
            found[image] += files
    if len(unit.images) == 1 and len(orphans) == len(unit.masks):
        found[unit.images[0].file] += orphans
        orphans = []
    require_pairs(orphans)


def _small(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.casefold() for part in parts)


def _require_stems(items: Sequence[_Item]) -> None:
    names: dict[str, Path] = {}
    for item in items:
        other = names.setdefault(stem_of(item.file), item.file)
        if other is not item.file:
            same = other.name != item.file.name and normalize("NFC", other.name) == normalize(
                "NFC", item.file.name
            )
            why = "the same name in two Unicode forms" if same else "the same stem"
            raise InputError(f"{item.file} and {other.name} have {why}: rename one of them")


def folder_roles(found: Sequence[tuple[str, ...]], labels: str = "auto", groups: str = "auto") -> list[str]:
    """What the folders of each depth are: "site", "label", "group", or "" where they tell nothing.

    Names of hospitals are sites, names of findings ("benign", "grade 2") labels, names of people, scans and videos
    ("patient 7", "0042") groups. Of other names a few with many cases each are labels, and the rest are groups.

    Args:
        found: of each case the folders that lead to it, without train, val and test.
        labels: "auto", "folders" or "none"; see `index`.
        groups: as `labels`.

    >>> folder_roles([("benign", f"p{n}") for n in range(9)])
    ['label', 'group']
    >>> folder_roles([("3",)] * 8 + [("4",)] * 8), folder_roles([(f"{n:03}",) for n in range(9)])
    (['label'], ['group'])
    """
    depth = max((len(parts) for parts in found), default=0)
    roles: list[str] = []
    has_people = False  # scans and sessions below a patient's folder are the same patient's
    for level in range(depth):
        counts = Counter(parts[level] for parts in found if len(parts) > level)
        role = _role(counts, "label" in roles)
        roles.append("" if role == "group" and has_people else role)
        are_dates = all(map(_DATE.fullmatch, counts))  # the patients are below them
        has_people |= role == "group" and len(counts) > 1 and _are_people(counts) and not are_dates
    if labels != "auto":
        roles = ["" if role == "label" else role for role in roles]
    if groups != "auto":
        roles = ["" if role == "group" else role for role in roles]
    if groups == "folders" and depth:
        roles[-1] = "group"
    if labels == "folders" and depth:
        roles[0] = "label"
    return roles


def _role(counts: Counter[str], has_label: bool) -> str:
    names, total = list(counts), sum(counts.values())
    if 2 * sum(count for name, count in counts.items() if _SITE.match(name)) > total:
        return "site"
    known = [name for name in names if _LABEL.search(name)]
    if 2 * len(known) >= len(names):
        return "group" if has_label else "label"
    if all(_NOTHING.match(name) for name in names):
        return ""
    if _are_people(names):
        return "group"
    if len(names) == 1:
        return ""
    is_few = len(names) <= FEW and median(counts.values()) >= max(4, len(names))
    return "label" if is_few and not has_label else "group"


def _are_people(names: Collection[str]) -> bool:
    return 2 * sum(bool(_PERSON.search(name)) for name in names) >= len(names)


def are_known_labels(names: Iterable[str]) -> bool:
    """Whether folders are surely labels, by their names.

    >>> are_known_labels(["benign", "malignant"]), are_known_labels(["anna", "bert"])
    (True, False)
    """
    return all(_LABEL.search(name) for name in names)


def without_split(parts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The split that a folder names, and the other folders.

    >>> without_split(("Train", "benign")), without_split(("benign",))
    (('train', ('benign',)), ('', ('benign',)))
    """
    for at, part in enumerate(parts):
        if split := split_name(part):
            return split, parts[:at] + parts[at + 1 :]
    return "", parts


def case_of(image: Path, masks: tuple[Path, ...], parts: tuple[str, ...], roles: Sequence[str]) -> Case:
    """The case of an image by the folders that lead to it.

    Args:
        image: its file.
        masks: of the case.
        parts: the names of the folders.
        roles: of the folders but those of splits, see `folder_roles`.

    >>> case_of(Path("set/p1/7.png"), (), ("p1",), ["group"]).group
    'p1'
    """
    split, others = without_split(parts)
    named = list(zip(roles, others, strict=False))
    group = "/".join(part for role, part in named if role in ("site", "group"))
    return Case(
        "/".join((*parts, stem_of(image))),
        image,
        masks,
        group=group if any(role == "group" for role, _ in named) else "",
        label=next((part for role, part in named if role == "label"), ""),
        site=next((part for role, part in named if role == "site"), ""),
        split=split,
    )
