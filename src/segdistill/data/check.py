"""Checks every file of a table: one line per problem, with the files and what to do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from segdistill.data.case import (
    Case,
    inverted_note,
    normal_note,
    reference_mask,
    table_channels,
    unsplit_note,
)
from segdistill.data.duplicates import (
    Fingerprint,
    Pair,
    find_pairs,
    fingerprint,
    group_duplicates,
    volume_fingerprint,
)
from segdistill.data.leaks import leaks
from segdistill.data.opened import open_picture, open_volume
from segdistill.errors import InputError
from segdistill.imaging.classes import class_names, few
from segdistill.imaging.masks import looks_inverted
from segdistill.imaging.segments import meant
from segdistill.imaging.several import read_channel_volumes
from segdistill.imaging.volume import Geometry, Misfit, Noticed

LARGE, LARGE_SHARE = 10, 0.05  # more copies of one picture than both are suspicious
LEVELS = ("error", "warning", "note")
_TILTED = 0.1  # degrees


@dataclass(frozen=True)
class Finding:
    """One line about some cases.

    Attributes:
        level: "error" (cannot be used), "warning" (look at it) or "note".
        cases: ids.
        message: names the files and what to do.
        is_grouping: no finding any more once the cases are in one group.
    """

    level: str
    cases: tuple[str, ...]
    message: str
    is_grouping: bool = False


@dataclass(frozen=True)
class Check:
    """Findings, worst first, and the pairs of pictures that show the same (for grouping and leak checks)."""

    findings: list[Finding]
    pairs: list[Pair]

    @property
    def errors(self) -> list[Finding]:
        """The findings that make a table unusable."""
        return [finding for finding in self.findings if finding.level == "error"]


@dataclass
class _Seen:
    print: Fingerprint | None = None
    findings: list[Finding] = field(default_factory=list)
    geometry: Geometry | None = None  # of a volume, turned as the network sees it
    mask: Noticed = field(default_factory=Noticed)
    channels: Noticed = field(default_factory=Noticed)
    inverted: bool | None = None  # None: no foreground, or the user has named its values
    classes: frozenset[int] = frozenset()  # that its mask holds, where the table has several


def check_cases(
    cases: Sequence[Case],
    progress: Callable[[int, int], None] | None = None,
    require_reference: bool = True,
    workers: int | None = None,
) -> list[Finding]:
    """Decodes every file once and returns the findings, worst first (see `run_check`)."""
    return run_check(cases, progress, require_reference, workers).findings


def run_check(
    cases: Sequence[Case],
    progress: Callable[[int, int], None] | None = None,
    require_reference: bool = True,
    workers: int | None = None,
) -> Check:
    """Checks a table.

    Errors: channels that differ between cases, or lie on different grids;
    a file that is missing, empty, truncated or no image; an image without mask, unless it is labelled normal;
    sizes that differ; a
    mask that is a photo; a volume's mask of another geometry or with labels beyond those declared; a series with
    missing or double slices; a repeated id; a group in several splits. Warnings: copies in several splits; an empty
    mask in a
    labelled class other than "normal"; an empty box; copies of one picture that are not grouped, or whose labels
    differ; volumes whose slices lie in different planes; a volume's mask that does not state where it lies; masks that
    look inverted, where most do; segments of no class. Notes:
    counts; masks or channels that lie a little beside their volume; tilted series.

    Args:
        cases: the table.
        progress: called with (done, total) after every case.
        require_reference: False allows images without mask.
        workers: decoding threads; by default the number of cores, at most 8.
    """
    findings = [*_repeated_ids(cases), *_channels(cases)]
    names: list[str] = []
    prints: list[Fingerprint] = []
    volumes: list[tuple[Case, Geometry, list[Misfit]]] = []
    drawn: list[tuple[Case, bool]] = []
    held: list[tuple[Case, _Seen]] = []
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(lambda case: _look(case, require_reference), cases)
        for done, (case, seen) in enumerate(zip(cases, looks, strict=True), start=1):
            findings += seen.findings
            if seen.print is not None:
                names.append(case.id)
                prints.append(seen.print)
            if seen.geometry is not None:
                volumes.append((case, seen.geometry, seen.mask.misfits))
            if seen.inverted is not None:
                drawn.append((case, seen.inverted))
            held.append((case, seen))
            if progress is not None:
                progress(done, len(cases))
    findings += [*_classes(held), *_joined(held), *_unknown(held), *_beside(held)]
    findings += [*_planes(volumes), *_tilts(volumes), *_misfits(volumes), *_inverted(drawn)]
    pairs = find_pairs(names, prints)
    findings += _copies(cases, pairs) + large_groups(cases, pairs)
    found_leaks = leaks(cases, pairs)
    findings += [
        Finding(
            "error" if leak.kind == "group" else "warning",
            (leak.first.id, leak.second.id),
            f"leak: {leak}: give them one group and one split, or leave one out",
        )
        for leak in found_leaks
    ]
    findings += _counts(cases, pairs)
    return Check(sorted(findings, key=lambda finding: LEVELS.index(finding.level)), pairs)


def _look(case: Case, require_reference: bool) -> _Seen:
    seen = _Seen()
    try:
        message = _read_case(case, require_reference, seen)
    except InputError as error:
        seen.findings.append(Finding("error", (case.id,), str(error)))
    else:
        if message:
            seen.findings.append(Finding("warning", (case.id,), message))
    return seen


def _read_case(case: Case, require_reference: bool, seen: _Seen) -> str:
    """Reads a case into `seen`; a warning about its mask, or "".

    Raises:
        InputError: a file cannot be used, or there is no mask.
    """
    if case.is_volume:
        volumes = read_channel_volumes(case.image_channels, noticed=seen.channels)
        seen.geometry, seen.print = volumes[0].geometry, volume_fingerprint(volumes[0])
        del volumes  # they are read once more, with the mask
        size = (0, 0)
    else:
        picture = open_picture(case)
        seen.print, size = fingerprint(picture.shown), picture.size
    if not case.has_reference:
        if not require_reference:
            return ""
        raise InputError(
            f"image without mask: {case.image}: add its mask, label it normal if there is nothing to find, remove "
            "the image, or allow such images with --unlabelled"
        )
    mask = open_volume(case, seen.mask)[1] if case.is_volume else reference_mask(case, size, seen.mask)
    if not case.reading.is_binary:
        seen.classes = frozenset(int(k) for k in np.flatnonzero(np.bincount(mask.reshape(-1))) if k)
    if case.is_guessed and mask.any():
        seen.inverted = looks_inverted(mask)
    if case.is_normal:
        marked = (
            f"a normal case with something marked: {case.image}: empty its mask, or give it another label"
        )
        return marked if mask.any() else ""
    return "" if mask.any() else _empty_mask(case)


def _empty_mask(case: Case) -> str:
    files = ", ".join(map(str, case.masks))
    if case.is_volume:
        return f"empty mask of a volume: {files}: draw the organ, or drop the case"
    if not case.masks:
        box = " ".join(map(str, case.box or ()))
        return (
            f"empty box '{box}': {case.image}: write left top right bottom in pixels, or leave the box empty"
        )
    label = f"empty mask in class '{case.label}': {files}: draw the lesion, or label the case normal"
    return label if case.label else ""


def _joined(held: Sequence[tuple[Case, _Seen]]) -> list[Finding]:
    """Volumes whose masks hold several labels that become one structure unasked."""
    several = [(case, seen.mask.labels) for case, seen in held if len(seen.mask.labels) > 1]
    if not several:
        return []
    labels = sorted(set().union(*(labels for _, labels in several)))
    shown_labels = ", ".join(map(str, labels[:6])) + (", ..." if len(labels) > 6 else "")
    message = (
        f"masks of {len(several)} volumes hold the labels {shown_labels}, which become one structure: name them "
        f"(classes: 'a={labels[0]};b={labels[1]}'), or state that they are one (foreground: '{labels[0]} {labels[1]}')"
    )
    return [Finding("warning", tuple(case.id for case, _ in several), message)]


def _unknown(held: Sequence[tuple[Case, _Seen]]) -> list[Finding]:
    """Segments that become background, since no class has their name."""
    counts: Counter[str] = Counter()
    files: dict[str, Path] = {}
    for _, seen in held:
        counts.update(seen.mask.unknown.keys())
        files = seen.mask.unknown | files
    if not counts:
        return []
    found = [case for case, seen in held if seen.mask.unknown]
    named = few(f"'{name}' in {count} case{'s' * (count != 1)}" for name, count in counts.most_common())
    known = class_names(found[0].classes)
    message = (
        f"segments of no class become background: {named}, such as in {files[counts.most_common(1)[0][0]]}; the "
        f"classes are {few(known)}{meant(counts, known)}: correct the name there or in classes, or add it to classes"
    )
    return [Finding("warning", tuple(case.id for case in found), message)]


def _classes(held: Sequence[tuple[Case, _Seen]]) -> list[Finding]:
    """In how many cases each class is, which of them overlap, and a class that is in none."""
    classes = next((case.classes for case, _ in held if case.masks and len(case.classes) > 1), ())
    if not classes:
        return []
    counts = {
        each.name: sum(k in seen.classes for _, seen in held) for k, each in enumerate(classes, start=1)
    }
    found = [
        Finding(
            "note", (), "classes: " + ", ".join(f"{name} in {count} cases" for name, count in counts.items())
        )
    ]
    empty = [name for name, count in counts.items() if not count]
    if empty:
        message = f"no mask holds the class {', '.join(empty)}: correct its values, or remove it from classes"
        found.append(Finding("error", (), message))
    both = [(case, seen.mask.overlap) for case, seen in held if seen.mask.overlap]
    if both:
        case, most = max(both, key=lambda pair: pair[1])
        later = f"the later of {', '.join(counts)}"
        if len(case.masks) > 1 and not case.mask_classes:
            later = "the later of its mask files"
        message = f"in {len(both)} cases pixels are of more than one class, such as {most} of {case.id}: {later} counts"
        found.append(Finding("note", tuple(case.id for case, _ in both), message))
    return found


def _channels(cases: Sequence[Case]) -> list[Finding]:
    """An error where cases have different channels, and a note on those that all have."""
    try:
        names = table_channels(cases)
    except InputError as error:
        return [Finding("error", (), str(error))]
    return [Finding("note", (), f"{len(names)} channels: {', '.join(names)}")] if names else []


def _beside(held: Sequence[tuple[Case, _Seen]]) -> list[Finding]:
    """A note on the channels whose grids differ a little from that of the first."""
    known = [(case, seen.channels.misfits) for case, seen in held]
    found = [(case, max(misfits, key=lambda each: each.voxels)) for case, misfits in known if misfits]
    if not found:
        return []
    case, worst = max(found, key=lambda pair: pair[1].voxels)
    message = (
        f"in {len(found)} cases channels lie a little beside the first, as rounded headers "
        f"do, such as {worst.mask} and {case.image}: {worst.words}"
    )
    return [Finding("note", tuple(case.id for case, _ in found), message)]


def _repeated_ids(cases: Sequence[Case]) -> list[Finding]:
    counts = Counter(case.id for case in cases)
    return [
        Finding("error", (name,), f"{count} cases have the id '{name}': give every case its own id")
        for name, count in counts.items()
        if count > 1
    ]


def _copies(cases: Sequence[Case], pairs: Sequence[Pair]) -> list[Finding]:
    by_id = {case.id: case for case in cases}
    findings = []
    for pair in pairs:
        first, second = by_id[pair.first], by_id[pair.second]
        files = f"{first.image} and {second.image}"
        both = (first.id, second.id)
        if first.label != second.label:
            message = (
                f"{pair.what} with conflicting labels '{first.label}' and '{second.label}': "
                f"{files}: correct or drop one"
            )
            findings.append(Finding("warning", both, message))
        if first.group_key != second.group_key:
            message = f"{pair.what} in different groups: {files}: give them one group"
            findings.append(Finding("warning", both, message, is_grouping=True))
    return findings


def _inverted(drawn: Sequence[tuple[Case, bool]]) -> list[Finding]:
    found = [case for case, inverted in drawn if inverted]
    message = inverted_note([str(case.masks[0]) for case in found], len(drawn))
    return [Finding("warning", tuple(case.id for case in found), message)] if message else []


_SIDES = {"R": "right", "L": "left", "A": "front", "P": "back", "I": "feet", "S": "head"}


def _planes(volumes: Sequence[tuple[Case, Geometry, list[Misfit]]]) -> list[Finding]:
    """A warning where the slices that a network sees are not of one plane, or lie otherwise within it."""
    ways: dict[tuple[str, tuple[str, str]], list[Case]] = {}
    for case, geometry, _ in volumes:
        ways.setdefault((geometry.plane, (geometry.letters[1], geometry.letters[2])), []).append(case)
    if len(ways) < 2:
        return []
    several = len({plane for plane, _ in ways}) > 1
    counts = ", ".join(
        f"{len(cases)} {plane} with rows to the {_SIDES[rows]} and columns to the {_SIDES[columns]} (such as "
        f"{cases[0].image})"
        for (plane, (rows, columns)), cases in sorted(ways.items(), key=lambda item: -len(item[1]))
    )
    fewest = min(ways.values(), key=len)
    what = (
        "slices of different planes"
        if several
        else "slices of one plane, turned or mirrored against each other"
    )
    message = (
        f"volumes with {what}: {counts}: a network sees them slice by slice: store all with the same order of axes, or "
        "make a table of each orientation"
    )
    return [Finding("warning", tuple(case.id for case in fewest), message)]


def _tilts(volumes: Sequence[tuple[Case, Geometry, list[Misfit]]]) -> list[Finding]:
    tilted = [(case, geometry.tilt) for case, geometry, _ in volumes if geometry.tilt > _TILTED]
    if not tilted:
        return []
    message = (
        f"{len(tilted)} volumes have slices that follow each other aslant (gantry tilt), such as {tilted[0][0].image} "
        f"by {tilted[0][1]:.1f} degrees: their masks are written with a sheared sform"
    )
    return [Finding("note", tuple(case.id for case, _ in tilted), message)]


_MISFITS = {  # what -> level and words; the words of the worst case follow
    "rounding": (
        "note",
        "lie a little beside their image, as rounded headers do",
        "",
    ),
    "origin": (
        "warning",
        "have lost their origin, or their image has, so that only size, spacing and orientation could be compared",
        ": look at them together, and write the image's origin into the mask",
    ),
    "transform": (
        "warning",
        "state two places in their header, of which one is not that of the image",
        ": write the image's qform and sform into the mask",
    ),
}


def _misfits(volumes: Sequence[tuple[Case, Geometry, list[Misfit]]]) -> list[Finding]:
    """One finding for every kind of misfit, with the worst case."""
    findings = []
    for kind, (level, words, advice) in _MISFITS.items():
        found = [(case, misfit) for case, _, all_ in volumes for misfit in all_ if misfit.what == kind]
        if found:
            case, worst = max(found, key=lambda item: item[1].voxels)
            message = (
                f"{len(found)} masks {words}, such as {worst.mask} and {case.image}: {worst.words}{advice}"
            )
            findings.append(Finding(level, tuple(case.id for case, _ in found), message))
    return findings


def large_groups(cases: Sequence[Case], pairs: Sequence[Pair]) -> list[Finding]:
    """A warning for each suspiciously large set of copies.

    Copies of one picture come in twos and threes: a large set of them may be one device's frame, not one patient.

    >>> large_groups([], [])
    []
    """
    grouped = group_duplicates([replace(case, group="") for case in cases], pairs)
    sizes = Counter(case.group for case in grouped if case.group)
    images = {case.id: case.image for case in cases}
    return [
        Finding(
            "warning",
            tuple(case.id for case in grouped if case.group == name),
            f"{size} of {len(cases)} pictures are taken for copies of one: {images[name]}: look at them (data show); "
            "if they differ, keep them apart with --no-group",
        )
        for name, size in sizes.items()
        if size > max(LARGE, LARGE_SHARE * len(cases))
    ]


def _counts(cases: Sequence[Case], pairs: Sequence[Pair]) -> list[Finding]:
    def line(what: str, values: list[str]) -> Finding:
        counts = ", ".join(f"{value or '(none)'} {count}" for value, count in sorted(Counter(values).items()))
        return Finding("note", (), f"{what}: {counts}")

    several = sum(len(case.masks) > 1 for case in cases)
    masks = sum(len(case.masks) for case in cases)
    groups = len({case.group_key for case in cases})
    notes = [
        Finding(
            "note", (), f"{len(cases)} cases in {groups} groups, {masks} masks, {several} with several masks"
        )
    ]
    for what, values in (
        ("labels", [case.label for case in cases]),
        ("sites", [case.site for case in cases]),
        ("splits", [case.split for case in cases]),
    ):
        if any(values):
            notes.append(line(what, values))
    bare = tuple(case.id for case in cases if case.is_located and not case.split)
    if bare and any(case.split for case in cases):
        notes.append(Finding("warning", bare, unsplit_note(len(bare))))
    if note := normal_note(cases):
        notes.append(Finding("note", (), note))
    if pairs:
        identical = sum(pair.kind == "identical" for pair in pairs)
        notes.append(
            Finding("note", (), f"{len(pairs)} pairs show one picture, {identical} of them pixel by pixel")
        )
    return notes
