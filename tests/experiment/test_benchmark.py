from __future__ import annotations

from pathlib import Path

from segdistill.experiment.benchmark import benchmark_models


def test_a_run_brings_its_teachers(run_folder: Path) -> None:
    found = benchmark_models([run_folder], engines=["onnxruntime"], rounds=1, cold=False)
    assert [(one.name, one.engine) for one in found.timings] == [
        ("student", "onnxruntime"),
        ("student", "torch"),
        ("teacher", "onnxruntime"),
        ("teacher", "torch"),
    ]
    student, _, teacher, _ = found.timings
    assert student.macs is not None
    assert teacher.macs is not None
    assert student.macs < teacher.macs
