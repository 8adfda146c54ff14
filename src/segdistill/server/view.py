"""Cases in the page, served on this machine alone: one model, or two side by side with their disagreement.

The address holds a secret, so that no other user of the machine can open it, and other sites cannot reach the server.
"""

from __future__ import annotations

import io
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from PIL import Image

from segdistill.data.case import SPLITS, Case, select, with_channels
from segdistill.data.index import index_folder
from segdistill.data.opened import first_volume
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from segdistill.imaging.intensity import intensity_of
from segdistill.imaging.nifti import save_voxels
from segdistill.imaging.read import read_picture
from segdistill.runtime.predict import find_inputs
from segdistill.server.page import PageModel, page_text

HOST = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "no-store",  # patients' images
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page's own policy is in its head
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def find_cases(place: str | Path, split: str | None = None) -> list[Case]:
    """The cases of a table, of a run's folder, of a data set's folder, or of any files.

    Args:
        place: cases.csv; a folder that holds one, such as a run; one of a known format; any other folder, or a file.
        split: "train", "val", "test" or "all"; None: the test cases, or all where there are none.

    Raises:
        InputError: no case is there, or the table cannot be read.

    >>> find_cases("absent.csv")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such cases: absent.csv
    """
    place = Path(place)
    if split not in (None, "all", *SPLITS):
        raise InputError(f"unknown split '{split}': use {', '.join(SPLITS)} or all")
    if not place.exists():
        raise InputError(f"no such cases: {place}")
    if place.suffix.lower() == ".onnx":
        raise InputError(f"{place} is a model: name the cases last, such as cases.csv or a folder")
    table = place / "cases.csv" if place.is_dir() else place
    cases = read_cases(table) if table.suffix.lower() == ".csv" and table.exists() else _without_table(place)
    if split is None:
        return select(cases, "test") or cases
    found = cases if split == "all" else select(cases, split)
    if not found:
        raise InputError(f"{place} has no case in the split {split}: choose another with --split, or all")
    return found


def _without_table(place: Path) -> list[Case]:
    if place.is_dir():
        try:
            return index_folder("auto", place).cases
        except InputError:
            pass  # no known format: then whatever it holds
    files = find_inputs([place], Path())
    return [Case(file.relative_to(place).as_posix() if place.is_dir() else file.name, file) for file in files]


class CaseServer(ThreadingHTTPServer):
    """Serves the page with cases on 127.0.0.1; `serve_forever` runs it.

    Args:
        models: one model, or two of the same classes.
        places: what the user calls each model.
        cases: what is listed; a file is read when the page asks for it.
        port: 0 takes a free one.

    Attributes:
        url: the page's address.

    Raises:
        InputError: the models do not fit each other, a case has several channels, or the port is taken.

    >>> CaseServer([], [], [])
    Traceback (most recent call last):
    segdistill.errors.InputError: give one model, or two to compare: not 0
    """

    daemon_threads = True  # the end does not wait for them

    def __init__(
        self, models: Sequence[PageModel], places: Sequence[str], cases: Sequence[Case], port: int = 0
    ) -> None:
        if len(models) not in (1, 2):
            raise InputError(f"give one model, or two to compare: not {len(models)}")
        first, last = models[0].info.classes, models[-1].info.classes
        if first != last:
            raise InputError(
                f"{places[0]} finds {', '.join(first[1:])}, and {places[1]} finds {', '.join(last[1:])}: "
                "view two models of the same classes"
            )
        self.models, self.places = models, places
        self.cases = [with_channels(case, ()) for case in cases]  # the page's models take one image
        self.secret = secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} cannot be used ({error}): choose another, or leave --port out"
            ) from error
        self.url = f"http://{HOST}:{self.server_address[1]}/{self.secret}/"

    @cached_property
    def page(self) -> bytes:
        """The page with the list of cases."""
        served = {
            "names": _names(self.models, self.places),
            "models": [f"model/{n}" for n in range(len(self.models))],
            "second": self.models[1].record() if len(self.models) > 1 else None,
            "cases": [
                {"name": case.id, "kind": "volume" if case.is_volume else "picture", "label": case.label}
                for case in self.cases
            ],
        }
        return page_text(self.models[0], served).encode()

    def content(self, case: Case, model: PageModel) -> tuple[bytes, Mapping[str, Any]]:
        """A case's image as a file that the page reads, and what is known of it besides.

        A picture is read here and sent as PNG with 8 bits: every format is shown as the model was trained on it.

        Raises:
            UnreadableImage: the file cannot be read.
        """
        spacing = case.spacing_mm
        if not case.is_volume:
            intensity = intensity_of(model.info.preprocess.intensity, 0) or case.intensity
            picture = read_picture(case.image, intensity=intensity)
            buffer = io.BytesIO()
            Image.fromarray(picture.pixels).save(buffer, "PNG", compress_level=1)
            if spacing is not None:
                return buffer.getvalue(), _spacing(spacing[-2], spacing[-1], "case table")
            known = picture.spacing
            stated = known and _spacing(known.row_mm, known.column_mm, known.source, known.region)
            return buffer.getvalue(), stated or {}
        own = {}
        if spacing is not None and len(spacing) == 3:
            own = {"voxel": spacing, **_spacing(spacing[1], spacing[2], "case table")}
        if case.image.name.lower().endswith((".nii", ".nii.gz")) and not case.image_channels[0].part:
            return case.image.read_bytes(), own
        with TemporaryDirectory() as folder:
            file = Path(folder) / "volume.nii.gz"
            save_voxels(first_volume(case, turn=False), file)
            return file.read_bytes(), own

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that is closed while it loads is no error; others are shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _names(models: Sequence[PageModel], places: Sequence[str]) -> list[str]:
    """What tells the models apart: the network's name, the file's, or the whole path."""
    own = [model.info.name for model in models]
    for names in (own, [Path(place).stem for place in places], list(places)):
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({n})" for n, name in enumerate(own, start=1)]


def _spacing(row: float, column: float, source: str, region: Any = None) -> dict[str, Any]:
    return {"spacing": {"row": row, "column": column, "source": source, "region": region}}


class _Handler(BaseHTTPRequestHandler):
    """`/SECRET/` is the page, `/SECRET/model/N` a model file, `/SECRET/case/K/N` case K for model N."""

    server: CaseServer
    server_version, sys_version = "segdistill", ""
    timeout = 30
    """Seconds for a request's headers."""

    def do_GET(self) -> None:
        start, _, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        own = {f"{name}:{self.server.server_address[1]}" for name in (HOST, "localhost")}
        if self.headers.get("Host") not in own or not secrets.compare_digest(
            start.encode(), self.server.secret.encode()
        ):
            self._send(404, b"not found")
            return
        kind, *numbers = path.split("/")
        try:
            if not all(number.isdecimal() for number in numbers):
                raise ValueError(numbers)
            places = [int(number) for number in numbers]
            if path == "":
                self._send(200, self.server.page, "text/html; charset=utf-8")
            elif kind == "model" and len(places) == 1:
                self._send(200, self.server.models[places[0]].content)
            elif kind == "case" and len(places) == 2:
                self._send_case(self.server.cases[places[0]], self.server.models[places[1]])
            else:
                self._send(404, b"not found")
        except (ValueError, IndexError):
            self._send(404, b"not found")

    def _send_case(self, case: Case, model: PageModel) -> None:
        try:
            content, known = self.server.content(case, model)
        except (InputError, OSError) as error:
            reason = str(error).removeprefix(f"{case.image}: ")
            self._send(422, reason.encode(), "text/plain; charset=utf-8")
            return
        self._send(200, content, more={"X-Known": json.dumps(known)})

    def _send(
        self,
        code: int,
        content: bytes,
        kind: str = "application/octet-stream",
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.send_response(code)
        headers = {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in (_HEADERS | headers | dict(more)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request for a page: another method, or no HTTP at all."""
        if code == 501:
            self._send(405, b"only GET", "text/plain; charset=utf-8", {"Allow": "GET"})
        else:
            self._send(code, b"not understood", "text/plain; charset=utf-8")

    def log_message(self, format: str, *args: Any) -> None:
        """Writes no line per request."""
