"""Many pictures and volumes at once: finds them, segments them, writes masks, overlays and one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segdistill.errors import InputError
from segdistill.imaging.read import READABLE_SUFFIXES, read_picture
from segdistill.imaging.read_volume import VOLUME_SUFFIXES, is_volume
from segdistill.runtime.predictor import Predictor, slice_levels
from segdistill.runtime.write import (
    output_paths,
    prediction_row,
    unique_stems,
    volume_row,
    write_prediction,
    write_rows,
    write_volume,
)


@dataclass
class Predictions:
    """What was written, and what could not be segmented.

    Attributes:
        folder: holds the masks, the overlays and the table.
        rows: one dict per picture or volume: file, measurements, mean probability, seconds; None: not known.
        failed: "file" and "reason" of each that cannot be used.
    """

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    @property
    def table(self) -> Path:
        """The rows as a file.

        >>> Predictions(Path("out")).table.name
        'predictions.csv'
        """
        return self.folder / "predictions.csv"

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


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str | Path],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Segments files and folders and writes NAME.png or NAME.nii.gz, NAME_overlay.png and predictions.csv.

    Args:
        predictor: segments them.
        inputs: pictures, volumes, DICOM series, or folders with any of these.
        out: folder to write to.
        progress: called with (done, total) after every file.

    Raises:
        InputError: no input, none that can be used, or a file would be replaced that no prediction has written.
    """
    files = find_inputs([Path(given) for given in inputs], out)
    stems = unique_stems(files)
    found = Predictions(out)
    _require_free(files, stems, found)
    for done, (file, stem) in enumerate(zip(files, stems, strict=True), 1):
        try:
            found.rows.append(_predict_file(predictor, file, stem, out))
        except _Unusable as error:
            found.failed.append({"file": str(file), "reason": str(error)})
        if found.rows and not found.table.exists():
            write_rows(found.rows, found.table)  # marks the folder as ours, also after Ctrl-C
        if progress is not None:
            progress(done, len(files))
    if not found.rows:
        reason = found.failed[0]["reason"]
        raise InputError(reason if len(files) == 1 else f"none of {len(files)} images can be used: {reason}")
    write_rows(found.rows, found.table)
    return found


class _Unusable(Exception):
    """One input that cannot be segmented; the others can."""


def _predict_file(predictor: Predictor, file: Path, stem: str, out: Path) -> dict[str, Any]:
    """One row; an InputError is about the output folder."""
    began = time.perf_counter()
    try:
        if is_volume(file):
            found = predictor.predict_volume(file)
        else:
            picture = read_picture(file, intensity=predictor.info.preprocess.intensity)
            prediction = predictor.predict_pixels(picture.pixels)
    except InputError as error:
        raise _Unusable(str(error)) from error
    seconds = time.perf_counter() - began
    if is_volume(file):
        levels = slice_levels(predictor.info.preprocess.intensity, found.volume.turned())
        write_volume(found, levels, stem, out)
        return volume_row(found, seconds)
    write_prediction(prediction, picture, stem, out)
    return prediction_row(prediction, picture, seconds)


def _require_free(files: Sequence[Path], stems: Sequence[str], found: Predictions) -> None:
    given = {file.resolve() for file in files}
    is_ours = found.table.exists()
    for file, stem in zip(files, stems, strict=True):
        for path in output_paths(stem, found.folder, is_volume(file)):
            if path.resolve() in given:
                raise InputError(f"{path} is an input and would be replaced: choose another folder with -o")
            if path.exists() and not is_ours:
                raise InputError(
                    f"{path} would be replaced, and no prediction has written it ({found.table.name} is not beside "
                    "it): choose another folder with -o"
                )


def find_inputs(inputs: Sequence[Path], out: Path) -> list[Path]:
    """The files to segment: those that are named, and those in folders, sorted; each once.

    A folder of DICOM slices of one series is a volume. Any other folder is searched recursively for pictures, volumes
    and such series, without hidden files and without the results in `out`.

    Raises:
        InputError: a folder has none of them.

    >>> find_inputs([Path("a.png"), Path("./a.png")], Path("out"))
    [PosixPath('a.png')]
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        inside = list(_inside(given, out.resolve())) if given.is_dir() else [given]
        if not inside:
            known = ", ".join(sorted({*READABLE_SUFFIXES, *VOLUME_SUFFIXES}))
            raise InputError(f"no image found in {given}: looked for {known} and DICOM series")
        for path in inside:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _inside(folder: Path, results: Path) -> Iterator[Path]:
    known = (*READABLE_SUFFIXES, *VOLUME_SUFFIXES)
    series: set[Path] = set()
    nested = folder.resolve() in results.parents  # only then may the folder hold results of an earlier call
    for path in sorted([folder, *folder.rglob("*")]):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if nested and results in (path.resolve(), *path.resolve().parents):
            continue
        if path.is_dir():
            if _may_be_series(path):
                series.add(path)
                yield path
        elif path.is_file() and path.parent not in series and path.name.lower().endswith(known):
            yield path


def _may_be_series(folder: Path) -> bool:
    """Checks names first: pydicom takes a while to import."""
    named = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".dcm", ".dicom", "") or path.suffix[1:].isdecimal()
    ]
    if sum(path.is_file() for path in named) < 2:
        return False
    from segdistill.imaging.dicom_series import is_series

    return is_series(folder)
