"""What the networks of a ladder cost, measured before any of them is trained."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from segdistill.config.schema import DataRecipe, ModelRecipe
from segdistill.errors import InputError
from segdistill.experiment.export import export_network
from segdistill.experiment.stage import build_network
from segdistill.imaging.grid import Shape, VolumePreprocess
from segdistill.imaging.postprocess import Postprocess
from segdistill.records import Rung
from segdistill.runtime.engine import Engine
from segdistill.runtime.model_file import ModelInfo

ROUNDS, WARM_UP = 15, 3
MIB = 2**20


def measure_rungs(
    models: Mapping[str, Mapping[str, Any]], data: DataRecipe, shape: Shape | None = None
) -> list[Rung]:
    """Parameters, milliseconds and megabytes of networks with random weights, the slowest first.

    Each is written as a model file and runs one image of the network's size in ONNX Runtime with one thread. All take
    turns, and the median of the processor time counts, so that other load disturbs them little and alike. A volume
    takes the time of a patch as often as it has windows.

    Args:
        models: name -> what `model` of a stage states, of volumes with `dimensions`.
        data: size, channels and classes of the images.
        shape: of a volume on the network's grid, where networks see patches; None: one patch is timed.

    Raises:
        InputError: a network cannot be built or written.

    >>> small = {"name": "simplified_unet", "widths": [2, 4]}
    >>> (rung,) = measure_rungs({"small": small}, DataRecipe(size=16, channels=1))
    >>> rung.parameters, rung.ms > 0, rung.mb < 0.1
    (510, True, True)
    """
    preprocess, postprocess = data.preprocess(), Postprocess(classes=data.class_names)
    windows = 1
    if isinstance(preprocess, VolumePreprocess) and shape is not None:
        depth, height, width = map(max, shape, preprocess.size)
        windows = len(preprocess.windows((depth, height, width)))
    image = np.zeros((1, preprocess.channels, *preprocess.size), np.float32)
    parameters, sizes, turns = [], [], list[Callable[[], object]]()
    with TemporaryDirectory() as place, torch.random.fork_rng(devices=[]):
        for number, (name, model) in enumerate(models.items()):
            stated = ModelRecipe.model_validate(dict(model))
            network = build_network(stated, preprocess.channels, len(postprocess.classes))
            info = ModelInfo(name, preprocess.channels, postprocess.classes, preprocess, postprocess)
            path = Path(place) / f"{number}.onnx"
            export_network(network, info, path)
            parameters.append(sum(p.numel() for p in network.parameters()))
            sizes.append(path.stat().st_size / MIB)
            turns.append(partial(Engine(path, threads=1).run_both, image))
        seconds = _processor_seconds(turns)
    rungs = [
        Rung(name, dict(model), count, 1000 * spent * windows, size)
        for (name, model), count, spent, size in zip(models.items(), parameters, seconds, sizes, strict=True)
    ]
    return sorted(rungs, key=lambda rung: -rung.ms)


def _processor_seconds(turns: Sequence[Callable[[], object]]) -> list[float]:
    """Median of each over rounds in which each is called once; one thread computes: it is the time on an idle core."""
    times: list[list[float]] = [[] for _ in turns]
    for number in range(WARM_UP + ROUNDS):
        for turn, own in zip(turns, times, strict=True):
            began = time.process_time()
            turn()
            if number >= WARM_UP:
                own.append(time.process_time() - began)
    return [statistics.median(own) for own in times]


def over_budget(rung: Rung, max_ms: float | None, max_mb: float | None) -> str:
    """Why a rung is no candidate; "" where it meets the budget.

    >>> over_budget(Rung("a", {}, 9, 9.0, 8.3), 5.0, None), over_budget(Rung("a", {}, 9, 9.0, 8.3), None, 10.0)
    ('over 5 ms', '')
    """
    if max_ms is not None and rung.ms > max_ms:
        return f"over {max_ms:g} ms"
    return f"over {max_mb:g} MB" if max_mb is not None and rung.mb > max_mb else ""


def require_candidates(rungs: list[Rung], max_ms: float | None, max_mb: float | None) -> None:
    """Refuses a budget that no rung meets, and tells how far they are from it.

    Raises:
        InputError: no rung meets it.

    >>> require_candidates([Rung("a", {}, 9, 9.0, 8.3, "over 5 ms")], 5.0, None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    segdistill.errors.InputError: no network meets --max-ms 5: the fastest, a, takes 9.00 ms, ...
    """
    if any(not rung.excluded for rung in rungs):
        return
    limits = [f"--max-ms {max_ms:g}"] if max_ms is not None else []
    limits += [f"--max-mb {max_mb:g}"] if max_mb is not None else []
    least = min(rungs, key=lambda rung: rung.ms if max_ms is not None else rung.mb)
    word = "fastest" if max_ms is not None else "smallest"
    raise InputError(
        f"no network meets {' and '.join(limits)}: the {word}, {least.name}, takes {least.ms:.2f} ms, "
        f"{least.mb:.2f} MB: allow more, or give smaller ones (--rungs)"
    )
