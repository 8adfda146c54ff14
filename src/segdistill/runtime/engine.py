"""Runs the network of a model file with ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError, first_line
from segdistill.runtime.model_file import INPUT_NAME, LABEL_NAME, OUTPUT_NAME, ModelInfo, read_info


class Runs(Protocol):
    """A network with its pre- and post-processing: `Engine` for a model file, `TorchEngine` for a stage of a run."""

    @property
    def info(self) -> ModelInfo:
        """Processing, classes and provenance."""

    def run_both(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Normalised images (B, C, H, W) -> probabilities (B, K, H, W) and, of a classifier, (B, labels)."""


class Engine:
    """One loaded model file; several threads may call `run` at the same time.

    Args:
        path: the model file.
        threads: threads that one call uses; None leaves the choice to ONNX Runtime (all cores).

    Raises:
        InputError: not a model file of ours (checked before ONNX Runtime sees it), or it cannot be loaded.

    >>> Engine("absent.onnx")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        self.path = Path(path)
        self.info: ModelInfo = read_info(path)
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # we show its errors, as one line
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions share no base
            raise InputError(f"not a segdistill model file: {path}: {first_line(error)[:200]}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [value.name for value in outputs]
        if [value.name for value in inputs] != [INPUT_NAME] or OUTPUT_NAME not in names:
            raise InputError(
                f"not a segdistill model file: {path} has no input 'image' and output 'probability'"
            )
        if self.info.labels and LABEL_NAME not in names:
            raise InputError(f"not a segdistill model file: {path} has classes and no output 'label'")

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised images (B, C, H, W) -> probabilities (B, K, H, W), both float32.

        Raises:
            InputError: the batch does not fit the network.
        """
        return self.run_both(batch)[0]

    def run_both(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `run`, with the probabilities (B, labels) of the images' classes; None where the network has none.

        Raises:
            InputError: the batch does not fit the network.
        """
        if batch.ndim != 4 or batch.shape[1] != self.info.input_channels or batch.dtype != np.float32:
            raise InputError(
                f"a batch must be float32 (B, {self.info.input_channels}, H, W), got {batch.dtype} "
                f"{batch.shape}"
            )
        try:
            wanted = [OUTPUT_NAME, LABEL_NAME] if self.info.labels else [OUTPUT_NAME]
            mask, *label = self._session.run(wanted, {INPUT_NAME: np.ascontiguousarray(batch)})
        except Exception as error:
            raise InputError(
                f"{self.path}: the network does not run on {batch.shape}: {first_line(error)[:200]}"
            ) from error
        if not isinstance(mask, np.ndarray) or mask.ndim != 4 or len(mask) != len(batch):
            raise InputError(f"not a segdistill model file: {self.path} does not return (B, K, H, W)")
        if label and np.shape(label[0]) != (len(batch), len(self.info.labels)):
            raise InputError(
                f"not a segdistill model file: {self.path} does not return {len(self.info.labels)} classes"
            )
        classes = label[0].astype(np.float32, copy=False) if label else None
        return mask.astype(np.float32, copy=False), classes


def _onnxruntime() -> ModuleType:
    """ONNX Runtime without telemetry: since 1.31 it writes a device id and a log below the home folder, whatever its
    own setting for that is.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def milliseconds_per_image(engine: Runs) -> float:
    """Median time of five runs on one image of the network's input size, after one to warm up; no pre-processing.

    Raises:
        InputError: the network does not run.
    """
    preprocess = engine.info.preprocess
    image = np.zeros((1, preprocess.channels, *preprocess.size), np.float32)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        engine.run_both(image)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[1:])
