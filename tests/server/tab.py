"""A page of `segdistill export --web` in headless Chromium over file://, and what its worker computes."""

from __future__ import annotations

import base64
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.server.view import CaseServer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_RESULT = """async ([place, task, slice, network]) => {
  const item = window.segdistill.cases[place];
  const file = window.segdistill.fileOf(item, network);
  const found = await window.segdistill.call(task, { id: item.id, file, slice }, network);
  const text = (array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    let binary = "";
    for (let k = 0; k < bytes.length; k += 4096) binary += String.fromCharCode(...bytes.subarray(k, k + 4096));
    return btoa(binary);
  };
  const entries = Object.entries(found).map(([name, value]) => {
    if (ArrayBuffer.isView(value)) return [name, text(value)];
    return [name, Array.isArray(value) && ArrayBuffer.isView(value[0]) ? value.map(text) : value];
  });
  return Object.fromEntries(entries);
}"""


def browser() -> str | None:
    """A Chromium of this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def serving(server: CaseServer) -> Iterator[str]:
    """The address of a server that runs inside the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def floats(text: str) -> NDArray[np.float32]:
    """Numbers of the page's worker."""
    return np.frombuffer(base64.b64decode(text), np.float32)


class Tab:
    """Opens a page and waits for its network; `requests` lists what it asked for that is not on this machine.

    Args:
        page: the file, or an address.
        width, height: of the window.
    """

    def __init__(self, page: Path | str, width: int = 1400, height: int = 860) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=browser(), args=list(FLAGS))
        self.page = self._browser.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        began = time.perf_counter()
        self._own = page if isinstance(page, str) else page.resolve().as_uri()
        self.page.goto(self._own, timeout=240_000)
        self.page.wait_for_selector("html[data-ready]", state="attached", timeout=240_000)
        self.seconds_to_load = time.perf_counter() - began

    def _note(self, url: str) -> None:
        if not url.startswith(("file:", "blob:", "data:", self._own)):
            self.requests.append(url)

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._playwright.stop()

    def open(self, files: Sequence[Path]) -> None:
        """Opens files as a user does, and waits until each picture has its result or its reason."""
        before = self.page.locator("#cases li").count()
        self.page.set_input_files("#files", [str(path) for path in files])
        wanted = f"#cases li:nth-child(n + {before + 1})"
        for kind in ("waiting", "open"):
            # volumes stay open: their slices are segmented as they are looked at
            if kind == "open" and any(path.name.endswith((".nii", ".nii.gz")) for path in files):
                continue
            patience = 60_000 + 30_000 * len(files)  # milliseconds; a busy machine takes seconds per picture
            self.page.wait_for_selector(f"{wanted}.{kind}", state="detached", timeout=patience)

    def result(self, place: int, slice: int = 0, network: int = 0) -> dict[str, Any]:
        """What the worker of a network gives for the opened image of this number, from 0."""
        found: dict[str, Any] = self.page.evaluate(_RESULT, [place, "segment", slice, network])
        size = (found["height"], found["width"])
        found["foreground"] = floats(found["foreground"]).reshape(size)
        if found["labels"] is not None:
            found["labels"] = np.frombuffer(base64.b64decode(found["labels"]), np.uint8).reshape(size)
        return found

    def inputs(self, place: int, slice: int = 0) -> list[NDArray[np.float32]]:
        """The network's inputs for an opened image."""
        return [floats(text) for text in self.page.evaluate(_RESULT, [place, "prepare", slice, 0])["inputs"]]

    def problem(self, place: int) -> str:
        """Why an image cannot be used; "" where it can."""
        line = self.page.locator("#cases li").nth(place)
        return line.locator("small").inner_text() if "failed" in (line.get_attribute("class") or "") else ""
