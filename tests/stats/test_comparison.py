from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest

from segdistill.errors import InputError
from segdistill.stats.bootstrap import bootstrap_mean
from segdistill.stats.comparison import (
    Training,
    Variant,
    compare_variants,
    find_verdicts,
    group_variants,
    kind_of,
    own_baselines,
    require_seeds,
)
from tests.stats.made_results import result


def training(name: str, lift: float = 0.0, count: int = 20, **facts: object) -> Training:
    """Scores of one training: the cases are as hard for every one, and some luck is its own."""
    variant, _, seed = name.partition("@")
    rng, own = np.random.default_rng(0), np.random.default_rng(zlib.crc32(name.encode()))
    scores = np.clip(rng.uniform(0.4, 0.8, count) + lift + own.normal(0, 0.01, count), 0, 1)
    rows = [result(f"c{k:02}", float(s), group=f"g{k // 2}") for k, s in enumerate(scores)]
    given = {
        "role": "student" if "kd" in name else "baseline",
        "network": "net",
        "settings": variant,
        "source": name,
    }
    return Training(variant, rows, int(seed) if seed else None, stage=name, **{**given, **facts})  # type: ignore[arg-type]


def seeds(cell: str, lift: float = 0.0, count: int = 3, **facts: object) -> list[Training]:
    return [training(f"{cell}@{s}", lift, **facts) for s in range(count)]


def test_seeds_of_a_cell_become_one_method() -> None:
    methods, notes = group_variants([*seeds("kd"), *seeds("baseline")])
    assert [(m.name, [t.seed for t in m.trainings]) for m in methods] == [
        ("kd", [0, 1, 2]),
        ("baseline", [0, 1, 2]),
    ]
    assert notes == []


def test_other_settings_are_another_method() -> None:
    two = [
        training("kd", settings="a", run="r1", source="r1:kd"),
        training("kd", settings="b", run="r2", source="r2:kd"),
    ]
    assert [m.name for m in group_variants(two)[0]] == ["r1:kd", "r2:kd"]
    same_run = [replace(t, run="r") for t in two]
    assert [m.name for m in group_variants(same_run)[0]] == ["r1:kd", "r2:kd"]


def test_the_same_training_twice_is_left_out_and_said() -> None:
    methods, notes = group_variants([training("kd", source="r1:kd"), training("kd", source="r2:kd")])
    assert len(methods[0].trainings) == 1
    assert "r2:kd" in notes[0]


def test_one_recipe_on_two_sets_of_cases_is_not_the_same_training_twice() -> None:
    again = training("kd", source="r2:kd", count=17)
    with pytest.raises(
        InputError, match=r"r1:kd and r2:kd were tested on different cases: 3 only in the first"
    ):
        group_variants([training("kd", source="r1:kd"), again])


def test_each_case_is_averaged_over_seeds_before_it_is_paired() -> None:
    (kd, alone), _ = group_variants([*seeds("kd", 0.1), *seeds("baseline")])
    (found,) = compare_variants([(kd, alone)])
    table = np.array(
        [[r.metrics["dice"] for r in t.results] for m in (kd, alone) for t in m.trainings]
    ).reshape(2, 3, 20)
    difference = table[0].mean(axis=0) - table[1].mean(axis=0)
    alone_again = bootstrap_mean(difference.tolist(), [f"g{k // 2}" for k in range(20)])
    assert (found.difference.mean, found.difference.low, found.difference.high) == pytest.approx(
        (alone_again.mean, alone_again.low, alone_again.high)
    )
    assert found.per_seed == pytest.approx(table.mean(axis=2)[0] - table.mean(axis=2)[1])
    assert found.outcome == "helps"
    assert found.same_student


def test_holm_counts_the_methods_against_one_baseline() -> None:
    methods, _ = group_variants(
        [*seeds("kd", 0.1), *seeds("kd_b"), *seeds("kd_c", 0.003), *seeds("baseline")]
    )
    found = compare_variants([(m, methods[3]) for m in methods[:3]])
    raw = [c.difference.p for c in found]
    assert [c.family for c in found] == [3, 3, 3]
    assert found[0].corrected == pytest.approx(3 * min(raw))  # type: ignore[type-var, operator]


def test_order_and_normal_images_do_not_matter() -> None:
    kd, alone = training("kd", 0.1), training("baseline")
    mixed = replace(alone, results=[result("n", 0.0, "normal"), *reversed(alone.results)])
    plain, turned = (compare_variants([(Variant("kd", (kd,)), Variant("b", (b,)))]) for b in (alone, mixed))
    assert plain == turned


def test_other_cases_are_counted() -> None:
    kd, alone = training("kd"), training("baseline", count=17)
    with pytest.raises(
        InputError, match=r"kd and baseline .* 3 only in the first, 0 only in the second \(such as 'c17'\)"
    ):
        compare_variants([(Variant("kd", (kd,)), Variant("baseline", (alone,)))])


def test_other_references_under_the_same_names_are_found() -> None:
    kd, alone = training("kd"), training("baseline")
    other = [replace(r, reference_area=0.2) if r.case == "c03" else r for r in alone.results]
    with pytest.raises(InputError, match="'c03' has another reference"):
        compare_variants([(Variant("kd", (kd,)), Variant("baseline", (replace(alone, results=other),)))])


def test_metrics_that_are_not_there() -> None:
    pair = [(Variant("kd", (training("kd"),)), Variant("baseline", (training("baseline"),)))]
    with pytest.raises(InputError, match=r"no metric 'dise' .* did you mean 'dice'"):
        compare_variants(pair, "dise")
    with pytest.raises(InputError, match="no metric 'hd95'"):
        compare_variants(pair, "hd95")
    empty = Variant("kd", (replace(training("kd"), results=[result("n", 0.0, "normal")]),))
    with pytest.raises(InputError, match="nothing to compare"):
        compare_variants([(empty, pair[0][1])])


def test_distances_of_two_units_are_not_compared() -> None:
    def with_distance(t: Training, unit: str) -> Variant:
        rows = [
            replace(r, metrics={**r.metrics, "hd95": 10 * r.metrics["dice"]}, unit=unit) for r in t.results
        ]
        return Variant(t.variant, (replace(t, results=rows),))

    (found,) = compare_variants(
        [(with_distance(training("kd", 0.1), "mm"), with_distance(training("baseline"), "mm"))], "hd95"
    )
    assert (found.higher_is_better, found.label, found.outcome) == (False, "mm HD95", "no evidence")
    with pytest.raises(InputError, match="mm and px"):
        compare_variants(
            [(with_distance(training("kd"), "mm"), with_distance(training("baseline"), "px"))], "hd95"
        )


def test_fewer_than_two_seeds_where_seeds_were_asked_for() -> None:
    methods, _ = group_variants([*seeds("kd"), training("baseline")])
    with pytest.raises(InputError, match="'baseline' has one seed and 'kd' has 3"):
        require_seeds(methods)
    methods, _ = group_variants([training("kd@1"), training("baseline")])
    with pytest.raises(InputError, match="'kd' has one seed: "):
        require_seeds(methods)
    require_seeds(
        group_variants([training("kd"), training("baseline")])[0]
    )  # not asked for: the words say it


def test_which_baseline_is_which() -> None:
    kd = Variant("kd", (training("kd", steps=100, seconds=60.0, run="r"),))
    steps = Variant("baseline", (training("baseline", steps=100, seconds=40.0, run="r"),))
    time = Variant("longer", (training("longer", steps=150, seconds=61.0, run="r"),))
    other = Variant("unet", (training("unet", steps=100, network="unet", run="r"),))
    away = Variant("baseline", (training("baseline", steps=100, run="elsewhere"),))
    assert [kind_of(kd, b) for b in (steps, time)] == ["equal steps", "equal time"]
    for seconds, kind in ((99.0, "more time"), (50.0, ""), (None, "")):
        assert kind_of(kd, Variant("baseline", (training("baseline", steps=170, seconds=seconds),))) == kind
    given = Variant("given", (training("given", steps=100, seconds=99.0, equal_time_to="kd"),))
    assert kind_of(kd, given) == "equal time"
    assert kind_of(Variant("at", (replace(kd.first, variant="at"),)), given) == "more time"
    assert own_baselines(kd, [kd, steps, time, other, away]) == [steps, time]
    assert own_baselines(kd, [other, away]) == [away]


def test_students_meet_their_own_baselines_and_others_only_where_there_is_none() -> None:
    kd = seeds("kd", 0.1)
    baseline, comparator = seeds("baseline"), seeds("unet", network="unet", role="comparator")
    teacher = seeds("teacher", role="teacher", network="big")

    def against(*trainings: list[Training]) -> list[tuple[str, str, bool]]:
        variants, _ = group_variants([t for part in trainings for t in part])
        return [(v.variant, v.baseline, v.same_student) for v in find_verdicts(variants)]

    assert against(teacher, kd, baseline, comparator) == [("kd", "baseline", True)]
    assert against(teacher, kd, comparator) == [("kd", "unet", False)]
    assert against(teacher, kd) == []
    other_cases = [replace(t, results=t.results[:9]) for t in baseline]
    assert against(kd, other_cases) == []
