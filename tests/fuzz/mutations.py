"""Damages files by what their formats consist of: bits, sizes, tags, numbers in texts, parts that have a checksum."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

_TEXTS = (
    *(
        "",
        "0",
        "-1",
        "1e308",
        "nan",
        "-inf",
        "9" * 30,
        "0x41",
        "null",
        "~",
        "[]",
        "{}",
        "'",
        '"',
        ",",
        ";",
        "\0",
    ),
    *(
        "\ud7ff",
        "é" * 40,
        "../" * 20,
        "[" * 5000,
        "{a: " * 500,
        "&a [*a]",
        "!!python/name:os.system",
        "\r\n" * 9,
    ),
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    10**30,
    1e308,
    float("nan"),
    "",
    "\0",
    "x" * 1000,
    [],
    {},
    [[[]]],
)


def _extreme(rng: Random) -> bytes:
    """A number as headers hold it, at an end of its range."""
    order = rng.choice("<>")
    if rng.random() < 0.3:
        kind = rng.choice("fd")
        largest = 3.4e38 if kind == "f" else 1.7e308
        return struct.pack(order + kind, rng.choice((0.0, -1.0, 1e-38, largest, float("nan"), float("-inf"))))
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, 2, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, 255, 65))
    return (value % 2 ** (8 * size)).to_bytes(size, "little" if order == "<" else "big")


def _place(rng: Random, content: bytes) -> int:
    """A position; half of the time near the start, where headers are."""
    end = max(len(content), 1)
    return rng.randrange(min(end, 400) if rng.random() < 0.5 else end)


def flip_bits(rng: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        changed[_place(rng, content)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: Random, content: bytes) -> bytes:
    return content[: rng.choice((rng.randrange(len(content) + 1), len(content) - rng.randrange(1, 9), 1))]


def overwrite(rng: Random, content: bytes) -> bytes:
    start, value = _place(rng, content), _extreme(rng)
    return content[:start] + value + content[start + len(value) :]


def repeat(rng: Random, content: bytes) -> bytes:
    """A part is there twice, or not at all, or behind another one."""
    start = _place(rng, content)
    part = content[start : start + rng.choice((1, 4, 16, 200, len(content)))]
    rest = content[start + len(part) :]
    return content[:start] + rng.choice((part * 2, b"", bytes(len(part)), rest[:9] + part)) + rest


def change_number(rng: Random, content: bytes) -> bytes:
    """Another text in place of a number or word of a text."""
    words = list(re.finditer(rb"[-+.\w]+", content[:20_000]))
    if not words:
        return content
    word, text = rng.choice(words), rng.choice(_TEXTS).encode()
    return content[: word.start()] + text + content[word.end() :]


def change_line(rng: Random, content: bytes) -> bytes:
    """Lines in another order, left out or repeated."""
    lines = content.splitlines(keepends=True)
    one, other = rng.randrange(len(lines) or 1), rng.randrange(len(lines) or 1)
    lines[one : one + 1] = lines[other : other + rng.choice((0, 1, 2, 9))]
    return b"".join(lines)


def change_json(rng: Random, content: bytes) -> bytes:
    """Another value, key or depth somewhere in JSON."""
    try:
        top = json.loads(content)
    except ValueError:
        return change_number(rng, content)
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            spots.append((node, key))
            walk(value)

    walk(top)
    if spots:
        node, key = rng.choice(spots)
        node[key] = rng.choice(
            (*_VALUES, top if node is not top else None, {"a": node[key]}, [node[key]] * 9)
        )
        if isinstance(node, dict) and rng.random() < 0.3:
            node[rng.choice(("", "x", "\0", "__class__"))] = node.pop(key)
    try:
        text = json.dumps(top)
    except (ValueError, RecursionError):  # it holds itself
        text = '{"a":' * rng.choice((10, 3000, 200_000))
    return text.encode()


def change_png(rng: Random, content: bytes) -> bytes:
    """Chunks with other content and right checksums, in another order, twice or left out."""
    chunks, position = [], 8
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunks.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + length]))
        position += 12 + length
    n = rng.randrange(len(chunks) or 1)
    name, body = chunks[n] if chunks else (b"IHDR", b"")
    change = rng.choice(("body", "body", "body", "twice", "gone", "name", "new"))
    if change == "body":
        body = rng.choice((flip_bits, overwrite, truncate))(rng, body) if body else b"\xff" * 9
    new = [(name, body)]
    if change == "name":
        new = [(rng.choice((b"PLTE", b"tRNS", b"acTL", b"fdAT", b"eXIf", b"iCCP", b"zTXt")), body)]
    elif change == "new":
        packed = b"a\0\0" + zlib.compress(bytes(rng.choice((9, 80_000_000))), 1)
        new += [(rng.choice((b"zTXt", b"iCCP")), packed)]
    elif change in ("twice", "gone"):
        new *= 2 * (change == "twice")
    chunks[n : n + 1] = new
    made = [len(b).to_bytes(4, "big") + t + b + zlib.crc32(t + b).to_bytes(4, "big") for t, b in chunks]
    return content[:8] + b"".join(made)


def change_tiff(rng: Random, content: bytes) -> bytes:
    """Another tag, type, count or value in the first directory."""
    start = int.from_bytes(content[4:8], "little")
    entries = int.from_bytes(content[start : start + 2], "little")
    field = start + 2 + 12 * rng.randrange(max(min(entries, 40), 1)) + rng.choice((0, 2, 4, 8, 8))
    value = _extreme(rng)
    return content[:field] + value + content[field + len(value) :]


def change_dicom(rng: Random, content: bytes) -> bytes:
    """Another length, representation or value of an element."""
    starts = [found.start() for found in re.finditer(rb"[A-Z]{2}[\0-\x40]\0", content[:4000])]
    start = rng.choice(starts) if starts else 0
    change = rng.choice(("length", "kind", "value", "twice"))
    if change == "length":
        return content[: start + 2] + _extreme(rng)[:2] + content[start + 4 :]
    if change == "kind":
        kinds = (b"OB", b"SQ", b"UN", b"IS", b"DS", b"US", b"FD", b"PN", b"XX")
        return content[:start] + rng.choice(kinds) + content[start + 2 :]
    if change == "twice":
        return content[: start - 4] + content[start - 4 : start + 9] * 2 + content[start + 9 :]
    value = rng.choice((_extreme(rng), b"1e400", b"nan\0", b"-1\\-1", b"\\\\\\\\", b"9" * 8))
    return content[: start + 4] + value + content[start + 4 + len(value) :]


def change_nifti(rng: Random, content: bytes) -> bytes:
    """An extreme number in a field of a NIfTI-1 header: sizes, type, spacing, offset, scale, affine."""
    integers, reals = (
        (*range(40, 56, 2), 70, 72, 252, 254),
        (*range(76, 108, 4), 108, 112, 116, *range(256, 328, 4)),
    )
    if rng.random() < 0.5:
        value = struct.pack(
            "<h", rng.choice((0, 1, -1, 2, 3, 4, 8, 64, 128, 256, 512, 768, 1024, 32767, -32768))
        )
        field = rng.choice(integers)
    else:
        value = struct.pack("<f", rng.choice((0, -1, 1e-38, 3e38, float("nan"), float("inf"), 352, 1e9)))
        field = rng.choice(reals)
    return content[:field] + value + content[field + len(value) :]


def change_zip(rng: Random, content: bytes) -> bytes:
    """Members of a zip file changed, left out or twice, with right checksums."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        changed = rng.choice(names)
        for name in names:
            body = old.read(name)
            if name == changed:
                change = rng.choice((flip_bits, overwrite, truncate, repeat, None))
                if change is None:
                    continue
                body = change(rng, body) if body else b"\xff"
            new.writestr(name, body)
    return made.getvalue()


def change_safetensors(rng: Random, content: bytes) -> bytes:
    """Another header in JSON, with its right length."""
    length = int.from_bytes(content[:8], "little")
    header = change_json(rng, content[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def change_onnx(rng: Random, content: bytes) -> bytes:
    """Other sizes, types, operators and names, as a well-formed file."""
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(content)
    node, weight = rng.choice(model.graph.node), rng.choice(model.graph.initializer)
    number = rng.choice((0, 1, -1, 2**31, 2**62, 7))
    change = rng.randrange(7)
    if change == 0:
        weight.dims[rng.randrange(len(weight.dims))] = number
    elif change == 1:
        weight.data_type = rng.choice(range(24))
    elif change == 2:
        node.op_type = rng.choice(
            ("Loop", "If", "Add", "Transpose", "Resize", "Concat", "Softmax", "Tile", "")
        )
    elif change == 3:
        node.input[rng.randrange(len(node.input))] = rng.choice(
            ("", "image", "probability", "weight", "absent")
        )
    elif change == 4:
        model.graph.input[0].type.tensor_type.shape.dim[rng.randrange(4)].dim_value = number
    elif change == 5:
        model.graph.node.add().CopyFrom(node)
    else:
        node.attribute.add(name=rng.choice(("axis", "group", "pads", "strides")), type=2, i=number)
    return bytes(model.SerializeToString())


def in_gzip(inner: Mutation) -> Mutation:
    """Changes what a gzip file holds; its checksum is right."""
    return lambda rng, content: gzip.compress(inner(rng, gzip.decompress(content)), 1)


def behind_header(inner: Mutation) -> Mutation:
    """Changes the header of a MetaImage alone."""

    def change(rng: Random, content: bytes) -> bytes:
        at = content.index(b"LOCAL") + 6
        return inner(rng, content[:at]) + content[at:]

    return change


_BYTES: tuple[Mutation, ...] = (flip_bits, flip_bits, truncate, overwrite, overwrite, repeat)
_WORDS: tuple[Mutation, ...] = (change_number, change_number, change_line)
_BY_SUFFIX: dict[str, tuple[Mutation, ...]] = {
    "png": (*_BYTES, *[change_png] * 6),
    "jpg": _BYTES,
    "tif": (*_BYTES, *[change_tiff] * 5),
    "dcm": (*_BYTES, *[change_dicom] * 6),
    "nii": (*_BYTES, *[change_nifti] * 6),
    "gz": (*_BYTES, *map(in_gzip, (change_nifti, change_nifti, truncate, overwrite, repeat))),
    "nrrd": (*_BYTES, *_WORDS),
    "mha": (*_BYTES, *[behind_header(change) for change in (*_WORDS, *_WORDS)]),
    "csv": (*_BYTES, *_WORDS),
    "yaml": (*_BYTES, *_WORDS),
    "json": (*_BYTES, change_number, *[change_json] * 5),
    "pt": (*_BYTES, *[change_zip] * 6),
    "safetensors": (*_BYTES, *[change_safetensors] * 5),
    "onnx": (*_BYTES, *[change_onnx] * 6),
}


def mutate(rng: Random, content: bytes, name: str) -> bytes:
    """Changes the content of a file by one to three mutations that fit the suffix of its name.

    The first may know the format; the others change bytes, since the format may be broken by then.
    """
    changed = rng.choice(_BY_SUFFIX[name.rsplit(".", 1)[1]])(rng, content)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        changed = rng.choice(_BYTES)(rng, changed)
    return changed
