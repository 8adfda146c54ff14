"""What reaches a terminal: no control characters of file names, and no traceback where it is not UTF-8."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.cli.main import main
from segdistill.cli.shared import escaped_streams, print_json
from segdistill.experiment.events import Event, show_events
from tests.experiment.tiny import surroundings
from tests.runtime.small_model import save

OWNED = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\rdone"
BAD = set("\x1b\x07\x9b\u202e\r\u2028")


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 60), 250, np.uint8)).save(path)
    return path


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segdistill", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        found = capsys.readouterr()
        return int(stop.value.code or 0), found.out, found.err

    return run


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_names_do_not_command_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "m.onnx")
    picture(Path("d/a.png"))
    picture(Path(f"d/good{OWNED}.png"))
    Path(f"d/bad{OWNED}\n.png").write_text("no picture")
    Path("t.csv").write_text(
        f'id,image,masks,label\na,a.png,"x{OWNED[:-5]}.png",l{OWNED[:-5]}\n', encoding="utf-8"
    )
    calls: list[tuple[tuple[object, ...], int]] = [
        (("predict", "m.onnx", "d", "-o", "p"), 4),
        (("predict", "m.onnx", f"d/absent{OWNED}.png", "-o", f"q{OWNED}"), 2),
        (("predict", f"absent{OWNED}.onnx", "d", "-o", f"q{OWNED}"), 2),
        (("data", "check", "t.csv"), 2),
        (("data", "check", f"t{OWNED}.csv"), 2),
        (("data", "index", f"folder{OWNED}", "d"), 2),
        (("evaluate", "m.onnx", "t.csv"), 2),
        (("compare", f"run{OWNED}"), 2),
        (("list", f"networks{OWNED}"), 2),
        (("list", "networks", f"unet{OWNED}"), 2),
        ((f"command{OWNED}",), 2),
        (("predict", f"--{OWNED}"), 2),
    ]
    for words, expected in calls:
        code, out, err = call(*words)
        assert code == expected, (words, err)
        assert not BAD & set(out + err), words
        assert "Traceback" not in err
    _, out, err = call("predict", "m.onnx", "d", "-o", "p")
    assert "bad\\x1b[2J\\x1b]0;owned\\x07\\x9b31m\\u202e\\rdone\\n.png: is not" in err
    text = Path("p/predictions.csv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 3
    assert not BAD & set(text)
    code, out, err = call("predict", "m.onnx", "d", "-o", "p", "--json")
    assert not BAD & set(out + err)
    assert json.loads(out)["failed"][0]["file"] == f"d/bad{OWNED}\n.png"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_a_terminal_gets_no_sequence_of_a_name(tmp_path: Path) -> None:
    import pty

    save(tmp_path / "m.onnx")
    picture(tmp_path / "d/a.png")
    (tmp_path / f"d/{OWNED}.png").write_text("no picture")
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "segdistill.cli.main", "predict", "m.onnx", "d", "-o", "p"]
    child = subprocess.Popen(words, cwd=tmp_path, stdout=theirs, stderr=theirs, env=surroundings())
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # so Linux tells that the other side is closed
        pass
    os.close(ours)
    assert child.wait() == 4
    assert b"1 of 2 images segmented" in shown
    assert b"\\x1b]0;owned\\x07" in shown
    for mark in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e"):
        assert mark.encode() not in shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse the name")
def test_names_and_terminals_that_are_not_utf8(tmp_path: Path, encoding: str) -> None:
    save(tmp_path / "m.onnx")
    (tmp_path / "d").mkdir()
    os.rename(picture(tmp_path / "x.png"), os.fsencode(tmp_path / "d") + b"/caf\xe9.png")
    picture(tmp_path / "d" / "\u0142\u00f3d\u017a.png")
    env = surroundings() | {"PYTHONIOENCODING": f"{encoding}:strict"}
    words = [sys.executable, "-m", "segdistill.cli.main", "predict", "m.onnx", "d", "-o", "p", "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.decode(encoding))["predictions"]
    assert {row["file"] for row in rows} == {"d/caf\udce9.png", "d/\u0142\u00f3d\u017a.png"}
    assert {row["mask"] for row in rows} == {"caf_.png", "\u0142\u00f3d\u017a.png"}


def test_streams(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with escaped_streams():
        print("two\nlines\t", OWNED, "\udce9")
        print_json({"a\x9b": "caf\u00e9\u2028"})
        print(OWNED, file=sys.stderr)
        show_events([Event(OWNED), Event(OWNED, 1, 1, OWNED)])
    assert sys.stdout is before
    out, err = capsys.readouterr()
    assert not BAD & set(out + err)
    assert out.startswith("two\nlines\t \\x1b[2J")
    assert json.loads(out[out.index("{") :]) == {"a\x9b": "caf\u00e9\u2028"}
    assert len(err.splitlines()) == 3


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_echo_is_escaped_whatever_the_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    import typer

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding))
    with escaped_streams():
        typer.echo(f"{OWNED}\udce9\u0142")
        typer.echo(f"{OWNED}\udce9\u0142", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
    text = written.getvalue().decode(encoding)
    assert not BAD & set(text)
    last = "\u0142" if encoding == "utf-8" else "\\u0142"
    assert [line[-len(last) - 6 :] for line in text.splitlines()] == [f"\\udce9{last}"] * 2
