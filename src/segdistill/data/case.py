"""The case table: one row per image or volume with its reference, the only form in which data enters segdistill."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.files import sha256_file, sha256_text
from segdistill.imaging.classes import Classes, Reading, Value, class_names, classes_text, few
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.masks import read_class_mask, read_mask
from segdistill.imaging.picture import Mask, Pixels
from segdistill.imaging.read_volume import is_volume, volume_files
from segdistill.imaging.segments import names_structures
from segdistill.imaging.several import Channel
from segdistill.imaging.volume import Noticed
from segdistill.registry import near_names

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Case:
    """One image, or one volume of slices, and its reference.

    Attributes:
        id: unique name of the case.
        image: the picture's file; a volume's file; or the folder of a DICOM series, which is a volume.
        masks: the reference's files, joined by union; none: the case has no reference (unless it has a
            `box`, or is labelled normal, which says that there is nothing to find).
        group: cases of one group are never split (same patient, near-duplicates); "" means a group of its
            own.
        label: class of the whole image, such as "benign"; "" when unknown.
        site: hospital, device or source; "" when unknown.
        box: (left, top, right, bottom) in pixels, right and bottom exclusive: a reference where no mask
            exists.
        spacing_mm: (row, column) size of a pixel in millimetres, or (slice, row, column) of a voxel; it stands
            what the file states.
        split: "train", "val", "test" or "".
        resize_mask: the dataset publishes masks whose size differs from the image: resize, then threshold.
        classes: the structures that the masks of its table hold, the same for all of its cases; none: masks have one
            kind of foreground, in volumes every label above 0, unless `foreground` or `background` names others.
        mask_classes: where every class has files of its own, the class of each of `masks`.
        foreground: without classes the values of the mask files that are foreground; none: see `read_mask`.
        background: the values that are background; with classes those that are of none and ignored.
        levels: the values that become black and white of a picture with more than 8 bits; None: it has 8, or its own
            range is taken.
        channels: where each channel of the image lies, `image` being the file of the first; one alone has a name that
            is known; none: the image is one file of its own.

    >>> Case("a", Path("a.png")).group_key
    'a'
    """

    id: str
    image: Path
    masks: tuple[Path, ...] = ()
    group: str = ""
    label: str = ""
    site: str = ""
    box: tuple[int, int, int, int] | None = None
    spacing_mm: tuple[float, float] | tuple[float, float, float] | None = None
    split: str = ""
    resize_mask: bool = False
    classes: Classes = ()
    mask_classes: tuple[str, ...] = ()
    foreground: tuple[Value, ...] = ()
    background: tuple[Value, ...] = ()
    levels: tuple[float, float] | None = None
    channels: tuple[Channel, ...] = ()

    @property
    def image_channels(self) -> tuple[Channel, ...]:
        """Where each channel lies; of one image without names the image itself.

        >>> Case("a", Path("a.png")).image_channels
        (Channel(name='image', path=PosixPath('a.png'), part=0),)
        """
        return self.channels or (Channel("image", self.image),)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Of an image of several channels; none of one image.

        >>> a, b = Channel("flair", Path("a.nii"), 1), Channel("t1", Path("a.nii"), 2)
        >>> [Case("a", Path("a.nii"), channels=channels).channel_names for channels in ((a, b), (a,))]
        [('flair', 't1'), ()]
        """
        return tuple(each.name for each in self.channels) if len(self.channels) > 1 else ()

    @property
    def only_channel(self) -> str:
        """The name of an image's only channel, such as CT; "" where it has several, or none is stated.

        >>> Case("a", Path("a.nii"), channels=(Channel("CT", Path("a.nii")),)).only_channel
        'CT'
        """
        name = self.channels[0].name if len(self.channels) == 1 else ""
        return "" if name == "image" else name

    @property
    def image_files(self) -> tuple[Path, ...]:
        """The files of the image, one for each channel unless they share one."""
        return tuple(dict.fromkeys(each.path for each in self.image_channels))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the image, then those of the masks."""
        return (*self.image_files, *self.masks)

    @property
    def intensity(self) -> Intensity | None:
        """`levels` as what `read_picture` takes.

        >>> Case("a", Path("a.tif"), levels=(0, 4095)).intensity
        Intensity(kind='window', low=0, high=4095)
        """
        return None if self.levels is None else Intensity("window", *self.levels)

    @property
    def group_key(self) -> str:
        """The group that this case belongs to: `group`, or its own id."""
        return normalize("NFC", self.group or self.id)

    @property
    def is_normal(self) -> bool:
        """Whether the label is "normal", in any case: there is nothing to find."""
        return self.label.lower() == "normal"

    @property
    def is_located(self) -> bool:
        """Whether there is a mask or a box."""
        return bool(self.masks) or self.box is not None

    @property
    def has_reference(self) -> bool:
        """Whether it is known what is to be found: by a mask, by a box, or because the case is normal.

        >>> Case("a", Path("a.png"), label="normal").has_reference, Case("b", Path("b.png")).has_reference
        (True, False)
        """
        return self.is_located or self.is_normal

    @property
    def is_guessed(self) -> bool:
        """Whether the foreground of its mask files is found by their values and places, since no value is named."""
        return bool(self.masks) and not self.reading.is_named and self.reading.is_binary

    @property
    def reading(self) -> Reading:
        """How the values of its mask files become classes."""
        return Reading(self.classes, self.foreground, self.background, self.mask_classes)

    @property
    def names_structures(self) -> bool:
        """Whether the mask files name their structures, so that classes need no values.

        >>> Case("a", Path("a.nrrd"), (Path("a.seg.nrrd"),)).names_structures
        True
        """
        return bool(self.masks) and self.is_volume and all(map(names_structures, self.masks))

    @property
    def is_volume(self) -> bool:
        """Whether the case is a volume, of which every slice is one image."""
        return is_volume(self.image)


def unsplit_note(count: int) -> str:
    """One line on rows without split, in a table in which others have one; "" without any.

    >>> unsplit_note(0)
    ''
    """
    return f"{count} rows state no split and are not used: fill in train, val or test" if count else ""


def normal_note(cases: Iterable[Case]) -> str:
    """One line on the normal cases without a mask file; "" where there are none.

    >>> normal_note([Case("a", Path("a.png"), label="normal")])
    'normal images without mask: 1, taken as images with nothing to find'
    """
    count = sum(case.is_normal and not case.is_located for case in cases)
    return f"normal images without mask: {count}, taken as images with nothing to find" if count else ""


def inverted_note(inverted: Sequence[str], total: int) -> str:
    """One line on masks that are drawn the other way round, it seems; "" where these are a few.

    Args:
        inverted: files, or ids of cases, whose masks look so (`imaging.masks.looks_inverted`).
        total: masks that hold foreground and whose values the user has not named.

    >>> inverted_note(["a.png"], 2)
    ''
    >>> inverted_note(["a.png", "b.png"], 3)[:71]
    'foreground is most of the border or most of the image in 2 of 3 masks, '
    """
    if len(inverted) < 2 or 2 * len(inverted) <= total:
        return ""
    return (
        f"foreground is most of the border or most of the image in {len(inverted)} of {total} masks, as in inverted "
        f"ones (such as {inverted[0]}): look at them (data show); if the structures are drawn in black on white, write "
        "foreground: [0] (data.foreground in a recipe, --foreground 0 of data index, or a column foreground in the "
        "table); if they are right, name their value there, such as foreground: [255]"
    )


def select(
    cases: Iterable[Case],
    split: str | Sequence[str] | None = None,
    labels: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | None = None,
) -> list[Case]:
    """The cases of these splits, labels and sites, in the table's order; None takes all.

    Raises:
        InputError: a site that no case of the table has.

    >>> table = [Case("a", Path("a.png"), label="benign", split="test"), Case("b", Path("b.png"))]
    >>> [case.id for case in select(table, split="test", labels=["benign"])]
    ['a']
    """
    splits = (split,) if isinstance(split, str) else split
    wanted = (labels,) if isinstance(labels, str) else labels
    places = (sites,) if isinstance(sites, str) else sites
    table = list(cases)
    known = {case.site for case in table if case.site}
    for site in places or ():
        if site not in known:
            raise InputError(f"no case is of the site '{site}': {near_names(site, known)}")
    return [
        case
        for case in table
        if (splits is None or case.split in splits)
        and (wanted is None or case.label in wanted)
        and (places is None or case.site in places)
    ]


def name_values(
    cases: Iterable[Case],
    foreground: Sequence[Value] | None,
    background: Sequence[Value] | None,
    classes: Classes = (),
) -> list[Case]:
    """The same cases, with these classes, or in whose mask files these values are foreground and background.

    With `foreground`, or `background` alone, masks have one kind of foreground, whatever classes the table has. With
    nothing the cases are as they are.

    Raises:
        InputError: `foreground` and `classes`, or classes without values that the table does not have.

    >>> name_values([Case("a", Path("a.png"), (Path("m.png"),))], [1], None)[0].foreground
    (1,)
    """
    table, fore, back = list(cases), tuple(foreground or ()), tuple(background or ())
    if fore and classes:
        raise InputError("foreground makes one class of several values: give foreground or classes, not both")
    if classes:
        return [_with_classes(case, classes, back) for case in table]
    if not fore and not back:
        return table
    return [
        replace(case, classes=(), foreground=fore, background=back, mask_classes=()) if case.masks else case
        for case in table
    ]


def _with_classes(case: Case, classes: Classes, background: tuple[Value, ...]) -> Case:
    """A case with the classes of a recipe: those without values are taken from its table, which may have more."""
    own = {each.name: each for each in case.classes}
    chosen = tuple(each if each.values else own.get(each.name, each) for each in classes)
    if case.mask_classes:  # the files of other classes are not read
        kept = [k for k, name in enumerate(case.mask_classes) if name in class_names(chosen)]
        files = tuple(case.masks[k] for k in kept)
        names = tuple(case.mask_classes[k] for k in kept)
        return replace(case, classes=chosen, masks=files or case.masks[:0], mask_classes=names)
    bare = [each.name for each in chosen if not each.values]
    if bare and case.masks and not case.names_structures:
        raise InputError(
            f"case '{case.id}': the class '{bare[0]}' has neither values nor files of its own: write classes: "
            f"{{{bare[0]}: 1}} with its value in the mask files"
        )
    used = {value for each in chosen for value in each.values}
    others = (value for each in case.classes for value in each.values if value not in used)
    return replace(
        case, classes=chosen, foreground=(), background=tuple(dict.fromkeys((*background, *others)))
    )


def table_classes(cases: Iterable[Case]) -> Classes:
    """The classes of a table, which all of its cases share; none where masks have one kind of foreground.

    Raises:
        InputError: cases of one table have different classes.

    >>> table_classes([Case("a", Path("a.png"))])
    ()
    """
    found: dict[tuple[str, ...], Case] = {}
    for case in cases:
        found.setdefault(class_names(case.classes), case)
    if len(found) > 1:
        first, second = list(found.values())[:2]
        here, there = (few(class_names(case.classes)) or "none" for case in (first, second))
        raise InputError(
            f"the cases '{first.id}' and '{second.id}' have different classes ({here} and {there}): a table has one "
            "list of classes"
        )
    return next(iter(found.values())).classes if found else ()


def table_channels(cases: Iterable[Case]) -> tuple[str, ...]:
    """The names of the channels of a table's images, in the order of its first case; none where they have one.

    Raises:
        InputError: two cases have different channels.

    >>> table_channels([Case("a", Path("a.png"))])
    ()
    """
    found: dict[frozenset[str], Case] = {}
    for case in cases:
        found.setdefault(frozenset(case.channel_names), case)
    if len(found) > 1:
        first, second = list(found.values())[:2]
        here, there = (", ".join(case.channel_names) or "one image" for case in (first, second))
        raise InputError(
            f"the cases '{first.id}' and '{second.id}' have different channels ({here}; {there}): all cases of a table "
            "have the same"
        )
    return next(iter(found.values())).channel_names if found else ()


def only_channel(cases: Iterable[Case]) -> str:
    """The name of the only channel of a table's images, which all state; "" where one does not.

    >>> only_channel([Case("a", Path("a.nii"), channels=(Channel("CT", Path("a.nii")),)), Case("b", Path("b.nii"))])
    ''
    """
    found = {case.only_channel for case in cases}
    return found.pop() if len(found) == 1 else ""


def with_channels(case: Case, names: Sequence[str]) -> Case:
    """The case with these channels, in this order, as a network takes them.

    Args:
        case: has at least these, or as many without names of their own ("channel 1", ...).
        names: of several channels, or none where the network takes one image.

    Raises:
        InputError: the case lacks one, or has several where one image is wanted.

    >>> here = tuple(Channel(name, Path(f"{name}.nii")) for name in ("t1", "flair"))
    >>> case = with_channels(Case("a", Path("t1.nii"), channels=here), ["flair", "t1"])
    >>> case.channel_names, case.image.name
    (('flair', 't1'), 'flair.nii')
    """
    own = case.channel_names
    if tuple(names) == own:
        return case
    if not names:
        raise InputError(
            f"case '{case.id}' has {len(own)} channels ({', '.join(own)}), and one image is taken: give one of them"
        )
    if len(own) == len(names) and own == unnamed(len(own)):
        chosen = [each._replace(name=name) for each, name in zip(case.channels, names, strict=True)]
    else:
        known = {each.name: each for each in case.channels}
        if missing := [name for name in names if name not in known]:
            raise InputError(
                f"case '{case.id}' lacks the channel {missing[0]}: it has {', '.join(known) or 'one image'}, and "
                f"{', '.join(names)} are wanted: name the files {';'.join(f'{name}=FILE' for name in names)} in the "
                "column image"
            )
        chosen = [known[name] for name in names]
    return replace(case, image=chosen[0].path, channels=tuple(chosen))


def unnamed(count: int) -> tuple[str, ...]:
    """The names of channels that have none of their own.

    >>> unnamed(2)
    ('channel 1', 'channel 2')
    """
    return tuple(f"channel {number}" for number in range(1, count + 1))


_HASHES: dict[tuple[str, int, int], str] = {}


def file_hash(path: Path, again: bool = False) -> str:
    """SHA-256 of a file, remembered by (path, size, modification time) within the process.

    Of a volume in several files (a header with its voxels, the folder of a series) it is the hash of all of them.

    Args:
        path: of the file, or of a series.
        again: read the content even if it is remembered: a copy can keep size and time of what it replaces.

    Raises:
        InputError: the file cannot be read.
    """
    parts = volume_files(path) if is_volume(path) else [path]
    if parts != [path]:
        return sha256_text(json.dumps([_plain_hash(part, again) for part in parts]))
    return _plain_hash(path, again)


def hash_files(cases: Iterable[Case]) -> dict[str, str]:
    """Absolute path -> hash of the present content of every file of these cases; "" of one that cannot be read.

    >>> hash_files([Case("a", Path("absent.png"))]) == {str(Path("absent.png").absolute()): ""}
    True
    """
    found: dict[str, str] = {}
    for case in cases:
        for path in case.files:
            try:
                found[str(path.absolute())] = file_hash(path, again=True)
            except InputError:
                found[str(path.absolute())] = ""
    return found


def _plain_hash(path: Path, again: bool) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe waits for ever
            raise InputError(f"{path}: is not a regular file: restore the file or drop the case")
        key = (str(path), status.st_size, status.st_mtime_ns)
        if again or key not in _HASHES:
            _HASHES[key] = sha256_file(path)
        return _HASHES[key]
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}): restore the file or drop the case"
        ) from error


def content_key(case: Case) -> list[object]:
    """What decides a case's pixels and reference, whatever its files are called (JSON types)."""
    files = [file_hash(case.image), [file_hash(mask) for mask in case.masks]]
    is_one = len(case.channels) == 1 and not case.channels[0].part  # its file stands above
    named: dict[str, object] = {
        "foreground": case.foreground,
        "background": case.background,
        "levels": case.levels,
        "classes": "" if _is_plain(case.classes) else classes_text(case.classes),
        "mask_classes": case.mask_classes,
        "channels": [] if is_one else [[file_hash(each.path), each.part] for each in case.channels],
    }
    return [
        case.id,
        *files,
        case.box,
        case.resize_mask,
        *({key: value} for key, value in named.items() if value),
    ]


def _is_plain(classes: Classes) -> bool:
    """Whether the classes leave a mask as it is without them: one, of the label 1."""
    return not classes or (len(classes) == 1 and classes[0].values in ((), (1,)))


def table_hash(cases: Iterable[Case]) -> str:
    """Hash of a table's content: ids, groups, labels, sites, splits and the bytes of every file; not its row
    order.

    Raises:
        InputError: a file cannot be read.

    >>> table_hash([]) == table_hash(())
    True
    """
    rows = [
        [content_key(case), case.group_key, case.label, case.site, case.spacing_mm, case.split]
        for case in sorted(cases, key=lambda case: case.id)
    ]
    return sha256_text(json.dumps(rows))


def require_unique(cases: Iterable[Case]) -> None:
    """Raises InputError when two cases share an id."""
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise InputError(f"two cases have the id '{case.id}': give every case its own id")
        seen.add(case.id)


def reference_mask(case: Case, size: tuple[int, int], noticed: Noticed | None = None) -> Mask | Pixels:
    """The reference at the image's own size; all zero when the case has none or is normal (see `Case.has_reference`).

    Args:
        case: whose reference.
        size: (height, width) of its image.
        noticed: see `read_class_mask`.

    Returns:
        (height, width): bool, or with several classes uint8, k for the k-th of `case.classes`.

    Raises:
        InputError: a mask cannot be read, is no mask (see `read_mask`), differs in size, or a box is given for several
            classes.

    >>> from pathlib import Path
    >>> reference_mask(Case("a", Path("a.png"), box=(1, 0, 3, 1)), (2, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    reading = case.reading
    if case.masks:
        return _drawn(case, size, case.resize_mask, noticed)
    mask: NDArray[Any] = np.zeros(size, np.bool_ if reading.is_binary else np.uint8)
    if case.box is not None:
        if not reading.is_binary:
            raise InputError(
                f"case '{case.id}': a box states no class, and the table has several: give a mask"
            )
        left, top, right, bottom = case.box
        if right > size[1] or bottom > size[0]:
            raise InputError(
                f"case '{case.id}': box {case.box} leaves the image of {size[1]}x{size[0]} pixels: "
                f"correct the box"
            )
        mask[top:bottom, left:right] = True
    return mask


def empty_references(cases: Iterable[Case]) -> set[str]:
    """Ids of the pictures whose reference is known to be empty: normal ones, and those with an empty mask.

    Volumes are not opened: an organ is in every one of them, or `data check` reports it.

    Raises:
        InputError: a mask cannot be read.

    >>> empty_references([Case("a", Path("a.png"), label="normal"), Case("b", Path("b.png"), box=(0, 0, 1, 1))])
    {'a'}
    """
    return {
        case.id
        for case in cases
        if (not case.is_located and case.is_normal)
        or (case.masks and not case.is_volume and not _drawn(case, None, True).any())
    }


def _drawn(
    case: Case, size: tuple[int, int] | None, resize: bool, noticed: Noticed | None = None
) -> Mask | Pixels:
    """The mask files of a picture, joined."""
    reading = case.reading
    if reading.classes and (len(reading.classes) > 1 or reading.is_named):
        found = read_class_mask(case.masks, reading, size, resize, noticed)
        return found > 0 if reading.is_binary else found
    return read_mask(
        case.masks, size, resize=resize, foreground=reading.foreground, background=reading.background
    )
