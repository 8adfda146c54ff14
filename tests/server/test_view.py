"""`segdistill view`: which cases it lists, what its server gives to whom, and how the command ends."""

from __future__ import annotations

import http.client
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import Case
from segdistill.data.table import write_cases
from segdistill.errors import InputError
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.several import Channel
from segdistill.server.page import PageModel
from segdistill.server.view import CaseServer, find_cases
from tests.runtime.small_model import INFO, build, picture, save
from tests.server.tab import serving


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "student.onnx")


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[CaseServer]:
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(tmp_path / "a.tif")
    (tmp_path / "b.png").write_text("no picture")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "c.nii.gz")
    cases = [
        Case("a", tmp_path / "a.tif", spacing_mm=(0.5, 0.25), label="benign"),
        Case("b", tmp_path / "b.png"),
        Case("c", tmp_path / "c.nii.gz", spacing_mm=(3.0, 1.0, 2.0)),
    ]
    both = [PageModel.read(model)] * 2
    found = CaseServer(both, ["a/model.onnx", "b/model.onnx"], cases)
    with serving(found):
        yield found


def get(url: str, host: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, found.read(), dict(found.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_the_page_lists_the_cases_and_both_models(server: CaseServer) -> None:
    status, content, headers = get(server.url)
    text = content.decode()
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert "connect-src 'self'" in text
    found = re.search(r'id="served">(.*?)</script>', text)
    assert found
    served = json.loads(found[1])
    assert served["names"] == ["a/model.onnx", "b/model.onnx"]  # what tells them apart
    assert [case["kind"] for case in served["cases"]] == ["picture", "picture", "volume"]
    assert served["cases"][0]["label"] == "benign"
    assert str(server.cases[0].image) not in text


def test_cases_and_models_are_sent_as_they_are(server: CaseServer, model: Path) -> None:
    assert get(f"{server.url}model/1")[1] == model.read_bytes()
    _, content, headers = get(f"{server.url}case/0/0")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.full((4, 6), 9))
    wanted = {"row": 0.5, "column": 0.25, "source": "case table", "region": None}
    assert json.loads(headers["X-Known"]) == {"spacing": wanted}
    _, content, headers = get(f"{server.url}case/2/1")
    assert content == server.cases[2].image.read_bytes()
    assert json.loads(headers["X-Known"])["voxel"] == [3.0, 1.0, 2.0]


def test_what_cannot_be_read_has_a_reason_without_a_path(server: CaseServer) -> None:
    status, content, _ = get(f"{server.url}case/1/0")
    assert status == 422
    assert content
    assert str(server.cases[1].image.parent) not in content.decode()


@pytest.mark.parametrize(
    "path", ["case/9/0", "case/0/7", "case/x/0", "model/5", "case/0", "../../etc/passwd", "cases.csv"]
)
def test_nothing_else_is_there(server: CaseServer, path: str) -> None:
    assert get(server.url + path)[0] == 404


def test_other_users_and_sites_get_nothing(server: CaseServer) -> None:
    assert get(server.url.replace(server.secret, "guess"))[0] == 404
    assert get(server.url, host="evil.example")[0] == 404
    assert server.server_address[0] == "127.0.0.1"


def test_models_must_fit(model: Path, tmp_path: Path) -> None:
    names = ("background", "tumour")
    info = replace(INFO, classes=names, postprocess=Postprocess(0.5, names))
    other = PageModel.read(save(tmp_path / "o.onnx", build(info)))
    with pytest.raises(InputError, match=r"s\.onnx finds lesion, and o\.onnx finds tumour"):
        CaseServer([PageModel.read(model), other], ["s.onnx", "o.onnx"], [])


def test_which_cases(tmp_path: Path, model: Path) -> None:
    picture(tmp_path / "plain" / "b" / "x.png")
    picture(tmp_path / "plain" / "a.png")
    assert [case.id for case in find_cases(tmp_path / "plain")] == ["a.png", "b/x.png"]
    assert [case.id for case in find_cases(tmp_path / "plain" / "a.png")] == ["a.png"]
    mask = tmp_path / "set" / "masks" / "1.png"
    mask.parent.mkdir(parents=True)
    picture(tmp_path / "set" / "images" / "1.png")
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(mask)
    assert [case.id for case in find_cases(tmp_path / "set")] == ["1"]
    run = tmp_path / "run"
    run.mkdir()
    cases = [
        Case(name, tmp_path / "plain" / "a.png", split=split) for name, split in (("t", "test"), ("v", "val"))
    ]
    write_cases(cases, run / "cases.csv")
    assert [case.id for case in find_cases(run)] == ["t"]
    assert [case.id for case in find_cases(run / "cases.csv", "all")] == ["t", "v"]
    with pytest.raises(InputError, match="no case in the split train"):
        find_cases(run, "train")
    with pytest.raises(InputError, match="unknown split 'tests'"):
        find_cases(run, "tests")
    with pytest.raises(InputError, match="is a model: name the cases last"):
        find_cases(model)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "segdistill", "view", *map(str, arguments)]


def test_the_command_ends_with_ctrl_c(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"  # its model file, and its test cases
    cases = [Case(split, picture(tmp_path / "a.png"), split=split) for split in ("train", "test")]
    run.mkdir()
    write_cases(cases, run / "cases.csv")
    shutil.copy(model, run / "model.onnx")
    done = subprocess.Popen(
        command(run, run, "--no-open", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    assert done.stdout
    lines = ""
    while not lines.rstrip().endswith("}"):
        lines += done.stdout.readline()
    found = json.loads(lines)
    assert found["cases"] == 1
    assert get(found["url"] + "case/0/0")[0] == 200
    done.send_signal(signal.SIGINT)
    _, errors = done.communicate(timeout=60)
    assert (done.returncode, errors) == (0, "ended\n")


def test_bad_input_is_one_line(model: Path, tmp_path: Path) -> None:
    for arguments in ([model], [model, model, model, tmp_path], [model, tmp_path / "absent"]):
        done = subprocess.run(command(*arguments, "--no-open"), capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_a_taken_port_is_one_line(server: CaseServer) -> None:
    port = server.server_address[1]
    with pytest.raises(InputError, match=f"port {port} cannot be used"):
        CaseServer(server.models, server.places, server.cases, port)


def test_cases_of_several_channels_are_refused(model: Path, tmp_path: Path) -> None:
    channels = (Channel("us", tmp_path / "a.png"), Channel("negative", tmp_path / "b.png"))
    case = Case("a", tmp_path / "a.png", channels=channels)
    with pytest.raises(InputError, match=r"case 'a' has 2 channels \(us, negative\), and one image is taken"):
        CaseServer([PageModel.read(model)], ["m.onnx"], [case])


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "DELETE", "FOO"])
def test_other_methods_are_refused_as_the_page_is_sent(server: CaseServer, method: str) -> None:
    place = urllib.parse.urlsplit(server.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    connection.request(method, place.path)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Allow"], answer.headers["Cache-Control"]) == (
        405,
        "GET",
        "no-store",
    )


def test_a_query_changes_nothing(server: CaseServer) -> None:
    assert get(server.url + "?x=1")[0] == 200
