"""Runs the network of a model file on the CPU, with ONNX Runtime or OpenVINO."""

from __future__ import annotations

import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError, first_line, needs
from segdistill.registry import near_names
from segdistill.runtime.model_file import INPUT_NAME, LABEL_NAME, OUTPUT_NAME, ModelInfo, info_of
from segdistill.runtime.onnx_file import OnnxFile, read_onnx

MAX_MEMORY = 8 << 30
"""Most bytes that the networks of all model files in a process hold between their operators."""
_GRACE = 2.0  # seconds in which a network ends that was told to


def seconds_to_load(file: OnnxFile) -> float:
    """Time limit for loading a network: 20 s and 0.1 s per MB.

    >>> seconds_to_load(OnnxFile(Path("m.onnx"), bytes(2_000_000)))
    20.2
    """
    return 20 + len(file.content) / 1e7


def seconds_to_run(pixels: int) -> float:
    """Time limit for one run of a network: 20 s and 1 ms per pixel of its input.

    A network of 5 million operations per pixel on a processor that does 5 billion in a second just keeps it.

    >>> seconds_to_run(256 * 256)
    85.536
    """
    return 20 + 0.001 * pixels


class Runs(Protocol):
    """A network with its pre- and post-processing: `Engine` for a model file, `TorchEngine` for a stage of a run."""

    @property
    def info(self) -> ModelInfo:
        """Processing, classes and provenance."""

    def run_both(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Normalised images (B, C, H, W) -> probabilities (B, K, H, W) and, of a classifier, (B, labels)."""


class Session:
    """One loaded ONNX file that takes images, within limits of time and memory.

    Args:
        file: read and checked.
        threads: threads that one call uses; None leaves the choice to ONNX Runtime (all cores).

    Attributes:
        path: of the file.
        inputs: their names.
        outputs: their names.

    Raises:
        InputError: it cannot be loaded.
    """

    def __init__(self, file: OnnxFile, threads: int | None = None) -> None:
        self.path = file.path
        self._session: Any = _load(file, threads)
        self._late = ""
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, wanted: list[str] | None, batch: NDArray[np.float32]) -> list[Any]:
        """The outputs of these names, or all of them.

        Raises:
            InputError: it does not run on the batch, or not within the limits of time and memory.
        """
        if self._late:  # its time depends on the size alone: no other picture waits as long
            raise InputError(self._late)
        options = _onnxruntime().RunOptions()
        options.log_severity_level = 4

        def stop() -> None:
            options.terminate = True

        seconds = seconds_to_run(batch.shape[0] * math.prod(batch.shape[2:]))
        try:
            found: list[Any] = _within(
                seconds, lambda: self._session.run(wanted, {self.inputs[0]: batch}, options), stop
            )
        except _Late:
            self._late = (
                f"{self.path}: the network does not end within {seconds:.0f} seconds on {batch.shape}: use "
                "a smaller one, or one with a smaller input"
            )
            raise InputError(self._late) from None
        except Exception as error:
            if "smaller than requested bytes" in str(error):  # the words of ONNX Runtime's arena
                raise InputError(
                    f"{self.path}: the network needs more than {MAX_MEMORY >> 30} GiB of memory on {batch.shape}: use "
                    "a smaller one, or one with a smaller input"
                ) from error
            raise InputError(
                f"{self.path}: the network does not run on {batch.shape}: {first_line(error)[:200]}"
            ) from error
        return found


class OpenVinoSession:
    """As `Session`, with OpenVINO, in float32 where the file is; there is no limit of memory.

    Args:
        file: read and checked.
        threads: threads that one call uses; None leaves the choice to OpenVINO.

    Raises:
        InputError: it cannot be loaded.
        MissingExtra: OpenVINO is not installed.
    """

    def __init__(self, file: OnnxFile, threads: int | None = None) -> None:
        with needs("the engine openvino", "openvino"):
            module = openvino()
        self.path = file.path
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # bf16 is its default where a processor has it: other masks
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads or 0),
        }
        try:
            core = module.Core()
            self._network: Any = core.compile_model(core.read_model(file.content), "CPU", settings)
        except Exception as error:
            raise InputError(f"{file.path}: OpenVINO does not load it: {first_line(error)[:200]}") from error
        self._own = threading.local()
        self.inputs = [port.any_name for port in self._network.inputs]
        self.outputs = [port.any_name for port in self._network.outputs]

    def run(self, wanted: list[str] | None, batch: NDArray[np.float32]) -> list[Any]:
        """As `Session.run`.

        Raises:
            InputError: it does not run on the batch, or not within the limit of time.
        """
        if not hasattr(self._own, "request"):  # one for each thread that calls
            self._own.request = self._network.create_infer_request()
        request, seconds = self._own.request, seconds_to_run(batch.shape[0] * math.prod(batch.shape[2:]))
        try:
            request.start_async({0: batch})
            ended = request.wait_for(int(1000 * seconds))
            if ended:
                return [np.array(request.get_tensor(name).data) for name in wanted or self.outputs]
            request.cancel()
        except Exception as error:
            raise InputError(
                f"{self.path}: the network does not run on {batch.shape}: {first_line(error)[:200]}"
            ) from error
        raise InputError(
            f"{self.path}: the network does not end within {seconds:.0f} seconds on {batch.shape}: use a smaller one, "
            "or one with a smaller input"
        )


ENGINES: dict[str, tuple[str, Callable[[OnnxFile, int | None], Session | OpenVinoSession]]] = {
    "onnxruntime": ("", Session),
    "openvino": ("openvino", OpenVinoSession),
}
"""Name, which is that of its package -> the extra to install, and what loads a file."""


MOST_THREADS = 1024
"""A file for which the engine starts more does not load in time."""


def require_threads(threads: int) -> None:
    """InputError where an engine cannot use so many threads.

    >>> require_threads(0)
    Traceback (most recent call last):
    segdistill.errors.InputError: threads must be at least 1 and at most 1024, not 0
    """
    if not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads must be at least 1 and at most {MOST_THREADS}, not {threads}")


class Engine:
    """One loaded model file; several threads may call `run` at the same time.

    Args:
        path: the model file.
        threads: threads that one call uses; None leaves the choice to the engine (all cores).
        engine: a name in `ENGINES`.

    Raises:
        InputError: not a model file of ours (checked before the engine sees it), not loadable, or no such engine.
        MissingExtra: the engine is not installed.

    >>> Engine("absent.onnx")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """

    def __init__(self, path: str | Path, threads: int | None = None, engine: str = "onnxruntime") -> None:
        if threads is not None:
            require_threads(threads)
        if engine not in ENGINES:
            raise InputError(f"unknown engine '{engine}': {near_names(engine, ENGINES)}")
        file = read_onnx(path)
        self.path, self.name = file.path, engine
        self.info: ModelInfo = info_of(file)
        self._session = ENGINES[engine][1](file, threads)
        names = self._session.outputs
        if self._session.inputs != [INPUT_NAME] or OUTPUT_NAME not in names:
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
        axes = 2 + len(self.info.preprocess.size)
        shape = "D, H, W" if axes == 5 else "H, W"
        if batch.ndim != axes or batch.shape[1] != self.info.input_channels or batch.dtype != np.float32:
            raise InputError(
                f"a batch must be float32 (B, {self.info.input_channels}, {shape}), got {batch.dtype} "
                f"{batch.shape}"
            )
        wanted = [OUTPUT_NAME, LABEL_NAME] if self.info.labels else [OUTPUT_NAME]
        mask, *label = self._session.run(wanted, np.ascontiguousarray(batch))
        if not isinstance(mask, np.ndarray) or mask.ndim != axes or len(mask) != len(batch):
            raise InputError(f"not a segdistill model file: {self.path} does not return (B, K, {shape})")
        if label and np.shape(label[0]) != (len(batch), len(self.info.labels)):
            raise InputError(
                f"not a segdistill model file: {self.path} does not return {len(self.info.labels)} classes"
            )
        classes = label[0].astype(np.float32, copy=False) if label else None
        return mask.astype(np.float32, copy=False), classes


def _load(file: OnnxFile, threads: int | None) -> Any:
    """A session for the bytes that were checked."""
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # we show its errors, as one line
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.use_env_allocators", "1")  # the limited one of _onnxruntime

    def session() -> Any:
        return onnxruntime.InferenceSession(
            file.content,
            sess_options=options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["ConstantFolding"],  # it runs operators outside of the limit of memory
            enable_fallback=0,  # it prints
        )

    seconds = seconds_to_load(file)
    try:
        return _within(seconds, session, lambda: None)
    except _Late:
        raise InputError(
            f"not a segdistill model file: {file.path} does not load within {seconds:.0f} seconds"
        ) from None
    except Exception as error:  # onnxruntime's own exceptions share no base
        raise InputError(f"not a segdistill model file: {file.path}: {first_line(error)[:200]}") from error


class _Late(Exception):
    """A call took longer than it may."""


def _within(seconds: float, call: Callable[[], Any], stop: Callable[[], None]) -> Any:
    """The value of `call`, which runs in a thread of its own; `_Late` after so many seconds.

    `stop` asks the call to end. One operator of ONNX Runtime cannot be stopped: its thread is left behind, and does not
    keep the process from ending.
    """
    values: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            values.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
        if thread.is_alive():
            raise _Late
    except BaseException:  # Ctrl-C too
        stop()
        thread.join(_GRACE)
        raise
    if errors:
        raise errors[0]
    return values[0]


@cache
def _onnxruntime() -> ModuleType:
    """ONNX Runtime without telemetry, and with a limit of memory for all networks.

    Since 1.31 it writes a device id and a log below the home folder, whatever its own setting for that is.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime
    from onnxruntime.capi import _pybind_state as native

    arena = onnxruntime.OrtMemoryInfo(
        "Cpu", native.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, native.OrtMemType.DEFAULT
    )
    with suppress(RuntimeError):  # the program around us has registered its own
        onnxruntime.create_and_register_allocator(arena, native.OrtArenaCfg(MAX_MEMORY, -1, -1, -1))
    module: ModuleType = onnxruntime
    return module


@cache
def openvino() -> ModuleType:
    """OpenVINO without telemetry: its import sends some unless the package for that cannot be imported.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    module: ModuleType = openvino
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


def interleaved_milliseconds(engines: Sequence[Runs], seconds: float = 0.3) -> list[float]:
    """Median time of each network on one image of its input size, all timed in turn; no pre-processing.

    What else the machine does then slows all of them: ratios hold where times do not.

    Args:
        engines: the networks.
        seconds: as many rounds as fit into this time, at least 15, after one to warm up.

    Raises:
        InputError: a network does not run.

    >>> interleaved_milliseconds([])
    []
    """
    images = [
        np.zeros((1, each.info.preprocess.channels, *each.info.preprocess.size), np.float32)
        for each in engines
    ]
    times: list[list[float]] = [[] for _ in engines]
    start = time.perf_counter()
    while engines and (len(times[0]) < 16 or time.perf_counter() - start < seconds):
        for engine, image, found in zip(engines, images, times, strict=True):
            began = time.perf_counter()
            engine.run_both(image)
            found.append(time.perf_counter() - began)
    return [1000 * statistics.median(found[1:]) for found in times]
