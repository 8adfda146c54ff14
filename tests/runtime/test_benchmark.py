from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from segdistill.errors import InputError
from segdistill.runtime import benchmark as module
from segdistill.runtime.benchmark import STAGES, Contestant, benchmark
from segdistill.runtime.engine import Engine, Session
from segdistill.runtime.onnx_file import read_onnx
from tests.experiment.tiny import segdistill
from tests.runtime.small_model import INFO, build, picture, save


def test_the_matrix_product_is_one(tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    path.write_bytes(module._matrix_product())
    onnx.checker.check_model(onnx.load(path), full_check=True)
    matrix = np.random.default_rng(0).random((1, 1, 5, 5), dtype=np.float32)
    (found,) = Session(read_onnx(path), 1).run(None, matrix)
    np.testing.assert_allclose(found, matrix @ matrix, rtol=1e-5)


def test_parts_and_percentiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = replace(INFO, provenance={"macs": 5_000_000})
    path = save(tmp_path / "m.onnx", build(info))
    whole = [dict.fromkeys(STAGES, k / 1000) for k in range(1, 11)]
    order = []

    def segment(predictor: object, file: Path, folder: Path) -> dict[str, float]:
        order.append(predictor)
        return whole[(len(order) - 1) // 2 % len(whole)]

    monkeypatch.setattr(module, "_segment", segment)
    monkeypatch.setattr(module, "machine_peak", lambda threads: 1e10)
    contestants = [Contestant(name, "onnxruntime", partial(Engine, path, 1), path) for name in ("a", "b")]
    found = benchmark(contestants, [picture(tmp_path / "p.png")], rounds=10, cold=False)
    assert order[:4] == [order[0], order[1], order[0], order[1]], "in turn"
    first, second = found.timings
    times = [5.0 * k for k in (*range(2, 11), 1)]  # ms; the first round warms up
    assert first.p50 == pytest.approx(np.median(times))
    assert first.p95 == pytest.approx(np.percentile(times, 95))
    assert first.stages["network"] == pytest.approx(5.5)
    assert first.share == pytest.approx(5e6 / 5.5e-3 / 1e10)
    assert second.p50 == first.p50
    assert first.cold_start_s is None


def test_the_parts_are_those_of_predict(tmp_path: Path) -> None:
    """The mask that the benchmark writes is the one that predict writes."""
    from segdistill.runtime.predictor import Predictor

    path, file = save(tmp_path / "m.onnx"), picture(tmp_path / "p.png")
    times = module._segment(Predictor(path), [file], tmp_path / "out")
    assert list(times) == list(STAGES)
    assert all(value > 0 for value in times.values())
    segdistill("predict", path, file, "-o", tmp_path / "known")
    assert (tmp_path / "out" / "mask.png").read_bytes() == (tmp_path / "known" / "p.png").read_bytes()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STARTS", 1)
    path = save(tmp_path / "m.onnx")
    words = (path, "--engine", "onnxruntime", "--rounds", "2")
    found = json.loads(segdistill("benchmark", *words, "--json").out)
    (one,) = found["timings"]
    assert (one["name"], one["engine"], found["threads"], found["pictures"]) == (
        "m.onnx",
        "onnxruntime",
        1,
        3,
    )
    assert one["p50"] >= sum(one["stages"].values()) * 0.5
    assert one["cold_start_s"] > 0.05
    assert one["peak_mb"] is None or 20 < one["peak_mb"] < 2000
    assert found["peak_gmacs"] > 0.1
    table = segdistill("benchmark", *words, "--no-cold").out
    assert table.splitlines()[1].startswith("m.onnx, onnxruntime")
    assert "billion multiply-accumulates a second" in table


def test_bad_input(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx")
    for words, reason in (
        (["absent.onnx"], "no such model file"),
        ([path, "--threads", "0"], "threads must be at least 1"),
        ([path, "--threads", "100000"], "at most 1024"),
        ([path, "--rounds", "0"], "rounds must be at least 1"),
        ([path, "--engine", "tensorrt"], "unknown engine 'tensorrt'"),
        ([path, "--images", tmp_path / "none"], "no such file"),
    ):
        found = segdistill("benchmark", *words, "--no-cold")
        assert found.code == 2, words
        assert reason in found.line
    with pytest.raises(InputError, match="nothing to measure"):
        benchmark([])
