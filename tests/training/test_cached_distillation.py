"""The cache gives the targets of the teachers: every method, every view, to the rounding of half precision."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from segdistill.data.store import Store
from segdistill.data.views import Views, batches
from segdistill.distillation import METHODS, DistillationMethod, Teacher, create_method, create_weighting
from segdistill.distillation.base import weighted_terms
from segdistill.distillation.cache.entry import RECORDS, STATE, Layout
from segdistill.distillation.cache.filling import Filling, FillOptions, fill
from segdistill.distillation.cache.reading import LOGITS, TargetCache, Wanted, cache_facts
from segdistill.distillation.methods.soft_prediction import SoftPrediction
from segdistill.errors import InputError
from segdistill.losses import create_loss
from segdistill.models.network import Output
from segdistill.training.distillation import Distillation
from segdistill.training.loop import WEIGHTS, fit
from segdistill.training.settings import FitSettings
from tests.training.conftest import PREPROCESS, network, small_resnet

VIEWS = 2
CPU = torch.device("cpu")
GIGABYTE = 1e9
NOT_HERE = {
    "feature_similarity",
    "soft_label",
}  # need auto-encoders and a classifier: tested with their recipes


def make_views(store: Store, rows: int = 11) -> Views:
    return Views(store, store.ids[:rows], PREPROCESS, "light", seed=3, count=VIEWS)


def make_task(
    methods: dict[str, DistillationMethod],
    weights: torch.Tensor | None = None,
    weighting: str | None = None,
    **options: Any,
) -> Distillation:
    teachers = [Teacher("a", network(1), 0.5), Teacher("b", small_resnet(2), 0.2)]
    return Distillation(
        network(),
        create_loss("weight_balance"),
        teachers,
        torch.tensor([[0.5, 0.2]]).repeat(11, 1) if weights is None else weights,
        {name: (1.0, method) for name, method in methods.items()},
        weighting=create_weighting(weighting) if weighting else None,
        **options,
    )


def make_cache(task: Distillation, views: Views, folder: Path, **facts: Any) -> TargetCache:
    wanted = []
    for j, teacher in enumerate(task.teachers):
        rows = np.flatnonzero((task.teacher_weights[:, j] > 0).numpy())
        known = {"teacher": teacher.name, **facts}
        wanted.append(Wanted(j, LOGITS, "", SoftPrediction(), known | cache_facts(SoftPrediction()), rows))
        for name, (_, method) in task.methods.items():
            for term, (_, inner) in weighted_terms(1.0, method).items():
                wanted.append(Wanted(j, name, term, inner, known | cache_facts(inner), rows))
    return TargetCache(folder, views, VIEWS, wanted)


def filled(task: Distillation, views: Views, folder: Path, **facts: Any) -> tuple[TargetCache, list[Filling]]:
    cache = make_cache(task, views, folder, **facts)
    told = list(fill(cache, task.teachers, FillOptions(CPU, 4), GIGABYTE))
    return cache, told


def attach(cache: TargetCache, task: Distillation) -> None:
    cache.attach()
    task.read_cache = cache.read
    for teacher in task.teachers:
        teacher.network = torch.nn.Identity()  # running it fails now


def losses(task: Distillation, views: Views, epochs: int = 3) -> list[dict[str, float]]:
    """Of every batch; what is drawn at random is drawn alike."""
    found = []
    for epoch in range(epochs):
        for batch in batches(views, 4, epoch, workers=0):
            torch.manual_seed(0)
            parts = task.losses(batch, "student")
            assert parts is not None
            found.append({name: value.item() for name, value in parts.items()})
    return found


def assert_alike(online: list[dict[str, float]], cached: list[dict[str, float]]) -> None:
    for plain, kept in zip(online, cached, strict=True):
        assert list(plain) == list(kept)
        for name, value in plain.items():
            assert kept[name] == pytest.approx(value, rel=4e-3, abs=2e-4), name


@pytest.mark.parametrize("name", sorted(set(METHODS) - NOT_HERE))
def test_losses_are_those_of_the_teachers(name: str, store: Store, tmp_path: Path) -> None:
    views = make_views(store)
    online = losses(make_task({name: create_method(name)}), views)
    task = make_task({name: create_method(name)})
    cache, _ = filled(task, views, tmp_path)
    attach(cache, task)
    assert_alike(online, losses(task, views))
    assert len(online) == 9


@pytest.mark.parametrize("deviation", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_soft_predictions_in_half_precision(classes: int, temperature: float, deviation: float) -> None:
    """As docs/how-to/compare-methods.md states it, of one position's gradient at a logit, between -T and T."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, classes, 64, 64, generator=generator) * deviation for _ in range(2)]
    logits, method = draws[0] + draws[1] / 2, create_method("soft_prediction", temperature=temperature)
    live = method.targets(Output(draws[0], {}))
    layout = Layout.of(live)
    assert {item.kind for item in layout.items} == {"half"}
    losses, gradients = [], []
    for targets in (live, layout.unpack(torch.from_numpy(layout.pack(live)))):
        student = logits.clone().requires_grad_()
        loss = method(method.targets(Output(student, {})), targets)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss.sum(), student)[0] * 64 * 64 / temperature)
    assert 0 < (losses[0] - losses[1]).abs().max() < 5e-5
    difference = gradients[0] - gradients[1]
    assert difference.abs().max() < 4e-4
    assert difference.square().mean().sqrt() < 1.1e-4
    assert gradients[0].abs().max() > 0.1


def test_adaptive_weights_and_combined_predictions_are_read(store: Store, tmp_path: Path) -> None:
    def make() -> Distillation:
        methods = {name: create_method(name) for name in ("soft_prediction", "attention_transfer")}
        return make_task(methods, torch.ones(11, 2), "score", combine="predictions")

    online = losses(make(), make_views(store))
    task, views = make(), make_views(store)
    cache, _ = filled(task, views, tmp_path)
    attach(cache, task)
    cached = losses(task, views)
    assert {"a/weight", "b/weight", "combined/soft_prediction", "a/attention_transfer"} <= set(cached[0])
    assert_alike(online, cached)


def test_inactive_teachers_are_neither_run_nor_cached(store: Store, tmp_path: Path) -> None:
    weights = torch.zeros(11, 2)
    weights[:8, 0], weights[8:, 1] = 0.5, 0.2
    online = losses(make_task({"skd": create_method("skd")}, weights), make_views(store))
    task, views = make_task({"skd": create_method("skd")}, weights), make_views(store)
    cache, told = filled(task, views, tmp_path)
    assert [each.total for each in told if each.done == each.total and each.total] == [8 * VIEWS, 3 * VIEWS]
    attach(cache, task)
    assert_alike(online, losses(task, views))


def test_methods_share_what_they_have_in_common(store: Store, tmp_path: Path) -> None:
    views = make_views(store)
    filled(make_task({"soft_prediction": create_method("soft_prediction", temperature=4.0)}), views, tmp_path)
    before = sorted(tmp_path.iterdir())
    assert (
        len(before) == 2
    )  # one soft prediction of each teacher, whatever the temperature; the logits are the same
    _, told = filled(make_task({"emkd": create_method("emkd")}), views, tmp_path)
    assert told
    assert len(list(tmp_path.iterdir())) == len(before) + 4  # importance and affinity of each teacher
    assert filled(make_task({"emkd": create_method("emkd")}), views, tmp_path)[1] == []


def test_other_facts_find_nothing(store: Store, tmp_path: Path) -> None:
    views = make_views(store)
    task = make_task({"soft_prediction": create_method("soft_prediction")})
    filled(task, views, tmp_path, weights="abc")
    assert make_cache(task, views, tmp_path, weights="abc").is_filled
    assert not make_cache(task, views, tmp_path, weights="abd").is_filled
    fewer = make_task({"soft_prediction": create_method("soft_prediction")}, torch.eye(11)[:, :2] + 0.5)
    fewer.teacher_weights[10] = 0
    assert not make_cache(fewer, views, tmp_path, weights="abc").is_filled
    entry = next(tmp_path.iterdir())
    about = json.loads((entry / "entry.json").read_text())
    about["facts"]["weights"] = "a folder of the same name, of something else"
    (entry / "entry.json").write_text(json.dumps(about))
    assert not make_cache(task, views, tmp_path, weights="abc").is_filled


def contents(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob(f"*/{RECORDS}")}


def test_interrupted_filling_goes_on(store: Store, tmp_path: Path) -> None:
    views, task = make_views(store), make_task({"soft_prediction": create_method("soft_prediction")})
    filled(task, views, tmp_path / "whole")
    cache = make_cache(task, views, tmp_path / "broken")
    filling = fill(cache, task.teachers, FillOptions(CPU, 4), GIGABYTE)
    for _ in range(3):
        told = next(filling)
    filling.close()
    assert (told.done, told.total) == (8, 22)
    counts = [json.loads(path.read_text())["count"] for path in (tmp_path / "broken").glob(f"*/{STATE}")]
    assert counts == [8]
    for path in (tmp_path / "broken").glob(f"*/{RECORDS}"):
        with open(path, "ab") as file:
            file.write(b"half a record")  # as a kill leaves it
    again, told_again = filled(task, views, tmp_path / "broken")
    assert [each.done for each in told_again if each.total][:2] == [11, 15]  # batches end with the view
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    again.attach()


def test_damage_is_filled_again(store: Store, tmp_path: Path) -> None:
    views, task = make_views(store), make_task({"soft_prediction": create_method("soft_prediction")})
    filled(task, views, tmp_path)
    whole = contents(tmp_path)
    path = next(tmp_path.glob(f"*/{RECORDS}"))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    _, told = filled(task, views, tmp_path)
    assert (
        len([each for each in told if each.total]) == 6
    )  # one of the two teachers, 11 rows in batches of 4, twice
    assert contents(tmp_path) == whole
    path.write_bytes(bytes(content[:500]))
    with pytest.raises(InputError, match="is not complete: run the recipe again"):
        make_cache(task, views, tmp_path).attach()


def test_two_at_once_wait_for_each_other(store: Store, tmp_path: Path) -> None:
    views, task = make_views(store), make_task({"soft_prediction": create_method("soft_prediction")})
    filled(task, views, tmp_path / "baseline")
    first = fill(make_cache(task, views, tmp_path / "both"), task.teachers, FillOptions(CPU, 4), GIGABYTE)
    second = fill(make_cache(task, views, tmp_path / "both"), task.teachers, FillOptions(CPU, 4), GIGABYTE)
    next(first), next(first)
    assert next(second).text.startswith("teacher cache:")
    assert next(second).text.startswith("another run fills")
    assert [each.text for each in first][-1] == "caching targets of b"
    assert list(second) == []  # all was there by then
    assert contents(tmp_path / "both") == contents(tmp_path / "baseline")


def test_the_limit_is_checked_before_anything_is_written(store: Store, tmp_path: Path) -> None:
    views, task = make_views(store), make_task({"soft_prediction": create_method("soft_prediction")})
    record = 32 * 32 * 2 + 8  # half precision, one logit; and the power of two, padded
    need = 2 * 11 * VIEWS * record
    folder = tmp_path / "cache"
    with pytest.raises(InputError, match=r"set cache_limit_gb to 1, lower fit.views") as refused:
        list(fill(make_cache(task, views, folder), task.teachers, FillOptions(CPU, 4), need - 1))
    assert f"{need / 1e6:.1f} MB for 2 views of each image" in str(refused.value)
    assert contents(folder) == {}
    told = list(fill(make_cache(task, views, folder), task.teachers, FillOptions(CPU, 4), need))
    assert told[0].text == f"teacher cache: {need / 1e6:.1f} MB for 2 views of each image to fill in {folder}"
    assert sum(map(len, contents(folder).values())) == need


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the same error, from the same call, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_takes_nothing_away(store: Store, tmp_path: Path) -> None:
    views, task = make_views(store), make_task({"soft_prediction": create_method("soft_prediction")})
    other = make_task({"attention_transfer": create_method("attention_transfer")})
    filled(task, views, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    cache = make_cache(task, views, tmp_path / "cache")
    with small_disk(20_000), pytest.raises(InputError, match=r"free some space.*continues from there"):
        list(fill(cache, task.teachers, FillOptions(CPU, 4), GIGABYTE))
    kept = json.loads(next((tmp_path / "cache").glob(f"*/{STATE}")).read_text())["count"]
    assert kept == 8  # two batches of four records of 2056 bytes; the third did not fit
    assert [len(each) for each in contents(tmp_path / "cache").values()] == [kept * 2056]
    filled(task, views, tmp_path / "cache")
    assert contents(tmp_path / "cache") == whole
    with small_disk(5_000), pytest.raises(InputError):
        list(
            fill(make_cache(other, views, tmp_path / "cache"), other.teachers, FillOptions(CPU, 4), GIGABYTE)
        )
    assert make_cache(task, views, tmp_path / "cache").is_filled


def test_more_views_are_added_to_those_that_are_there(store: Store, tmp_path: Path) -> None:
    views, task = make_views(store), make_task({"soft_prediction": create_method("soft_prediction")})
    filled(task, views, tmp_path)
    before = contents(tmp_path)
    part = make_cache(task, views, tmp_path)
    more = TargetCache(tmp_path, views, VIEWS + 1, [slot.wanted for slot in part.slots])
    told = list(fill(more, task.teachers, FillOptions(CPU, 4), GIGABYTE))
    assert [each.done for each in told if each.total] == [26, 30, 33] * 2
    after = contents(tmp_path)
    assert all(after[name].startswith(content) for name, content in before.items())


def test_what_cannot_be_kept_is_named(store: Store, tmp_path: Path) -> None:
    class Restless(SoftPrediction):
        cacheable = False

    with pytest.raises(InputError, match=r"Restless cannot be cached, since .* set cache: false"):
        cache_facts(Restless())

    class Broken(SoftPrediction):
        def to_cache(self, output: Any, mask: Any = None, network: str = "") -> Any:
            return {"log_odds": torch.full_like(output.logits[:, :1], torch.nan)}

    task, views = make_task({"soft_prediction": Broken()}), make_views(store)
    wanted = [Wanted(0, "broken", "", Broken(), {}, np.arange(11))]
    with pytest.raises(
        InputError, match="method broken cannot be cached: its targets contain NaN or infinity"
    ):
        list(fill(TargetCache(tmp_path, views, VIEWS, wanted), task.teachers, FillOptions(CPU, 4), GIGABYTE))


def test_a_cached_training_resumes_and_runs_no_teacher(store: Store, tmp_path: Path, fabric: Fabric) -> None:
    """Two trainings that read one cache, one of them stopped in the middle of an epoch, end with the same bytes."""
    settings = FitSettings(
        epochs=3, batch_size=4, views=VIEWS, checkpoint_seconds=0.0, workers=0, precision="fp32"
    )
    held_out = Views(store, store.ids[11:], PREPROCESS, "none")

    def train(folder: Path, stop_after: int | None = None) -> None:
        views, task = make_views(store), make_task({"soft_prediction": create_method("soft_prediction")})
        cache, _ = filled(task, views, tmp_path / "cache")
        attach(cache, task)
        torch.manual_seed(0)
        training = fit(task, views, held_out, settings, folder, fabric)
        for number, _ in enumerate(training):
            if number == stop_after:
                training.close()  # type: ignore[attr-defined]
                return

    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    train(tmp_path / "whole")
    train(tmp_path / "broken", stop_after=4)
    assert not (tmp_path / "broken" / WEIGHTS).exists()
    train(tmp_path / "broken")
    assert (tmp_path / "broken" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
