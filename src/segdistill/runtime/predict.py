"""Many pictures and volumes at once: finds them, segments them, writes masks, overlays and one table."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from segdistill.errors import InputError
from segdistill.files import (
    append_text,
    everything_below,
    json_text,
    real_path,
    refusal,
    remove_unfinished,
    sha256_file,
    sha256_text,
    shown,
    walk_once,
    write_text,
)
from segdistill.imaging.intensity import intensity_of
from segdistill.imaging.limits import unread_format
from segdistill.imaging.read import READABLE_SUFFIXES
from segdistill.imaging.read_volume import VOLUME_SUFFIXES, is_volume, may_be_series, volume_files
from segdistill.imaging.several import Channel
from segdistill.runtime.predictor import Predictor, slice_levels
from segdistill.runtime.write import (
    columns_of,
    output_paths,
    plain_stem,
    prediction_row,
    rows_text,
    unique_stems,
    volume_row,
    write_prediction,
    write_rows,
    write_volume,
)

TABLE = "predictions.csv"
NAMES = ("{}.csv", "{}.jsonl", ".{}.lock")
"""Of the table, its record and the lock; the stem is "predictions", or "predictions.2-of-4" of a shard."""
ASIDE = "earlier"
"""Folder below for masks of inputs that are gone."""
_NAMED = 3


@dataclass
class Predictions:
    """What was written, and what could not be segmented.

    Attributes:
        folder: holds the masks, the overlays and the table.
        rows: one dict per picture or volume: file, mask, measurements, mean probability, seconds, model; None: not
            known. Those that an earlier call has done are among them.
        failed: "file" and "reason" of each that cannot be used.
        notes: one line each, about names that meet and about earlier calls.
        name: of the table.
    """

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    name: str = TABLE

    @property
    def table(self) -> Path:
        """The rows as a file.

        >>> Predictions(Path("out")).table.name
        'predictions.csv'
        """
        return self.folder / self.name

    @property
    def note(self) -> str:
        """About volumes whose voxels have no known size; "" where there is none.

        >>> Predictions(Path("out"), [{"file": "b.mhd", "voxels": 3, "volume_ml": None}]).note[:52]
        'b.mhd has no voxel size in its header: volumes are g'
        """
        volumes = [row for row in self.rows if "voxels" in row]
        unknown = [row["file"] for row in volumes if row["volume_ml"] is None]
        if not unknown:
            return ""
        which = f"{unknown[0]} has no voxel size in its header"
        if len(volumes) > 1:
            which = f"{len(unknown)} of {len(volumes)} volumes ({unknown[0]}, ...) have no voxel size in their headers"
        return (
            f"{which}: volumes are given in voxels only, not in millilitres (a header of exactly 1 x 1 x 1 counts as "
            "unknown): write the true spacing into the header and predict again"
        )


@dataclass(frozen=True)
class Input:
    """One image to segment.

    Attributes:
        channels: where its channels lie; of one image its file.
        name: the path whose name its results get; by default that of the first channel's file.
        problem: why it cannot be segmented; "" where nothing is known against it.

    >>> Input((Channel("image", Path("a/x.png")),)).named
    PosixPath('a/x.png')
    """

    channels: tuple[Channel, ...]
    name: Path | None = None
    problem: str = ""

    @property
    def file(self) -> Path:
        """The file of the first channel."""
        return self.channels[0].path

    @property
    def files(self) -> list[Path]:
        """The files of all channels."""
        return list(dict.fromkeys(channel.path for channel in self.channels))

    @property
    def named(self) -> Path:
        """The path whose name its results get."""
        return self.name or self.file

    @property
    def key(self) -> str:
        """What tells it from other inputs: the absolute path of its file, with the channel where it is part of one."""
        first = self.channels[0]
        part = first.part if len(self.channels) == 1 else 0
        return os.path.abspath(first.path) + (f"#{part}" if part else "")

    @property
    def content(self) -> str:
        """A hash of what its files hold; "" where one cannot be read."""
        if len(self.channels) == 1 and not self.channels[0].part:
            return _content(self.file)
        found = [[_content(channel.path), channel.part] for channel in self.channels]
        return sha256_text(json.dumps(found)) if all(text for text, _ in found) else ""


Given = str | Path | Mapping[str, str | Path] | Input
"""A file, folder or pattern; a file for each channel by its name; or an input."""


def predict_files(
    predictor: Predictor,
    inputs: Sequence[Given],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    shard: Shard | None = None,
    dicom_seg: bool = False,
) -> Predictions:
    """Segments files and folders and writes NAME.png or NAME.nii.gz, NAME_overlay.png and predictions.csv.

    Several pictures are read, segmented and written at the same time, `predictor.workers` of them; of a volume so many
    slices. The table has a row as soon as a file is done. The same call again does what is missing: files without a
    whole mask, and those whose content, network or threshold has changed since. What earlier calls have written for
    other files stays, and stays in the table.

    Args:
        predictor: segments them.
        inputs: pictures, volumes, DICOM series, folders with any of these, or patterns such as "scans/*.png". For a
            network of several channels files that end in _0000, _0001, ... are the channels of one image, in the
            network's order; or a file for each channel by its name.
        out: folder to write to.
        progress: called with (done, total) after every file.
        shard: only this part of the files, with a table of its own. A later call without it makes one table of all.
        dicom_seg: writes NAME.seg.dcm for every DICOM series, too.

    Raises:
        InputError: no input, none that can be used, a file would be replaced that no prediction has written, or
            another call is writing to the folder.
    """
    given = [Path(each) for each in inputs if isinstance(each, (str, Path))]
    stated = [
        each if isinstance(each, Input) else Input(predictor.channels_of(each))
        for each in inputs
        if not isinstance(each, (str, Path))
    ]
    searched = _as_inputs(predictor, find_inputs(given, out)) if given or not stated else []
    files = {each.key: each for each in [*stated, *searched]}
    with _only_writer(out, shard):
        found = _predict_files(predictor, files, out, progress, shard, dicom_seg)
    found.notes += _unused(given, [file for each in files.values() for file in each.files], out)
    return found


_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})(?P<ending>(\.nii)?\.\w+)?", re.IGNORECASE)


def _as_inputs(predictor: Predictor, files: Sequence[Path]) -> list[Input]:
    """The images that files hold: one each; of a network of several channels NAME_0000, NAME_0001, ... are one."""
    names = predictor.channels
    if not names:
        return [Input((Channel("image", file),)) for file in files]
    found: dict[Path, dict[int, Path]] = {}
    for file in files:
        match = _NUMBERED.fullmatch(file.name)
        place = file if match is None else file.with_name(match["case"] + (match["ending"] or ""))
        found.setdefault(place, {})[-1 if match is None else int(match["channel"])] = file
    return [_as_input(predictor, place, parts) for place, parts in found.items()]


def _as_input(predictor: Predictor, place: Path, parts: Mapping[int, Path]) -> Input:
    """The image of these files by the numbers of their channels; -1 is a file without number."""
    names, first = predictor.channels, next(iter(parts.values()))
    if -1 in parts:
        try:
            return Input(predictor.channels_of(parts[-1]))
        except InputError as error:
            return Input((Channel("image", parts[-1]),), problem=str(error))
    missing = [number for number in range(len(names)) if number not in parts]
    if missing:
        lacking = first.name.replace(f"_{min(parts):04d}", f"_{missing[0]:04d}")
        problem = f"{place}: lacks the channel {names[missing[0]]}: {lacking} is not there"
        return Input((Channel("image", first),), place, problem)
    if max(parts) >= len(names):
        problem = f"{parts[max(parts)]}: is channel {max(parts) + 1}, and this model takes {len(names)}: move it away"
        return Input((Channel("image", first),), place, problem)
    return Input(tuple(Channel(name, parts[number]) for number, name in enumerate(names)), place)


@dataclass(frozen=True)
class Shard:
    """One of several parts of the inputs, for processes and machines that work side by side.

    Attributes:
        number: from 1.
        count: of all parts.

    Raises:
        InputError: no such part.

    >>> Shard.parse("2/4").stem
    'predictions.2-of-4'
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"--shard {self.number}/{self.count}: give I/N with I from 1 to N, such as 1/4")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "I/N".

        Raises:
            InputError: it is not of this form.
        """
        first, _, second = text.partition("/")
        if not (first.isdecimal() and second.isdecimal()):
            raise InputError(f"--shard {text}: give I/N with I from 1 to N, such as 1/4")
        return cls(int(first), int(second))

    @property
    def stem(self) -> str:
        """Of its table, record and lock."""
        return f"predictions.{self.number}-of-{self.count}"

    def of(self, files: Mapping[str, Input]) -> dict[str, Input]:
        """Its files: every `count`-th."""
        return dict(list(files.items())[self.number - 1 :: self.count])


def _names(shard: Shard | None) -> list[str]:
    """The names of table, record and lock."""
    return [name.format("predictions" if shard is None else shard.stem) for name in NAMES]


@contextmanager
def _only_writer(out: Path, shard: Shard | None) -> Iterator[None]:
    """Makes the folder and keeps other calls out of it; one that stays empty is removed again.

    Shards work side by side, but no call without shard beside them.
    """
    is_new, own = not out.exists(), FileLock(out / _names(shard)[2], timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        own.acquire()
        others = out.glob(".predictions.*-of-*.lock") if shard is None else [out / _names(None)[2]]
        for path in others:
            if path.exists():
                with FileLock(path, timeout=0):
                    pass
    except Timeout as error:
        if own.is_locked:
            own.release()
            _remove(out / _names(shard)[2])
        raise InputError(
            f"another call of predict is writing to {out}: wait for it, or choose another folder with -o"
        ) from error
    except OSError as error:
        raise refusal(out / TABLE, error) from error
    try:
        yield
    finally:
        own.release()
        _remove(out / _names(shard)[2])
        if is_new:
            with suppress(OSError):
                out.rmdir()


def _predict_files(
    predictor: Predictor,
    every: Mapping[str, Input],
    out: Path,
    progress: Callable[[int, int], None] | None,
    shard: Shard | None,
    dicom_seg: bool,
) -> Predictions:
    results = _Results.read(out, shard)
    found = Predictions(out, name=results.table.name)
    files = every if shard is None else shard.of(every)
    gone = results.put_aside(
        key
        for key in list(results.by_file)
        if key not in every and not os.path.lexists(key) and not os.path.lexists(key.rpartition("#")[0])
    )
    earlier = {key: result.stem for key, result in results.by_file.items()}
    kept: dict[str | Path, str] = {every[key].named: stem for key, stem in earlier.items() if key in every}
    others = [stem for key, stem in earlier.items() if key not in every]
    named = [each.named for each in every.values()]
    stems = dict(zip(every, unique_stems(named, kept, others), strict=True))
    paths = {key: _paths(each.file, stems[key], out, dicom_seg) for key, each in files.items()}
    _require_free(files, paths, results)
    model = predictor.fingerprint
    now = results.start(files, paths, model)
    continued = len(now)

    def segment(key: str) -> _Result | _Unusable:
        try:
            return _segment(predictor, files[key], stems[key], results.table, model, paths[key])
        except _Unusable as error:
            return error

    left = [key for key in files if key not in now]
    parts = _side_by_side(left, segment, predictor.workers, lambda key: is_volume(files[key].file))
    for done, (key, made) in enumerate(parts, continued + 1):
        if isinstance(made, _Result):
            now[key] = results.add(key, made)
        else:
            results.remove(key)
            found.failed.append({"file": str(files[key].file), "reason": str(made)})
        if progress is not None:
            progress(done, len(files))
    if not now and files:
        results.give_up()
        reason = found.failed[0]["reason"]
        raise InputError(reason if len(files) == 1 else f"none of {len(files)} images can be used: {reason}")
    found.rows = results.finish(list(files))
    names = [
        f"{shown(each.file)}: {stems[key]}"
        for key, each in files.items()
        if stems[key] != plain_stem(each.named)
    ]
    found.notes = _notes(found, len(files), names, continued, len(results.by_file) - len(now))
    others_than_series = sum(not each.file.is_dir() for each in files.values())
    if dicom_seg and others_than_series:
        found.notes.append(
            f"{others_than_series} of {len(files)} inputs are no DICOM series, so no DICOM SEG is written for them"
        )
    if gone:
        found.notes.append(
            f"{gone} inputs of earlier calls are not there any more: what was written for them is now in {out / ASIDE}"
        )
    return found


T = TypeVar("T")


def _side_by_side(
    keys: Sequence[str], work: Callable[[str], T], workers: int, alone: Callable[[str], bool]
) -> Iterator[tuple[str, T]]:
    """What `work` gives for each key, in their order; so many at the same time, but some alone.

    A few more are begun than there are workers, so that a finished one does not wait for the one before it.
    """
    if workers == 1:
        yield from ((key, work(key)) for key in keys)
        return
    waiting: deque[tuple[str, Future[T]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for key in keys:
                is_alone = alone(key)
                while waiting and (is_alone or len(waiting) >= 4 * workers):
                    first, made = waiting[0]
                    yield first, made.result()
                    waiting.popleft()
                if is_alone:
                    yield key, work(key)
                else:
                    made = Future()
                    waiting.append(
                        (key, made)
                    )  # before it can begin: an interrupt between both would lose it
                    pool.submit(_fulfil, made, work, key)
            while waiting:
                first, made = waiting[0]
                yield first, made.result()
                waiting.popleft()
        except KeyboardInterrupt:  # what has begun is written, so it is told, too
            for first, made in waiting:
                if not made.cancel():
                    yield first, made.result()
            raise
        finally:
            for _, made in waiting:
                made.cancel()


def _fulfil(made: Future[T], work: Callable[[str], T], key: str) -> None:
    """Does the work, unless it was cancelled meanwhile."""
    if made.set_running_or_notify_cancel():
        try:
            made.set_result(work(key))
        except BaseException as error:
            made.set_exception(error)


def _notes(found: Predictions, count: int, renamed: Sequence[str], continued: int, others: int) -> list[str]:
    notes = []
    if renamed:
        more = ", ..." if len(renamed) > _NAMED else ""
        notes.append(
            f"{len(renamed)} of {count} inputs have the name of another, so their masks have other names "
            f"({', '.join(renamed[:_NAMED])}{more}): the column 'mask' of {found.table.name} names each mask"
        )
    if continued:
        notes.append(
            f"{continued} of {count} images were done by an earlier call, with the same model and options"
        )
    if others:
        notes.append(
            f"{found.table} also has {others} rows of earlier calls, about files that are no inputs of this one"
        )
    return notes


def _paths(file: Path, stem: str, folder: Path, dicom_seg: bool) -> list[Path]:
    """What is written for an input: the mask, the overlay, and the DICOM SEG of a series where it is wanted."""
    seg = [folder / f"{stem}.seg.dcm"] if dicom_seg and file.is_dir() else []
    return [*output_paths(stem, folder, is_volume(file)), *seg]


def _segment(
    predictor: Predictor, given: Input, stem: str, table: Path, model: str, written: Sequence[Path]
) -> _Result:
    content = given.content
    try:
        row = _predict_file(predictor, given, stem, table, written)
    except MemoryError as error:
        for path in written:
            _remove(path)
        raise _Unusable(
            f"{given.file}: there is too little memory for it: close other programs, or crop it"
        ) from error
    row = {"file": row["file"], "mask": written[0].name, **row, "model": model[:12] or None}
    return _Result(stem, content, model, {path.name: sha256_file(path) for path in written}, row)


class _Unusable(Exception):
    """One input that cannot be segmented; the others can."""


_marking = threading.Lock()


def _predict_file(
    predictor: Predictor, given: Input, stem: str, table: Path, written: Sequence[Path]
) -> dict[str, Any]:
    """One row; an InputError is about the output folder."""
    file, out, began = given.file, table.parent, time.perf_counter()
    if given.problem:
        raise _Unusable(given.problem)
    try:
        if is_volume(file):
            found = predictor.predict_volume(given.channels)
        else:
            picture = predictor.read(given.channels)
            prediction = predictor.predict_pixels(picture.pixels)
    except InputError as error:
        raise _Unusable(str(error) if str(file) in str(error) else f"{file}: {error}") from error
    seconds = time.perf_counter() - began
    with _marking:
        if not os.path.lexists(table):
            write_rows([], table, sync=False)  # marks the folder as ours, whenever the process ends
    try:
        if is_volume(file):
            first = intensity_of(predictor.info.preprocess.intensity, 0)
            levels = slice_levels(first, found.volume.turned())
            write_volume(found, levels, stem, out)
            for path in written[2:]:
                from segdistill.imaging.dicom_seg import write_seg

                names = predictor.info.classes[1:]
                write_seg(found.mask, found.volume, path, names, predictor.info.name)
            return volume_row(found, seconds)
        write_prediction(prediction, picture, stem, out)
        return prediction_row(prediction, picture, seconds)
    except InputError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENAMETOOLONG:
            for path in written:
                _remove(path)
            raise _Unusable(
                f"{file}: the name of its mask would be too long: give it a shorter name"
            ) from error
        raise


def free_path(path: Path) -> Path:
    """The path itself, or with _2, _3, ... where there is something.

    >>> free_path(Path("nowhere/1.png")).name
    '1.png'
    """
    number, found = 1, path
    while os.path.lexists(found):
        number += 1
        stem, dot, ending = path.name.partition(".")
        found = path.with_name(f"{stem}_{number}{dot}{ending}")
    return found


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _require_free(files: Mapping[str, Input], paths: Mapping[str, Sequence[Path]], results: _Results) -> None:
    given = {real_path(file) for each in files.values() for file in each.files}
    is_ours = results.is_there or any(map(_is_table, results.folder.glob("predictions*.csv")))
    written = [path for each in paths.values() for path in each]
    for path in (*written, results.table, results.record):
        if real_path(path) in given:
            raise InputError(f"{path} is an input and would be replaced: choose another folder with -o")
        if os.path.lexists(path) and not is_ours:
            raise InputError(
                f"{path} would be replaced, and no prediction has written it ({TABLE} of predictions is not beside "
                "it): choose another folder with -o"
            )


def _is_table(path: Path) -> bool:
    """Whether a file is a table of predictions."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline(64).startswith(("file,mask,", "file,area_px,"))
    except (OSError, UnicodeDecodeError):
        return False


def _content(file: Path) -> str:
    """A hash of an input; "" where it cannot be read."""
    try:
        if file.is_dir():
            inside = sorted(path for path in file.iterdir() if path.is_file())
            return sha256_text(json.dumps([[path.name, sha256_file(path)] for path in inside]))
        return sha256_file(file) if file.is_file() else ""
    except OSError:
        return ""


@dataclass(frozen=True)
class _Result:
    """What was written for one input.

    Attributes:
        stem: of its files.
        content: hash of the input.
        model: `Predictor.fingerprint`.
        written: name of each file -> its hash.
        row: of the table.
    """

    stem: str
    content: str
    model: str
    written: dict[str, str]
    row: dict[str, Any]

    def is_whole(self, folder: Path) -> bool:
        """Whether all of its files are as they were written."""
        try:
            return all(sha256_file(folder / name) == value for name, value in self.written.items())
        except OSError:
            return False

    @classmethod
    def parse(cls, line: str) -> tuple[str, _Result] | None:
        """The file and its result in a line of the record; None for a line that is not whole."""
        try:
            values = json.loads(line)
            file, result = values.pop("file"), cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        texts = (file, result.stem, result.content, result.model)
        if not all(isinstance(text, str) for text in texts):
            return None
        if not (isinstance(result.row, dict) and isinstance(result.written, dict) and result.written):
            return None
        if any(Path(name).name != name for name in (*result.written, result.stem)):
            return None
        return file, result


class _Results:
    """The table of a folder, and the record beside it (predictions.jsonl), which tells what is done.

    A shard has a table and a record of its own; without shard, those of all shards are taken into one at the end.

    Attributes:
        by_file: input -> what was written for it; only what is still there, whole.
    """

    def __init__(
        self, folder: Path, by_file: dict[str, _Result], is_there: bool, shard: Shard | None
    ) -> None:
        self.folder, self.by_file, self.is_there = folder, by_file, is_there
        self.table, self.record = (folder / name for name in _names(shard)[:2])
        self._shards = [] if shard else sorted(folder.glob("predictions.*-of-*.jsonl"))
        self._columns: list[str] | None = None

    @classmethod
    def read(cls, folder: Path, shard: Shard | None) -> _Results:
        new = cls(folder, {}, False, shard)
        parsed: list[tuple[str, _Result] | None] = []
        for record in (new.record, *new._shards):
            with suppress(OSError):
                text = record.read_text(encoding="utf-8", errors="replace")
                parsed += [_Result.parse(line) for line in text.split("\n") if line]
        by_file = dict(each for each in parsed if each is not None)
        whole = {file: result for file, result in by_file.items() if result.is_whole(folder)}
        return cls(folder, whole, any(each is not None for each in parsed), shard)

    def start(
        self, files: Mapping[str, Input], paths: Mapping[str, Sequence[Path]], model: str
    ) -> dict[str, _Result]:
        """Gives what is done of the inputs. Rows of others of them leave the table, until they are done again."""
        done = {
            key: result
            for key, result in self.by_file.items()
            if key in files
            and model
            and result.model == model
            and result.written.keys() == {path.name for path in paths[key]}
            and result.content == files[key].content != ""
        }
        if self.folder.is_dir():
            names = {self.table.name, self.record.name}
            names |= {path.name for each in paths.values() for path in each}
            remove_unfinished(self.folder, names)
        if self.is_there:
            self._rewrite([key for key in self.by_file if key in done or key not in files])
        return done

    def add(self, file: str, result: _Result) -> _Result:
        """Adds a row to the table and a line to the record."""
        columns = columns_of([result.row])
        before = self.by_file.pop(file, None)
        self.by_file[file] = result
        if self._columns is None or not set(columns) <= set(self._columns):
            self._rewrite(list(self.by_file))
        else:
            append_text(self.table, rows_text([result.row], self._columns, header=False))
            append_text(self.record, _line(file, result))
        for name in set(before.written if before else ()) - set(result.written):
            _remove(self.folder / name)
        return result

    def remove(self, file: str) -> None:
        """Removes what an earlier call has written for an input that cannot be segmented any more."""
        before = self.by_file.pop(file, None)
        for name in before.written if before else ():
            _remove(self.folder / name)

    def put_aside(self, inputs: Iterable[str]) -> int:
        """Moves what was written for inputs that are gone to a folder below, and gives their number.

        No mask is then left beside the table that no picture belongs to, and nothing is lost.
        """
        count = 0
        for file in inputs:
            count += 1
            for name in self.by_file.pop(file).written:
                place = free_path(self.folder / ASIDE / name)
                with suppress(OSError):
                    place.parent.mkdir(exist_ok=True)
                    (self.folder / name).replace(place)
        return count

    def give_up(self) -> None:
        """Leaves no table without rows."""
        if not self.by_file and not self.is_there:
            _remove(self.table)

    def finish(self, order: Sequence[str]) -> list[dict[str, Any]]:
        """Writes the rows in the order of the inputs, then the others; gives those of the inputs."""
        mine = [file for file in order if file in self.by_file]
        self._rewrite([*mine, *(file for file in self.by_file if file not in set(mine))], sync=True)
        for record in self._shards:
            _remove(record)
            _remove(record.with_suffix(".csv"))
        return [self.by_file[file].row for file in mine]

    def _rewrite(self, files: Sequence[str], sync: bool = False) -> None:
        rows = [self.by_file[file].row for file in files]
        self._columns = columns_of(rows)
        write_rows(rows, self.table, sync)
        write_text(self.record, "".join(_line(file, each) for file, each in self.by_file.items()), sync)


def _line(file: str, result: _Result) -> str:
    return json_text({"file": file, **asdict(result)}, indent=None) + "\n"


def find_inputs(inputs: Sequence[Path], out: Path) -> list[Path]:
    """The files to segment: those that are named, fit a pattern, or lie in folders, sorted; each once.

    A pattern is a name that does not exist, with *, ? or [...]; ** stands for folders at any depth. A folder of DICOM
    slices of one series is a volume. Any other folder is searched recursively for pictures, volumes and such series,
    without hidden files, without the results in `out`, and without folders below that hold results of earlier calls.

    Raises:
        InputError: a folder has none of them, or nothing fits a pattern.

    >>> find_inputs([Path("a.png"), Path("./a.png")], Path("out"))
    [PosixPath('a.png')]
    """
    found: dict[Path, Path] = {}
    for given in _expanded(inputs):
        inside = list(_inside(given, real_path(out))) if given.is_dir() else [given]
        if not inside:
            known = ", ".join(sorted({*READABLE_SUFFIXES, *VOLUME_SUFFIXES}))
            raise InputError(f"no image found in {given}: looked for {known} and DICOM series")
        for path in inside:
            # links to one file are images with a name each, as in stores of annex and DVC
            place = real_path(path) if path.is_dir() else Path(os.path.abspath(path))
            found.setdefault(place, path)
    return list(found.values())


def _expanded(inputs: Sequence[Path]) -> Iterator[Path]:
    for given in inputs:
        if given.exists() or not glob.has_magic(str(given)):
            yield given
            continue
        fitting = sorted(glob.glob(str(given), recursive=True))
        if not fitting:
            raise InputError(f"no file fits {given}: check the pattern")
        yield from map(Path, fitting)


_RESULTS = (
    "not used: {} holds results of an earlier predict ("
    + TABLE
    + "): name this folder to segment its pictures"
)


def _unused(inputs: Sequence[Path], used: Sequence[Path], out: Path) -> list[str]:
    """A line with the files below the given folders that no prediction is of, by reason; none where there are none."""
    taken = {real_path(path) for path in used}
    series = {path for path in taken if path.is_dir()}
    for path in used:
        with suppress(InputError):  # its own line says why it cannot be read
            taken |= {real_path(part) for part in volume_files(path)} if is_volume(path) else set()
    found: dict[str, list[str]] = {}
    notes: dict[Path, str] = {}
    for folder in (path for path in inputs if path.is_dir()):
        earlier = [
            each
            for each in _results_below(folder)
            if real_path(out) not in (real_path(each), *real_path(each).parents)
        ]
        notes |= {real_path(each): _RESULTS.format(shown(each)) for each in earlier}
        for path in everything_below(folder):
            if not set(earlier).isdisjoint(path.parents):
                continue
            place = real_path(path)
            leads_nowhere = path.is_symlink() and not path.exists()
            if place in taken or real_path(out) in place.parents or not (path.is_file() or leads_nowhere):
                continue
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            reason = unread_format(path) or "no picture or volume"
            if place.parent in series:
                reason = "in the folder of a DICOM series"
            if leads_nowhere:
                reason = "link to no file"
            found.setdefault("hidden" if hidden else reason, []).append(shown(path))
            taken.add(place)
    parts = [
        f"{reason} {len(names)} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
        for reason, names in found.items()
    ]
    total = sum(map(len, found.values()))
    unused = [f"not used: {total} file{'s' * (total != 1)}: {'; '.join(parts)}"] if total else []
    return [*unused, *notes.values()]


def _inside(folder: Path, results: Path) -> Iterator[Path]:
    known = (*READABLE_SUFFIXES, *VOLUME_SUFFIXES)
    series: set[Path] = set()
    earlier = set(_results_below(folder))
    nested = real_path(folder) in results.parents  # only then may the folder hold results of an earlier call
    for path in [folder, *everything_below(folder)]:
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if nested and results in (real_path(path), *real_path(path).parents):
            continue
        if earlier and not earlier.isdisjoint((path, *path.parents)):
            continue
        if path.is_dir():
            if may_be_series(path):
                series.add(path)
                yield path
        elif path.is_file() and path.parent not in series and path.name.lower().endswith(known):
            yield path


def _results_below(folder: Path) -> list[Path]:
    """Folders below that hold a table of predictions: what an earlier call has written there is no picture."""
    return [
        Path(place)
        for place, _, names in walk_once(folder)
        if Path(place) != folder
        and any(_is_table(Path(place, name)) for name in names if fnmatch(name, "predictions*.csv"))
    ]
