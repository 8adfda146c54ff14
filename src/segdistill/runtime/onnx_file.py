"""Checks an ONNX file without onnx or onnxruntime, and refuses references to anything outside the file.

An ONNX file is a protobuf message. Only its framing is parsed (source: the protobuf encoding guide and onnx.proto), and
only the metadata is copied.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from segdistill.errors import InputError

MAX_BYTES = 2**31 - 1
"""Largest model file: what protobuf can hold."""

_DOMAINS = ("", "ai.onnx", "com.microsoft")
_MAX_DEPTH = 16
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_FUNCTION = 7, 14, 25
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
# message -> {field: message inside}
_INSIDE = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTION: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {_NODE_ATTRIBUTE: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}


def read_metadata(path: str | Path) -> dict[str, str]:
    """Checks an ONNX file and returns its metadata.

    Checked: a regular file within `MAX_BYTES`, intact framing, no weights in other files, no operators
    other than those of ONNX and ONNX Runtime.

    Raises:
        InputError: the file is missing or a check fails.

    >>> read_metadata("absent.onnx")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(f"no such model file: {path}")
        if not path.is_file():
            inside = path / "model.onnx"
            hint = f": give {inside}" if inside.is_file() else ""
            raise InputError(f"not a segdistill model file: {path} is not a file{hint}")
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise InputError(f"not a segdistill model file: {path} has {size} bytes")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _scan_model(data, path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, IndexError, RecursionError) as error:
        raise InputError(f"not a segdistill model file: {path} is damaged or not ONNX ({error})") from error


def _scan_model(data: mmap.mmap, path: Path) -> dict[str, str]:
    metadata: dict[str, str] = {}
    graphs = 0
    for field, begin, end in _fields(data, 0, len(data)):
        if field == _MODEL_METADATA:
            entry = {f: data[b:e].decode() for f, b, e in _fields(data, begin, end) if f in (1, 2) and e > 0}
            metadata[entry.get(1, "")] = entry.get(2, "")
        elif field in _INSIDE["model"]:
            graphs += field == _MODEL_GRAPH
            _scan(data, begin, end, _INSIDE["model"][field], path, 0)
    if not graphs:
        raise ValueError("no graph")
    return metadata


def _scan(data: mmap.mmap, begin: int, end: int, kind: str, path: Path, depth: int) -> None:
    """Looks for operators and tensors that are not allowed in one message."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    inside = _INSIDE[kind]
    for field, start, stop in _fields(data, begin, end):
        if field in inside:
            if start < 0:
                raise ValueError("a message is not one")
            _scan(data, start, stop, inside[field], path, depth + 1)
        elif kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and stop != 0)):
            raise InputError(f"not a segdistill model file: {path} keeps weights in other files")
        elif kind == "node" and field == _NODE_DOMAIN:
            domain = data[start:stop].decode()
            if domain not in _DOMAINS:
                raise InputError(
                    f"not a segdistill model file: {path} has an operator of domain {domain[:40]!r}"
                )


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field, begin, end) of each bytes field; (field, -1, value) of each number."""
    while position < end:
        tag, position = _varint(data, position)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield field, -1, value
        elif wire == 2:
            length, begin = _varint(data, position)
            position = begin + length
            if position > end:
                raise ValueError("cut short")
            yield field, begin, position
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
        else:
            raise ValueError("no protobuf message")
    if position != end:
        raise ValueError("cut short")


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("no protobuf message")
