from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from segdistill.data.case import Case
from segdistill.data.table import write_cases
from segdistill.errors import InputError
from segdistill.experiment.audit import audit, disagreement, looks_like
from segdistill.experiment.stage import load_stage
from segdistill.files import sha256_file
from segdistill.training.loop import WEIGHTS
from tests.experiment.tiny import segdistill

SIZE = 40


def disc(row: int, column: int, radius: int = 6) -> np.ndarray:
    y, x = np.indices((SIZE, SIZE))
    return np.asarray((y - row) ** 2 + (x - column) ** 2 <= radius**2)


SEEN = disc(20, 14)
SURE = np.where(SEEN, 0.98, 0.02).astype(np.float32)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros_like(SEEN), "empty mask"),
        (~SEEN, "inverted"),
        (disc(20, 30), "foreground elsewhere"),
        (disc(20, 18), "shifted outline"),
        (disc(20, 14, 10), "much larger than predicted"),
        (disc(20, 14, 4), "much smaller than predicted"),
        (SEEN, "other outline"),
    ],
)
def test_what_a_mask_looks_like(mask: np.ndarray, words: str) -> None:
    assert looks_like(mask, SEEN) == words


def test_wrong_masks_score_above_hard_cases() -> None:
    wrong = {
        "empty": disagreement(np.zeros_like(SEEN), SURE),
        "inverted": disagreement(~SEEN, SURE),
        "elsewhere": disagreement(disc(20, 30), SURE),
    }
    unsure = np.where(SEEN, 0.6, 0.4).astype(np.float32)
    hard = {
        "overlooked": disagreement(SEEN, np.full_like(SURE, 0.02)),
        "unsure": disagreement(disc(20, 30), unsure),
        "rim": disagreement(disc(20, 15), SURE),
    }
    assert min(wrong.values()) > 0.9 > 0.35 > max(hard.values())
    assert disagreement(SEEN, SURE) == 0
    volume = np.stack([SEEN, SEEN]), np.stack([SURE, SURE])
    assert disagreement(*volume) == disagreement(SEEN, SURE)


def test_score_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    mask, probability = rng.random((9, 9)) < 0.4, rng.random((9, 9)).astype(np.float32)
    extra = missed = 0.0
    for p, m in zip(probability.ravel().astype(float), mask.ravel(), strict=True):
        extra += (2 * p - 1) / (probability > 0.5).sum() if p > 0.5 and not m else 0
        missed += (1 - 2 * p) / mask.sum() if p <= 0.5 and m else 0
    assert disagreement(mask, probability) == pytest.approx(0.7 * extra + 0.3 * missed)


@pytest.fixture(scope="module")
def network(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stage whose network has learned to find bright discs."""
    folder = tmp_path_factory.mktemp("audit") / "net"
    shutil.copytree(run_folder / "stages" / "teacher", folder)
    stage = load_stage(folder)
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam(stage.network.train().parameters(), 0.02)
    for _ in range(80):
        masks = np.stack([disc(*rng.integers(9, 31, 2)) for _ in range(8)])
        pictures = np.stack([stage.preprocess.inputs(picture(mask, rng))[0] for mask in masks])
        logits = stage.network(torch.from_numpy(pictures)).logits
        target = torch.nn.functional.interpolate(torch.from_numpy(masks[:, None]).float(), logits.shape[2:])[
            :, 0
        ].long()
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, target).backward()
        optimiser.step()
    save_file(stage.network.state_dict(), folder / WEIGHTS)
    replace(stage.record, weights_sha256=sha256_file(folder / WEIGHTS)).write(folder)
    return folder


def picture(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(mask, 200, 60).astype(np.uint8) + rng.integers(0, 30, mask.shape, np.uint8)


def write_cases_of_discs(folder: Path, count: int = 20) -> list[Case]:
    """Pictures with masks; c0 has none of the disc, c1 is inverted, c2 is another's."""
    rng, cases = np.random.default_rng(1), []
    for number in range(count):
        mask = disc(*rng.integers(9, 31, 2))
        wrong = {0: mask & False, 1: ~mask, 2: np.roll(mask, SIZE // 2, axis=1)}.get(number, mask)
        for name, pixels in (("image", picture(mask, rng)), ("mask", wrong.astype(np.uint8) * 255)):
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
        image, drawn = folder / f"image{number}.png", folder / f"mask{number}.png"
        cases.append(Case(f"c{number}", image, (drawn,), foreground=(255,)))
    return cases


def write_run(folder: Path, cases: list[Case], stages: dict[str, Path], **settings: object) -> Path:
    """A run as training leaves it: of each stage the folder of a network."""
    for name, place in stages.items():
        shutil.copytree(place, folder / "stages" / name)
    parts = {name: {"model": {"name": "simplified_unet"}, **settings.get(name, {})} for name in stages}  # type: ignore[dict-item]
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "stages": parts}))
    write_cases(cases, folder / "cases.csv")
    return folder


def split(cases: list[Case], *names: str) -> list[Case]:
    return [replace(case, split=names[k % len(names)]) for k, case in enumerate(cases)]


@pytest.mark.slow
def test_wrong_masks_of_a_cross_validated_run_come_first(network: Path, tmp_path: Path) -> None:
    cases = write_cases_of_discs(tmp_path)
    for fold, names in ((1, ("test", "train")), (2, ("train", "test"))):
        write_run(tmp_path / "run" / f"fold-{fold}", split(cases, *names), {"net": network})
    (tmp_path / "run" / "folds.json").write_text('{"folds": 2, "finished": [1, 2]}')
    answer = segdistill("data", "audit", tmp_path / "run", "-o", tmp_path / "out", "--top", 6)
    assert answer.code == 0, answer.err
    with (tmp_path / "out" / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["case"]: row["looks_like"] for row in rows[:3]}
    assert found == {"c0": "empty mask", "c1": "inverted", "c2": "foreground elsewhere"}
    assert sorted(row["case"] for row in rows) == sorted(case.id for case in cases)
    assert {row["networks"] for row in rows} == {"1"}
    assert [row["rank"] for row in rows] == [str(k) for k in range(1, len(cases) + 1)]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert scores[2] > 2 * scores[3]
    assert Path(rows[0]["mask"]).is_file()
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        blue = (np.asarray(sheet.convert("RGB")) == (0, 176, 255)).all(axis=-1)
        assert sheet.size == (6 * 164 + 4, 160 + 14 + 8)
        assert blue.sum() > 100
    assert "fold-1/net: 10 cases with a mask that it did not train on" in answer.out
    write_cases([replace(case, masks=(tmp_path / "mask9.png",)) for case in cases], tmp_path / "right.csv")
    words = ["--table", tmp_path / "right.csv", "--json", "--top", 2, "-o", tmp_path / "out"]
    other = json.loads(segdistill("data", "audit", tmp_path / "run", *words).out)
    assert other["masks"] == len(cases)
    assert [row["rank"] for row in other["findings"]] == [1, 2]
    assert "c9" not in [row["case"] for row in other["findings"]]


def test_a_plain_run_is_audited_outside_its_training(network: Path, tmp_path: Path) -> None:
    cases = split(write_cases_of_discs(tmp_path), "train", "val", "test", "train")
    cases[1] = replace(cases[1], masks=())  # nothing to audit
    found = audit(write_run(tmp_path / "run", cases, {"net": network}))
    assert {row.case.id for row in found.findings} == {
        f"c{k}" for k in range(20) if k % 4 in (1, 2) and k != 1
    }
    assert found.unseen == 10
    assert found.notes == ["net: 9 cases with a mask that it did not train on"]


def test_out_of_fold_stages_audit_every_case(network: Path, tmp_path: Path) -> None:
    cases = split(write_cases_of_discs(tmp_path), "train", "train", "train", "test")
    names = ("teacher-fold-1", "teacher-fold-2")
    settings = {name: {"out_of_fold": {"fold": k, "folds": 2}} for k, name in enumerate(names, 1)}
    run = write_run(tmp_path / "run", cases, dict.fromkeys((*names, "other"), network), **settings)
    found, named = audit(run), audit(run, "teacher")
    assert found.unseen == 0
    assert len(found.findings) == len(cases)
    for row in found.findings:  # of a test case both did not see it
        assert row.networks == (1 if row.case.split == "train" else 2)
    assert [row.score for row in named.findings] == [row.score for row in found.findings]
    assert 0 < audit(run, "teacher-fold-1").unseen < len(cases)
    with pytest.raises(InputError, match="has no stage 'teach'"):
        audit(run, "teach")
    everything = write_run(tmp_path / "all", split(cases, "train"), {"net": network})
    with pytest.raises(InputError, match="every network trained on all cases"):
        audit(everything)


def test_bad_input(run_folder: Path, tmp_path: Path) -> None:
    assert "is not the folder of a run" in segdistill("data", "audit", tmp_path).line
    assert "did you mean 'student'" in segdistill("data", "audit", run_folder, "--stage", "studnet").line
    assert "--top must be at least 1" in segdistill("data", "audit", run_folder, "--top", 0).line
    (tmp_path / "recipe.yaml").write_text("stages: {a: {model: 3}}")
    (tmp_path / "cases.csv").write_text("id,image\n")
    with pytest.raises(InputError, match=r"recipe\.yaml is damaged"):
        audit(tmp_path)
