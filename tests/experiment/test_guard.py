"""Whether distillation is likely to help: the rule."""

from __future__ import annotations

import pytest

from segdistill.experiment.guard import GuardFacts, expectation
from segdistill.records import GuardRecord, Interval

BETTER, UNSURE, WORSE = (Interval(m, m - 0.02, m + 0.02, 80) for m in (0.04, 0.01, -0.05))


@pytest.mark.parametrize(
    ("facts", "outlook"),
    [
        (GuardFacts(UNSURE, 0.8, 5, True, False), "likely"),  # few masks, many images, unlike teachers
        (GuardFacts(UNSURE, 0.8, 1, False, True), "likely"),
        (
            GuardFacts(BETTER, 0.0, 1, False, True),
            "unlikely",
        ),  # all masks of BUSI: better by 0.04, and no use
        (GuardFacts(WORSE, 0.8, 5, True, False), "unlikely"),
        (GuardFacts(BETTER, 0.0, 1, True, False), "likely"),  # a better teacher from elsewhere
        (GuardFacts(UNSURE, 0.0, 1, True, False), "unknown"),
        (
            GuardFacts(Interval(-0.03, -0.07, 0.01, 60), 0.8, 5, True, False),
            "unknown",
        ),  # teachers are no better
        (GuardFacts(UNSURE, 0.8, 5, True, False, idle=("region_contrast",), only_idle=True), "unknown"),
        (GuardFacts(None, 0.9, 5, True, False), "unknown"),  # never a claim without a comparison
        (GuardFacts(Interval(None, None, None, 0), 0.2, 2, False, True), "unknown"),
    ],
)
def test_answers(facts: GuardFacts, outlook: str) -> None:
    record = expectation(facts)
    assert record.outlook == outlook
    assert record.reasons
    assert record.helps or record.outlook == "likely" or facts.teachers > 1


def test_the_record_is_read_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    record = expectation(GuardFacts(UNSURE, 0.5, 2, True, False))
    record.write(tmp_path)
    assert GuardRecord.read(tmp_path) == record
    assert "0.010 Dice [-0.010, +0.030]" in record.sentence


def test_methods_that_need_masks_are_told() -> None:
    facts = GuardFacts(UNSURE, 0.8, 5, True, False, idle=("region_contrast",))
    assert (
        expectation(facts).reasons[-1]
        == "region_contrast needs a mask, and so adds nothing for 80% of the images"
    )
