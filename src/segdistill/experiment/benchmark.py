"""Model files and runs in a benchmark: a run brings its teachers, through the same engine and in torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from segdistill.errors import needs
from segdistill.plugins import use_installed
from segdistill.records import StageRecord
from segdistill.runtime.benchmark import Benchmark, Contestant, benchmark
from segdistill.runtime.engine import ENGINES, Engine, Runs, require_threads
from segdistill.runtime.machine import versions
from segdistill.runtime.model_file import read_info
from segdistill.runtime.predict import find_inputs


@use_installed(False)
def benchmark_models(
    models: Sequence[str | Path],
    *,
    engines: Sequence[str] = (),
    images: Path | None = None,
    threads: int = 1,
    rounds: int = 20,
    cold: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Benchmark:
    """Times model files and runs, in every engine.

    Args:
        models: model files, or folders of runs: a run is its exported stage and that stage's teachers, each as a model
            file and in torch.
        engines: those to use; by default all that are installed.
        images: a picture, or a folder of pictures; by default synthetic ones.
        threads: of each engine.
        rounds: how often each picture is segmented.
        cold: also measure cold start and peak of memory.
        progress: called with (done, total) rounds.

    Raises:
        InputError: no such model, engine or picture.
        MissingExtra: torch is not installed, and a run is given.

    >>> benchmark_models(["absent.onnx"])
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """
    require_threads(threads)
    found = versions(ENGINES)
    chosen = list(engines) or [name for name, version in found.items() if version != "not installed"]
    pictures = [] if images is None else find_inputs([images], Path())
    with tempfile.TemporaryDirectory() as folder:
        contestants = []
        for k, model in enumerate(models):
            place = Path(folder) / str(k)
            contestants += (
                _run(Path(model), chosen, threads, place)
                if Path(model).is_dir()
                else _file(Path(model), chosen, threads)
            )
        return benchmark(contestants, pictures, threads=threads, rounds=rounds, cold=cold, progress=progress)


def _file(path: Path, engines: Sequence[str], threads: int, name: str = "") -> list[Contestant]:
    read_info(path)
    size = path.stat().st_size / 1e6
    return [
        Contestant(name or path.name, engine, partial(Engine, path, threads, engine), path, megabytes=size)
        for engine in engines
    ]


def _run(run: Path, engines: Sequence[str], threads: int, place: Path) -> list[Contestant]:
    """The exported stage of a run and its teachers."""
    with needs("the benchmark of a run", "train"):
        from segdistill.experiment.export import export_network, model_info
        from segdistill.experiment.stage import find_stage, load_stage
    student = find_stage(run)
    record = StageRecord.read(student)
    names = [student.name, *(record.teachers if record is not None else [])]
    found = []
    for name in names:
        folder = student.parent / name
        if not folder.is_dir():  # an external teacher has no stage
            continue
        stage = load_stage(folder)
        info, file = model_info(stage), place / f"{name}.onnx"
        export_network(stage.network, info, file)
        found += _file(file, engines, threads, name)
        found.append(
            Contestant(
                name, "torch", partial(_torch, run, name, threads), run, name, file.stat().st_size / 1e6
            )
        )
    return found


def _torch(run: Path, stage: str, threads: int) -> Runs:
    import torch

    from segdistill.experiment.result import Stage
    from segdistill.experiment.stage import find_stage

    torch.set_num_threads(threads)
    return Stage(find_stage(run, stage)).engine
