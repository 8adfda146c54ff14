"""The engine OpenVINO gives what ONNX Runtime gives, and sends nothing; without it one line names the extra."""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from segdistill.errors import InputError
from segdistill.runtime.engine import Engine, seconds_to_run
from tests.experiment.tiny import segdistill
from tests.runtime.small_model import picture, save

INSTALLED = find_spec("openvino") is not None
needed = pytest.mark.skipif(not INSTALLED, reason="the extra openvino is not installed")


@pytest.mark.skipif(INSTALLED, reason="the extra openvino is installed")
def test_without_it_the_extra_is_named(tmp_path: Path) -> None:
    found = segdistill(
        "predict", save(tmp_path / "m.onnx"), picture(tmp_path / "a.png"), "--engine", "openvino"
    )
    assert found.code == 2
    assert found.line == "the engine openvino needs the extra 'openvino': pip install 'segdistill[openvino]'"


def test_it_runs_model_files_only(run_folder: Path) -> None:
    found = segdistill("predict", run_folder, run_folder, "--engine", "openvino")
    assert found.line == "the engine openvino runs a model file, not the folder of a run: export it first"


@needed
def test_it_gives_what_onnxruntime_gives(tmp_path: Path, run_folder: Path) -> None:
    for path in (save(tmp_path / "m.onnx"), run_folder / "model.onnx"):
        one, other = Engine(path, 1), Engine(path, 1, "openvino")
        for batch in (1, 3):
            shape = (batch, one.info.input_channels, *one.info.preprocess.size)
            image = np.random.default_rng(batch).random(shape, dtype=np.float32)
            np.testing.assert_allclose(other.run(image), one.run(image), atol=1e-5)


@needed
def test_several_threads_may_call_it(tmp_path: Path) -> None:
    engine = Engine(save(tmp_path / "m.onnx"), 1, "openvino")
    image = np.random.default_rng(0).random((1, 3, 32, 48), dtype=np.float32)
    expected, found = engine.run(image), []
    workers = [threading.Thread(target=lambda: found.append(engine.run(image))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 8
    assert all(np.array_equal(each, expected) for each in found)


@needed
def test_a_limit_of_time_and_a_wrong_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(save(tmp_path / "m.onnx"), 1, "openvino")
    with pytest.raises(InputError, match="a batch must be float32"):
        engine.run(np.zeros((1, 2, 8, 8), np.float32))
    assert seconds_to_run(1) > 0
    monkeypatch.setattr("segdistill.runtime.engine.seconds_to_run", lambda _: 0.0)
    large = np.zeros((4, 3, 1024, 1024), np.float32)
    with pytest.raises(InputError, match="does not end within 0 seconds"):
        engine.run(large)


@needed
def test_no_telemetry_and_no_socket(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "import segdistill\n"
        "segdistill.predict(sys.argv[1], sys.argv[2], sys.argv[3], engine='openvino')\n"
        "print(sys.modules['openvino_telemetry'], 'torch' in sys.modules)\n"
    )
    words = [save(tmp_path / "m.onnx"), picture(tmp_path / "a.png"), tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "None False"
