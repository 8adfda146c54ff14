"""The page as a file: whole, closed to the outside; and the assets that it is made of."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from segdistill.errors import InputError
from segdistill.runtime.model_file import read_info
from segdistill.server.page import write_page
from tests.runtime.small_model import build, save

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "src" / "segdistill" / "server" / "assets"


class Elements(HTMLParser):
    """Attributes and text of every element that matters."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.style = self.policy = self._open = ""
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._open = f"{tag}:{values.get('id', '')}" if tag in ("script", "style") else ""
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        self.outside += [
            values[name] for name in ("src", "href") if not values.get(name, "#").startswith(("#", "data:"))
        ]
        self.ids += [values["id"]] if "id" in values else []

    def handle_data(self, data: str) -> None:
        if self._open.startswith("script:"):
            self.scripts[self._open[7:]] = self.scripts.get(self._open[7:], "") + data
        elif self._open.startswith("style"):
            self.style += data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Elements:
    folder = tmp_path_factory.mktemp("page")
    size = write_page(save(folder / "m.onnx"), folder / "m.html")
    text = (folder / "m.html").read_text(encoding="utf-8")
    assert size == (folder / "m.html").stat().st_size
    return Elements(text)


def test_it_holds_the_model_and_the_engine(page: Elements) -> None:
    record = json.loads(page.scripts["record"])
    model = gzip.decompress(base64.b64decode(page.scripts["model"]))
    assert model == build().SerializeToString()
    assert record["sha256"] == hashlib.sha256(model).hexdigest()
    assert record["classes"] == ["background", "lesion"]
    engine = gzip.decompress(base64.b64decode(page.scripts["engine"]))
    assert engine[:4] == b"\0asm"
    assert "dice" not in page.scripts["record"]  # nothing of training or its data


def test_its_policy_closes_it(page: Elements) -> None:
    digest = base64.b64encode(hashlib.sha256(page.scripts[""].encode()).digest()).decode()
    style = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}' 'wasm-unsafe-eval'"
    assert rules["style-src"] == f"'sha256-{style}'"
    assert page.outside == []


def test_every_element_is_there_once(page: Elements) -> None:
    assert len(page.ids) == len(set(page.ids))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', page.scripts[""]))
    assert asked <= set(page.ids)


def test_a_model_name_cannot_leave_its_place(tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.runtime.small_model import INFO

    info = replace(INFO, name='</script><img src=x onerror="alert(1)">{{ENGINE}}')
    write_page(save(tmp_path / "m.onnx", build(info)), tmp_path / "m.html")
    found = Elements((tmp_path / "m.html").read_text(encoding="utf-8"))
    assert found.outside == []
    assert json.loads(found.scripts["record"])["name"] == info.name


def test_bad_input(tmp_path: Path) -> None:
    model = save(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"the name of a page ends in \.html"):
        write_page(model, tmp_path / "page.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match="not a segdistill model file"):
        write_page(tmp_path / "text.onnx", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command(tmp_path: Path) -> None:
    model = save(tmp_path / "m.onnx")
    command = [
        sys.executable,
        "-m",
        "segdistill",
        "export",
        str(model),
        "--web",
        "-o",
        str(tmp_path / "m.html"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "m.html").stat().st_size
    done = subprocess.run([*command, "--stage", "student"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_assets_are_those_that_are_pinned() -> None:
    pins = json.loads((ASSETS / "assets.json").read_text())
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    assert lock["packages"]["node_modules/onnxruntime-web"]["version"] == pins["version"]
    assert not any("resolved" in entry for entry in lock["packages"].values())
    for name, digest in pins["sha256"].items():
        content = gzip.decompress((ASSETS / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == digest
    assert "MIT License" in (ASSETS / "LICENSE.onnxruntime.txt").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # npm waits for its registry for minutes
def test_the_assets_can_be_built_again(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    spec = spec_from_file_location("build", ROOT / "web" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build(module.installed(tmp_path), tmp_path / "assets")
    pins = json.loads((tmp_path / "assets" / "assets.json").read_text())
    assert pins == json.loads((ASSETS / "assets.json").read_text())


def test_the_record_is_that_of_the_model(tmp_path: Path) -> None:
    model = save(tmp_path / "m.onnx")
    write_page(model, tmp_path / "m.html")
    record = json.loads(Elements((tmp_path / "m.html").read_text(encoding="utf-8")).scripts["record"])
    settings = record["preprocess"]
    settings.pop("tall_first")
    assert settings == read_info(model).preprocess.to_dict()
