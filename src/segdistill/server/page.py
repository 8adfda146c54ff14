"""A model file as one HTML page that segments images in a browser: it opens from a disk and sends nothing.

The page holds the network, onnxruntime-web as WebAssembly (gzip in base64, inflated by the browser) and the viewer's
own scripts. A policy in its head (CSP) lets no script run but these, by their hashes, and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import PIL

from segdistill import __version__
from segdistill.errors import InputError
from segdistill.files import write_text
from segdistill.runtime.engine import Engine
from segdistill.runtime.model_file import ModelInfo
from segdistill.runtime.onnx_file import read_onnx

WASM, ENGINE = "ort-wasm-simd-threaded.wasm", "ort.wasm.bundle.min.mjs"
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async function|function|class|const) (\w+))", re.MULTILINE)
_ENGINE_EXPORT = re.compile(r"export\{([^{}]*)\};\s*(?://# sourceMappingURL=\S*\s*)?$")
_FOLDER = files("segdistill.server")


@dataclass(frozen=True)
class PageModel:
    """A model file as a page shows it.

    Attributes:
        info: the record in the file.
        content: the file's bytes.
    """

    info: ModelInfo
    content: bytes

    @classmethod
    def read(cls, path: str | Path) -> PageModel:
        """Reads a model file.

        Raises:
            InputError: not a model file of ours, or its images have several channels.

        >>> PageModel.read("absent.onnx")
        Traceback (most recent call last):
        segdistill.errors.InputError: no such model file: absent.onnx
        """
        info = Engine(path, threads=1).info  # what ONNX Runtime does not load here, no page would load
        if names := info.preprocess.channel_names:
            raise InputError(
                f"{path}: takes {len(names)} channels ({', '.join(names)}), and the page one image: "
                "use segdistill predict"
            )
        return cls(info, read_onnx(path).content)

    def record(self) -> dict[str, Any]:
        """What the page needs of the model's record; nothing of its training data."""
        return {
            "name": self.info.name,
            "classes": list(self.info.classes),
            "labels": list(self.info.labels),
            "threshold": self.info.postprocess.threshold,
            "preprocess": self.info.preprocess.to_dict() | {"tall_first": resizes_tall_first()},
            "parameters": self.info.provenance.get("parameters"),
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "version": __version__,
        }


def write_page(model: str | Path, out: str | Path) -> int:
    """Writes the page of a model file; it is whole or absent.

    Args:
        model: an ONNX file with segdistill's metadata, in fp32 or int8.
        out: the page, whose name ends in .html.

    Returns:
        its size in bytes.

    Raises:
        InputError: not a model file of ours, or the page cannot be written.

    >>> write_page("absent.onnx", "page.html")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"the name of a page ends in .html: {out}")
    page = page_text(PageModel.read(model))
    write_text(out, page)
    return len(page.encode())


def page_text(model: PageModel, served: Mapping[str, Any] | None = None) -> str:
    """The page as text.

    Args:
        model: the model; the page holds it, unless it is served.
        served: what a server adds (`server.view`): names, models (addresses), the second model's record, cases;
            None: the page stands alone and may fetch nothing.
    """
    script, style = bundle("page"), _text("viewer/page.css")
    parts = {
        "POLICY": "; ".join(
            (
                "default-src 'none'",
                f"script-src {_hash_source(script)} 'wasm-unsafe-eval'",
                f"style-src {_hash_source(style)}",
                "worker-src blob:",
                "img-src blob: data:",
                "connect-src 'none'" if served is None else "connect-src 'self'",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        "NAME": html.escape(model.info.name),
        "STYLE": style,
        "RECORD": _json(model.record()),
        "SERVED": _json(served or {}),
        "LICENCE": html.escape(_text("assets/LICENSE.onnxruntime.txt")),
        "ENGINE": base64.b64encode((_FOLDER / f"assets/{WASM}.gz").read_bytes()).decode(),
        "MODEL": "" if served else base64.b64encode(gzip.compress(model.content, mtime=0)).decode(),
        "WORKER": _worker(),
        "SCRIPT": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _text("viewer/page.html"))


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values).replace("<", "\\u003c")


def resizes_tall_first() -> bool:
    """Whether this Pillow resizes a picture along its height first where that shrinks by far more: since version 13.

    The order moves a level by one here and there, so a page keeps that of the runtime that made it.
    """
    return int(PIL.__version__.partition(".")[0]) >= 13


def bundle(entry: str) -> str:
    """A module of the viewer and all that it imports as one script; each keeps a scope of its own.

    >>> "import " in bundle("measure")
    False
    """
    texts: dict[str, str] = {}
    _collect(entry, texts)
    return '"use strict";\n' + "".join(texts.values())


def _collect(name: str, texts: dict[str, str]) -> None:
    """Adds a module behind those that it imports; the modules import each other in no circle."""
    if name in texts:
        return
    text = _text(f"viewer/{name}.js")
    for found in _IMPORT.finditer(text):
        _collect(found[2], texts)
    names = ", ".join(found[2] for found in _EXPORT.finditer(text))
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = $\2;", text))
    texts[name] = f"const ${name} = (() => {{\n{body}return {{ {names} }};\n}})();\n"


def _worker() -> str:
    """The script of the worker: onnxruntime-web, with what it exports as `ORT`, and the viewer's own.

    It is a classic script, since a page on a disk cannot start a worker that is a module.
    """
    engine = gzip.decompress((_FOLDER / f"assets/{ENGINE}.gz").read_bytes()).decode()
    found = _ENGINE_EXPORT.search(engine)
    if found is None:
        raise RuntimeError(f"{ENGINE} ends in no export: build the assets again (web/build.py)")
    pairs = (pair.split(" as ") for pair in found[1].split(","))
    names = ", ".join(f"{exported}: {name}" for name, exported in pairs if exported != "default")
    body = engine[: found.start()].replace("import.meta.url", "self.location.href")
    return f"{body}\nconst ORT = {{ {names} }};\n(() => {{\n{bundle('worker')}}})();\n"


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash_source(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
