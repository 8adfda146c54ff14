"""What recipes say of volumes, patches, sites, seeds and evaluation; and that older runs stay valid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segdistill.config.load import load_recipe
from segdistill.config.schema import DataRecipe, parse_recipe
from segdistill.data.case import Case
from segdistill.data.phantom import write_phantom
from segdistill.errors import InputError
from segdistill.experiment.cases import load_cases
from segdistill.experiment.check import check_parts, require_cases
from segdistill.experiment.inputs import StageInputs
from segdistill.experiment.machine import Machine
from segdistill.experiment.run import run_recipe
from segdistill.files import sha256_file
from segdistill.imaging.intensity import CT, MR
from segdistill.imaging.preprocess import Preprocess
from segdistill.training.loop import WEIGHTS
from tests.experiment.tiny import segdistill, write_recipe


def recipe(data: Any = None, evaluation: Any = None, **stage: Any) -> Any:
    net = {"model": {"name": "simplified_unet", "widths": [2, 4, 4]}} | stage
    content: dict[str, Any] = {"name": "r", "stages": {"net": net}}
    return parse_recipe(
        content
        | ({"data": data} if data is not None else {})
        | ({"evaluation": evaluation} if evaluation is not None else {}),
        "r.yaml",
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"intensity": "mri"}, "data.intensity: unknown intensity 'mri': use ct, mr, range"),
        ({"intensity": {"kind": "window", "low": 5, "high": 5}}, "needs low below high"),
        ({"intensity": {"kind": "window", "hihg": 5}}, "may have kind, low and high, nothing else"),
        ({"intensity": 3}, "may have kind, low and high"),
        (
            {"patches": {"count": 4, "size": 256}, "size": 128},
            "size is 128 and patches.size is 256, but the network sees patches",
        ),
        ({"patches": {"count": 0, "size": 256}}, "data.patches.count"),
        ({"patches": {"count": 4, "sice": 256}}, "did you mean 'size'"),
        ({"sites": []}, "data.sites"),
        ({"skip_empty": "yes"}, "data.skip_empty"),
        ({"intensty": "ct"}, "did you mean 'intensity'"),
    ],
)
def test_what_data_may_not_say(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe(data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"metrics": ["hd59"]}, "unknown metric 'hd59': did you mean 'hd95'"),
        ({"threshold": 1.0}, "evaluation.threshold"),
        ({"threshold": 0.0}, "evaluation.threshold"),
        ({"pooled": 1}, "evaluation.pooled"),
        ({"metric": ["hd95"]}, "did you mean 'metrics'"),
    ],
)
def test_what_evaluation_may_not_say(evaluation: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe(evaluation=evaluation)
    assert message in str(caught.value)


def test_what_the_network_sees() -> None:
    assert DataRecipe().preprocess() == Preprocess((256, 256))
    ct = DataRecipe(intensity="ct", channels=1).preprocess()
    assert (ct.intensity, ct.mean, ct.std) == (CT, (0.5,), (0.5,))
    mr = DataRecipe(intensity="mr").preprocess()
    assert (mr.intensity, mr.mean, mr.std) == (MR, (3 / 8,), (1 / 8,))
    own = DataRecipe(intensity={"kind": "window", "low": -100, "high": 300}).preprocess().intensity
    assert own is not None
    assert (own.low, own.high) == (-100, 300)
    patched = recipe({"patches": {"count": 4, "size": 64}}).data
    assert patched.size == 64
    again = parse_recipe(recipe({"patches": {"count": 4, "size": 64}}).model_dump(mode="json"), "again")
    assert again.data == patched


def inputs(of: Any, cases: list[Case], folder: Path) -> StageInputs:
    store: Any = SimpleNamespace(folder=Path("store-abc"))
    return StageInputs(of, "net", cases, store, of.data.preprocess(), folder)


def table() -> list[Case]:
    cases = []
    for k in range(6):
        split = "val" if k == 5 else "train"
        site = "A" if k < 3 else "B"
        cases.append(Case(str(k), Path(f"{k}.png"), (Path(f"{k}_mask.png"),), site=site, split=split))
    return cases


def test_what_changes_a_fingerprint(tmp_path: Path) -> None:
    plain = inputs(recipe(), table(), tmp_path).fingerprint("32-true")
    changed = [
        recipe({"skip_empty": True}),
        recipe({"intensity": "range"}),
        recipe(sites=["A"]),
        recipe(seed=1),
    ]
    prints = [inputs(one, table(), tmp_path).fingerprint("32-true") for one in changed]
    assert len({plain, *prints}) == 5
    same = [
        recipe(seed=0),
        recipe(sites=["A", "B"]),
        recipe(evaluation={"pooled": True, "threshold": 0.4, "metrics": ["hd95"]}),
    ]
    assert {inputs(one, table(), tmp_path).fingerprint("32-true") for one in same} == {plain}


def test_a_stages_sites_are_those_it_trains_on(tmp_path: Path) -> None:
    some = inputs(recipe(sites=["A"]), table(), tmp_path)
    assert [case.id for case in some.of("train")] == ["0", "1", "2"]
    assert some.of("val") == []
    require_cases(some.recipe, "net", table())
    with pytest.raises(InputError) as caught:
        require_cases(recipe(sites=["A", "C"]), "net", table())
    assert (
        str(caught.value) == "stage net: no training case of site 'C' has a mask (training cases: A: 3, B: 2)"
    )
    bare = [replace(case, site="") for case in table()]
    with pytest.raises(InputError, match=r"site 'A' has a mask \(training cases: \(none\): 5\)"):
        require_cases(recipe(sites=["A"]), "net", bare)


def test_a_stages_seed_stands_in_for_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.experiment.run.export_stage", lambda *_: None)
    monkeypatch.setattr("segdistill.experiment.run.report_run", lambda *_: ([], {}))
    path = str(write_recipe(tmp_path))
    found = []
    for k, changes in enumerate((["seed=3"], ["stages.teacher.seed=3"], [])):
        folder = tmp_path / str(k)
        loaded = load_recipe(path, [*changes, "epochs=1"])
        list(run_recipe(loaded, None, folder, Machine("cpu"), ["teacher"]))
        found.append(sha256_file(folder / "stages" / "teacher" / WEIGHTS))
    assert found[0] == found[1] != found[2]


def test_data_of_some_sites_only(tmp_path: Path) -> None:
    from segdistill.data.table import read_cases, write_cases

    cases = [
        replace(case, site="AB"[k % 2], split=("train", "test")[k // 20])
        for k, case in enumerate(write_phantom(tmp_path / "d", 40, size=32))
    ]
    write_cases(cases, tmp_path / "cases.csv")
    found = load_cases(DataRecipe(sites=["B"]), tmp_path / "cases.csv", tmp_path / "run")
    assert {case.site for case in found.cases} == {"B"}
    assert len(found.cases) == len(read_cases(tmp_path / "cases.csv")) / 2
    with pytest.raises(InputError, match="no case is of the site 'C': known: A, B"):
        load_cases(DataRecipe(sites=["C"]), tmp_path / "cases.csv", tmp_path / "run")
    with pytest.raises(InputError, match=r"data\.intensity is for volumes, and cases holds pictures"):
        load_cases(DataRecipe(intensity="ct"), tmp_path / "cases.csv", tmp_path / "run")


def test_made_up_images_take_no_folder(tmp_path: Path) -> None:
    write_phantom(tmp_path / "own", 30, size=32)
    answer = segdistill("run", write_recipe(tmp_path), "--data", tmp_path / "own", "--out", tmp_path / "r")
    assert answer.code == 2
    assert "the dataset phantom draws its own images" in answer.line
    assert "--set dataset=folder" in answer.line


def test_pretrained_weights_are_looked_for_before_training(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    with pytest.raises(InputError, match=r"stage net: no weights file .*weights\.pth: check the path"):
        check_parts(recipe(model={"name": "resnet_attention_unet", "pretrained": str(weights)}), ["net"])
    weights.write_bytes(b"anything")
    model = {"name": "resnet_attention_unet", "pretrained": str(weights)}
    with pytest.raises(InputError, match=r"weights\.pth is damaged or no file of plain weights"):
        check_parts(recipe(model=model), ["net"])
    with pytest.raises(InputError, match=r"stage net: .* does not have the SHA-256 0123456789"):
        check_parts(recipe(model=model | {"sha256": "0123456789"}), ["net"])
    check_parts(recipe(model=model | {"pretrained": "https://host.invalid/w-01234567.pth"}), ["net"])
