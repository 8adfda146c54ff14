"""What the tests of runs share."""

from __future__ import annotations

import pytest


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without model file and report, where a test is about training: these take most of a tiny run's time."""
    monkeypatch.setattr("segdistill.experiment.run.export_stage", lambda *_: None)
    monkeypatch.setattr("segdistill.experiment.run.report_run", lambda *_: ([], {}))
