"""A trained network in use: a model file, or a stage of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from segdistill.errors import InputError, needs
from segdistill.plugins import load_plugins, use_installed
from segdistill.runtime.engine import require_threads
from segdistill.runtime.machine import usable_cores
from segdistill.runtime.predict import Given, Input, Predictions, Shard, predict_files
from segdistill.runtime.predictor import Predictor


@use_installed(False)
def load_model(
    path: str | Path,
    stage: str | None = None,
    *,
    threads: int | None = None,
    threshold: float | None = None,
    engine: str = "onnxruntime",
    plugins: Sequence[str] = (),
) -> Predictor:
    """Loads a trained network; without torch where it is a model file.

    Args:
        path: a model file (.onnx), the folder of a run, or that of a stage.
        stage: of the run; by default the one that its recipe exports.
        threads: CPU threads for a model file; by default all cores.
        threshold: probability above which a pixel is foreground; by default that of the network.
        engine: runs a model file: "onnxruntime" or "openvino".
        plugins: files and modules to run first, because the stage's network comes from them.

    Raises:
        InputError: it cannot be loaded, or it names code outside segdistill that `plugins` does not.
        MissingExtra: torch is not installed, and it is a stage.

    >>> load_model("absent.onnx")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx

    >>> model = load_model("model.onnx")  # doctest: +SKIP
    >>> model.predict("picture.png").mask  # doctest: +SKIP
    """
    load_plugins(plugins)
    if not Path(path).is_dir():
        if stage is not None:
            raise InputError(f"{path} is not the folder of a run, so it has no stages: leave the stage out")
        return Predictor(path, threads, threshold, engine=engine)
    if engine != "onnxruntime":
        raise InputError(f"the engine {engine} runs a model file, not the folder of a run: export it first")
    with needs("a stage of a run", "train"):
        from segdistill.experiment.result import Stage
        from segdistill.experiment.stage import find_stage
    return Stage(find_stage(path, stage), threshold)


@use_installed(False)
def predict(
    model: str | Path | Predictor,
    inputs: Given | Sequence[Given],
    out: str | Path = "predictions",
    *,
    stage: str | None = None,
    threads: int | None = None,
    threshold: float | None = None,
    engine: str = "onnxruntime",
    shard: str | None = None,
    dicom_seg: bool = False,
    plugins: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Segments pictures and volumes, and writes masks, overlays and one table of measurements.

    A picture gives NAME.png and NAME_overlay.png; a volume NAME.nii.gz with its own geometry, and an overlay of a few
    slices. The table is predictions.csv.

    Args:
        model: see `load_model`, or what it returned.
        inputs: pictures, volumes, DICOM series, folders that are searched for them, patterns ("scans/*.png"), or a case
            table (.csv). For a model of several channels {"flair": FILE, "t1": FILE}, or a folder with NAME_0000,
            NAME_0001, ... in the model's order.
        out: folder to write to.
        stage: see `load_model`.
        threads: CPU threads; of several inputs so many are segmented at the same time, with one thread each.
        threshold: see `load_model`.
        engine: see `load_model`.
        shard: "2/4" takes the second quarter of the files, for processes side by side; without it one table is made.
        dicom_seg: writes NAME.seg.dcm, a DICOM SEG, for every DICOM series, too.
        plugins: see `load_model`.
        progress: called with (done, total) after every file.

    Returns:
        One row per file, and those that failed.

    Raises:
        InputError: no input, none that can be used, or a file would be replaced that no prediction has written.

    >>> predict("absent.onnx", "picture.png")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """
    files = [inputs] if isinstance(inputs, (str, Path, Mapping, Input)) else list(inputs)
    part = None if shard is None else Shard.parse(shard)
    if not isinstance(model, Predictor):
        if threads is not None:
            require_threads(threads)
        workers, several = 1, len(files) != 1 or not _is_one(files[0])
        if (
            several and not Path(model).is_dir() and (threads is None or threads > 1)
        ):  # a worker has one thread
            workers, threads = threads or usable_cores(), 1
        model = load_model(model, stage, threads=threads, threshold=threshold, engine=engine, plugins=plugins)
        model.workers = workers
    given: list[Given] = []
    for each in files:
        is_table = (
            isinstance(each, (str, Path)) and str(each).lower().endswith(".csv") and Path(each).is_file()
        )
        given += _of_table(Path(str(each)), model) if is_table else [each]
    return predict_files(model, given, Path(out), progress, part, dicom_seg)


def _is_one(given: Given) -> bool:
    """Whether an input is one picture or volume."""
    if isinstance(given, (str, Path)):
        return Path(given).is_file() and not str(given).lower().endswith(".csv")
    return True


def _of_table(table: Path, model: Predictor) -> list[Input]:
    """The images of a case table, whose results are named as the cases are.

    Raises:
        InputError: no such table, or a case without the channels that the model takes.
    """
    from segdistill.data.case import with_channels
    from segdistill.data.table import read_cases

    found = []
    for case in (with_channels(case, model.channels) for case in read_cases(table)):
        ending = ".nii.gz" if case.is_volume else ".png"
        found.append(Input(case.image_channels, case.image.with_name(case.id.replace("/", "_") + ending)))
    return found
