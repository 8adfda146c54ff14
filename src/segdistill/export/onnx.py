"""torch to ONNX: one file, softmax inside, everything that the runtime needs in its metadata."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from segdistill.files import atomic_write
from segdistill.runtime.model_file import LABEL_NAME, METADATA_KEY, OUTPUT_NAME, ModelInfo, dump_info
from segdistill.training.inference import MaskAndClass, Probability

OPSET = 20


def export_network(network: nn.Module, info: ModelInfo, path: Path) -> None:
    """Writes a network as a model file; batch size is free, height and width are those of its pre-processing.

    Raises:
        InputError: the file cannot be written.
    """
    height, width = info.preprocess.size
    example = torch.zeros(2, info.preprocess.channels, height, width)
    kind = MaskAndClass if info.labels else Probability
    probability = kind(network).eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with _quiet():
        program = torch.onnx.export(
            probability,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[OUTPUT_NAME, LABEL_NAME] if info.labels else [OUTPUT_NAME],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    strip(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, dump_info(info)
    with atomic_write(path) as temporary:
        onnx.save(model, temporary)


def strip(model: onnx.ModelProto) -> None:
    """Removes what the exporter writes about the machine it ran on: source paths, stack traces, doc strings."""
    del model.metadata_props[:]
    graphs: list[Any] = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for kind in ("value_info", "input", "output", "initializer"):
            for value in getattr(graph, kind, []):
                if hasattr(value, "metadata_props"):
                    del value.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its own progress; a command's stdout is for data."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
