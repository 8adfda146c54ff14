"""What decides a stage's weights: predictions of other tools are opened once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segdistill.config.schema import MemberRecipe
from segdistill.data.case import Case
from segdistill.experiment import inputs
from segdistill.experiment.inputs import OpenedPredictions, file_facts
from tests.data.pictures import noise, save, square


def test_predictions_are_opened_once_for_the_same_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = []
    for number in range(3):
        cases.append(Case(str(number), save(tmp_path / "images" / f"{number}.png", noise(number))))
        save(tmp_path / "predicted" / f"{number}.png", square())
    calls: list[int] = []
    real = inputs.open_predictions

    def opened(source: Any, cases: Any) -> Any:
        calls.append(len(cases))
        return real(source, cases)

    monkeypatch.setattr(inputs, "open_predictions", opened)
    member = MemberRecipe(predictions=str(tmp_path / "predicted"))
    predictions = OpenedPredictions()
    first = file_facts(member, cases, predictions)
    assert predictions.of(member, cases) is predictions.of(member, list(cases))
    assert calls == [3]
    assert len(predictions.of(member, cases[:2]).files) == 2
    assert calls == [3, 2]
    save(tmp_path / "predicted" / "0.png", square(top=20))  # the content is hashed each time
    assert file_facts(member, cases, predictions) != first
    assert calls == [3, 2]
    assert OpenedPredictions().of(member, cases) is not predictions.of(member, cases)
