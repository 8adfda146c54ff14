"""Reads and checks an ONNX file without onnx or onnxruntime; what was checked is what ONNX Runtime gets, in memory.

An ONNX file is a protobuf message. Its framing is parsed (source: the protobuf encoding guide and onnx.proto), and only
the metadata is copied. What is not listed here is refused, and what two parsers could read in two ways.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from segdistill.errors import InputError

MAX_BYTES = 2**31 - 1
"""Largest model file: what protobuf can hold."""
MAX_NODES = 5_000
"""Most operators in a graph; ONNX Runtime can take the square of their number to load them."""
MAX_FIELDS = 1_000_000
"""Most fields in a file; weights are one field each."""
OLDEST_OPSET = 17
"""Oldest version of ONNX's operators that is read; the oldest that is tested."""

HASH_KEY = "sha256"
"""Metadata: the hash of everything before it in the file, whose last field it is."""

_DOMAINS = ("", "ai.onnx", "com.microsoft")
_MAX_DEPTH = 16
_ORT_FORMAT = b"ORTM"  # bytes 4 to 8 of a file that ONNX Runtime would not read as protobuf

# message -> {field: type}. A number is i, bytes b, float f, or a message by its name. Repeated: I numbers, B bytes,
# F floats, D doubles, and * after a message.
_ENTRY = {1: "b", 2: "b"}
_FIELDS: dict[str, dict[int, str]] = {
    "model": {1: "i", 2: "b", 3: "b", 4: "b", 5: "i", 6: "b", 7: "graph", 8: "opset*", 14: "entry*"}
    | {20: "training*", 25: "function*"},
    "opset": {1: "b", 2: "i"},
    "entry": _ENTRY,
    "graph": {
        1: "node*",
        2: "b",
        5: "tensor*",
        10: "b",
        11: "value*",
        12: "value*",
        13: "value*",
        15: "sparse*",
    }
    | {16: "entry*"},
    "node": {1: "B", 2: "B", 3: "b", 4: "b", 5: "attribute*", 6: "b", 7: "b", 9: "entry*"},
    "attribute": {
        1: "b",
        2: "f",
        3: "i",
        4: "b",
        5: "tensor",
        6: "graph",
        7: "F",
        8: "I",
        9: "B",
        10: "tensor*",
    }
    | {11: "graph*", 13: "b", 20: "i", 21: "b", 22: "sparse", 23: "sparse*"},
    "tensor": {1: "I", 2: "i", 4: "F", 5: "I", 6: "B", 7: "I", 8: "b", 9: "b", 10: "D", 11: "I", 12: "b"}
    | {13: "entry*", 14: "i", 16: "entry*"},
    "value": {1: "b", 2: "type", 3: "b", 4: "entry*"},
    "type": {1: "dense", 6: "b"},
    "dense": {1: "i", 2: "shape"},
    "shape": {1: "dimension*"},
    "dimension": {1: "i", 2: "b", 3: "b"},
    # searched for weights in other files, then refused
    "sparse": {1: "tensor", 2: "tensor", 3: "I"},
    "training": {1: "graph", 2: "graph", 3: "entry*", 4: "entry*"},
    "function": {1: "b", 2: "i", 3: "i", 4: "B", 5: "B", 6: "B", 7: "node*", 8: "b", 9: "opset*", 10: "b"}
    | {11: "attribute*", 12: "value*", 13: "b", 14: "entry*"},
}
_WIRES = {"i": (0,), "b": (2,), "f": (5,), "I": (0, 2), "B": (2,), "F": (5, 2), "D": (1, 2)}
_NO_TEXT = {("tensor", 6), ("tensor", 9), ("attribute", 4), ("attribute", 9)}  # the other bytes are UTF-8
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_SUBGRAPH = "an operator with a graph inside, such as If, Loop or Scan"
_REFUSED = {
    ("model", 20): "information for training",
    ("model", 25): "functions",
    ("graph", 15): "sparse weights",
    ("attribute", 6): _SUBGRAPH,
    ("attribute", 11): _SUBGRAPH,
    ("attribute", 21): "an attribute that names another one",
    ("attribute", 22): "sparse weights",
    ("attribute", 23): "sparse weights",
}


@dataclass
class OnnxFile:
    """The bytes of an ONNX file that passed every check.

    Attributes:
        path: where they were read.
        content: all bytes.
        metadata: of the model.
    """

    path: Path
    content: bytes = field(repr=False)
    metadata: dict[str, str] = field(default_factory=dict)


def read_onnx(path: str | Path) -> OnnxFile:
    """Reads an ONNX file once and checks it.

    Checked: a regular file within `MAX_BYTES`, intact framing and known fields, no weights in other files by any way,
    no functions, graphs inside operators or sparse weights, no operators other than those of ONNX and ONNX Runtime,
    at most `MAX_NODES` of them, a version of at least `OLDEST_OPSET`, and the hash of its content, where it holds one.

    Raises:
        InputError: the file is missing or a check fails.

    >>> read_onnx("absent.onnx")
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
        with open(path, "rb") as file:
            found = OnnxFile(
                path, file.read(size)
            )  # Python takes as much memory as it is told to read at most
        _Scan(found).model()
        _require_hash(found)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:
        raise InputError(f"not a segdistill model file: {path} is damaged or not ONNX ({error})") from error
    return found


def add_hash(path: Path) -> None:
    """Adds the hash of a model file's content to its metadata, which `read_onnx` then compares.

    Messages of protobuf that follow one another are one message, so that nothing before it is written again.
    """
    content = path.read_bytes()
    with open(path, "ab") as file:
        file.write(_hash_field(content))


def _hash_field(content: bytes) -> bytes:
    key, value = HASH_KEY.encode(), hashlib.sha256(content).hexdigest().encode()
    entry = bytes([1 << 3 | 2, len(key)]) + key + bytes([2 << 3 | 2, len(value)]) + value
    return bytes([14 << 3 | 2, len(entry)]) + entry


def _require_hash(file: OnnxFile) -> None:
    """InputError where the content is not that of which the file holds the hash."""
    if HASH_KEY not in file.metadata:
        return
    size = len(_hash_field(b""))
    if file.content[-size:] != _hash_field(file.content[:-size]):
        raise InputError(
            f"{file.path}: is damaged, or was changed since it was exported: restore the file, or export it again"
        )


class _Scan:
    """One pass over a file."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.data = file.content
        self.fields = self.nodes = 0
        self.refused: list[str] = []
        self.opsets: dict[str, int] = {}

    def model(self) -> None:
        if self.data[4:8] == _ORT_FORMAT:
            raise ValueError("it is in ONNX Runtime's own format")
        self.message("model", 0, len(self.data), 0)
        if self.refused:  # only now: weights in other files are reported first
            raise self.refusal(f"holds {self.refused[0]}: export it again with segdistill")
        if "" not in self.opsets:
            raise ValueError("no version of the operators")
        if self.opsets[""] < OLDEST_OPSET:
            raise self.refusal(
                f"has operators of version {self.opsets['']}, the oldest that is read is {OLDEST_OPSET}: "
                "export it again with segdistill"
            )

    def refusal(self, what: str) -> InputError:
        return InputError(f"not a segdistill model file: {self.file.path} {what}")

    def message(self, kind: str, begin: int, end: int, depth: int) -> None:
        """Checks one message and those inside."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        known, seen = _FIELDS[kind], set()
        for number, wire, start, stop in self.parts(begin, end):
            form = known.get(number)
            if form is None:
                raise ValueError(f"field {number} of a {kind} is not known")
            if wire not in _WIRES.get(form, (2,)):
                raise ValueError(f"field {number} of a {kind} has another type")
            if not (form.isupper() or form.endswith("*")) and number in seen:
                raise ValueError(f"field {number} of a {kind} is there twice")
            seen.add(number)
            if form in "bB" and (kind, number) not in _NO_TEXT:
                self.data[start:stop].decode()
            self.check(kind, number, start, stop)
            if len(form) > 1:
                self.message(form.rstrip("*"), start, stop, depth + 1)
        if kind == "model" and 7 not in seen:
            raise ValueError("no graph")

    def check(self, kind: str, number: int, start: int, stop: int) -> None:
        """What is not allowed in a well-formed message; of a number, `stop` is its value."""
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and stop != 0)):
            raise self.refusal("keeps weights in other files")
        if (kind, number) in _REFUSED:
            self.refused.append(_REFUSED[kind, number])
        elif (kind, number) == ("graph", 1):
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise self.refusal(f"has more than {MAX_NODES} operators")
        elif (kind, number) == ("node", 7):
            self.domain(self.data[start:stop])
        elif (kind, number) == ("model", 8):
            self.opset(start, stop)
        elif (kind, number) == ("model", 14):
            self.entry(start, stop)

    def domain(self, name: bytes) -> str:
        text = name.decode()
        if text not in _DOMAINS:
            raise self.refusal(f"has an operator of domain {text[:40]!r}")
        return "" if text == "ai.onnx" else text

    def opset(self, begin: int, end: int) -> None:
        values = {number: (start, stop) for number, _, start, stop in self.parts(begin, end)}
        domain = self.domain(self.data[slice(*values.get(1, (0, 0)))])
        if domain in self.opsets:
            raise ValueError(f"two versions of the operators of domain {domain!r}")
        self.opsets[domain] = values.get(2, (-1, 0))[1]

    def entry(self, begin: int, end: int) -> None:
        values = {number: self.data[start:stop].decode() for number, _, start, stop in self.parts(begin, end)}
        key = values.get(1, "")
        if key in self.file.metadata:
            raise ValueError(f"two entries {key[:40]!r} in its metadata")
        self.file.metadata[key] = values.get(2, "")

    def parts(self, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(field, wire type, begin, end) of every field; of a number -1 and its value."""
        while position < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            tag, position = self.varint(position)
            if tag >= 1 << 32:
                raise ValueError("a tag of more than 32 bits")
            wire, start = tag & 7, position
            if wire == 0:
                value, position = self.varint(position)
                yield tag >> 3, wire, -1, value
                continue
            if wire == 2:
                length, start = self.varint(position)
                position = start + length
            elif wire in (1, 5):
                position += 8 if wire == 1 else 4
            else:
                raise ValueError("no protobuf message")
            if position > end:
                raise ValueError("cut short")
            yield tag >> 3, wire, start, position
        if position != end:
            raise ValueError("cut short")

    def varint(self, position: int) -> tuple[int, int]:
        """A number in its shortest form, and the position behind it."""
        value = shift = 0
        while True:
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise ValueError("no protobuf message")
        if value >= 1 << 64 or (byte == 0 and shift):
            raise ValueError("a number that is not in its shortest form")
        return value, position
