"""Stages side by side: the same weights as one after the other, whatever happens to the processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from filelock import FileLock

from segdistill.config.load import load_recipe
from segdistill.data.store import Store
from segdistill.errors import InputError
from segdistill.experiment import folder as run_folder
from segdistill.experiment.cases import LoadedCases
from segdistill.experiment.events import Event
from segdistill.experiment.folder import JOBS, only_writer
from segdistill.experiment.jobs import Fold, Jobs, require_importable, side_by_side
from segdistill.experiment.machine import Machine
from segdistill.experiment.work import PreparedRun
from segdistill.experiment.worker import Job, Outcome
from segdistill.records import EvaluationRecord, FilesRecord
from segdistill.training.checkpoint import TrainingStopped
from segdistill.training.loop import STATE, WEIGHTS
from tests.experiment.tiny import RECIPE, command, process, segdistill, snapshot, surroundings, write_recipe

TEACHER, STUDENT = RECIPE["stages"]["teacher"], RECIPE["stages"]["student"]
BASELINE = {"model": STUDENT["model"]}
OTHER = {"model": {"name": "simplified_unet", "widths": [2, 2, 4]}}
SHORT = RECIPE["fit"] | {"epochs": 1}
PLUGIN = """
from segdistill import register_network
from segdistill.models.unet import SimplifiedUNet

@register_network("planted", "a network of a plugin")
class Planted(SimplifiedUNet):
    pass
"""


@dataclass
class Planned:
    """A worker that does nothing, and ends as it is told; it has ended when it is looked at for the second time."""

    job: Job
    found: Outcome | None
    looks: int = 0

    def events(self) -> list[Event]:
        return [Event(f"stage {self.job.stage}: look {self.looks}")]

    def has_ended(self) -> bool:
        self.looks += 1
        return self.looks > 1

    def outcome(self) -> Outcome | None:
        return self.found

    def loss(self) -> str:
        return "was killed by SIGKILL"

    def stop(self) -> None:
        self.looks = 1

    def kill(self) -> None:
        raise AssertionError("it has stopped")


@dataclass
class Played:
    """What came of a run whose jobs do nothing: jobs in the order of their start, and what ran beside each."""

    started: list[str] = field(default_factory=list)
    beside: list[set[str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def done(job: Job, number: int) -> Outcome | None:
    return Outcome()


def play(
    folder: Path,
    stages: dict[str, Any],
    count: int | None,
    end: Callable[[Job, int], Outcome | None] = done,
) -> Played:
    """Plays a run; `end` gives the outcome of a job that is started for the time `number`."""
    recipe = load_recipe(RECIPE | {"stages": stages, "export": None})
    cases = LoadedCases("none", [], [], [], "")
    prepared = PreparedRun(
        recipe, cases, FilesRecord(), "", cast(Store, None), recipe.data.preprocess(), folder
    )
    found, workers = Played(), list[Planned]()

    def start(job: Job) -> Planned:
        what = job.stage if job.task == "train" else f"time of {job.stage}"
        found.started.append(what)
        found.beside.append({worker.job.stage for worker in workers if worker.looks < 2})
        workers.append(Planned(job, end(job, found.started.count(what))))
        return workers[-1]

    def all_events() -> Iterator[Event]:
        jobs = Jobs(count, start=start, poll_seconds=0.0)
        lost = yield from side_by_side([Fold(prepared, list(stages))], jobs, Machine("cpu"))
        found.failed = lost.get(folder, {})

    found.told = [event.text for event in all_events()]
    assert not (folder / JOBS).exists()
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob(f"stages/*/{WEIGHTS}"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# the order, and what is told


def test_longest_chains_first_and_nothing_before_what_it_needs(tmp_path: Path) -> None:
    stages = {"other": OTHER, "teacher": TEACHER, "student": STUDENT, "last": OTHER}
    found = play(tmp_path, stages, 2)
    assert found.started == ["teacher", "other", "student", "last"]
    assert found.beside == [set(), {"teacher"}, set(), {"student"}]
    assert found.told[0].startswith("4 stages in processes of their own, at most 2 at once, ")
    assert "stage student: look 1" in found.told
    found = play(tmp_path, stages, None)
    assert found.started == ["teacher", "other", "last", "student"]
    assert found.beside == [set(), {"teacher"}, {"teacher", "other"}, set()]


def test_a_student_waits_for_its_baseline_whether_that_fails_or_not(tmp_path: Path) -> None:
    seeds = {f"baseline@{seed}": BASELINE | {"seed": seed} for seed in (0, 1)}
    stages = {"teacher": TEACHER, "student": STUDENT, "other": OTHER, **seeds}
    assert play(tmp_path, stages, 1).started == ["teacher", "baseline@0", "student", "other", "baseline@1"]
    found = play(tmp_path, stages, 1, lambda job, _: None if job.stage == "baseline@0" else Outcome())
    assert found.started == ["teacher", *3 * ["baseline@0"], "student", "other", "baseline@1"]
    assert list(found.failed) == ["baseline@0"]
    continued = stages | {"baseline@0": BASELINE | {"starts_from": "student"}}  # then it cannot wait
    assert play(tmp_path, continued, 1).started[:2] == ["teacher", "other"]
    assert set(play(tmp_path, continued, 2).started) == set(continued)


def test_equal_time_is_measured_alone_and_once_for_all_seeds(tmp_path: Path) -> None:
    timed = BASELINE | {"equal_time_to": "student", "variant": "timed"}
    both = {f"timed@{seed}": timed | {"seed": seed} for seed in (0, 1)}
    found = play(tmp_path, {"teacher": TEACHER, "student": STUDENT, **both}, 4)
    assert found.started == ["teacher", "student", "time of timed@0", "timed@0", "timed@1"]
    assert found.beside == [set(), set(), set(), set(), {"timed@0"}]


def test_each_process_has_its_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    cpu = torch.device("cpu")
    assert [Jobs(n).threads for n in (1, 2, 4, 7)] == [6, 3, 1, 1]
    assert [Jobs(n).spare_threads(cpu) for n in (1, 2, 4, 7)] == [6, 3, 2, 0]
    assert Jobs(None, on_this_machine=False).threads is None


# what can happen to a process


def test_a_lost_process_is_started_again_twice_at_most(tmp_path: Path) -> None:
    stages = {"teacher": TEACHER, "student": STUDENT, "baseline": BASELINE}
    found = play(tmp_path, stages, 2, lambda job, _: None if job.stage == "teacher" else Outcome())
    assert sorted(found.started) == ["baseline", "teacher", "teacher", "teacher"]
    assert found.told.count("stage teacher: its process was killed by SIGKILL: it is started again") == 2
    assert "stage student: skipped, since it needs teacher" in found.told
    assert found.failed["student"] == "it needs teacher"
    assert found.failed["teacher"].startswith("its process was killed by SIGKILL, 3 times: ")
    found = play(tmp_path, stages, 2, lambda job, number: None if number == 1 else Outcome())
    assert found.started.count("student") == 2
    assert found.failed == {}


def test_a_lost_measurement_fails_its_stages(tmp_path: Path) -> None:
    timed = BASELINE | {"equal_time_to": "student", "variant": "timed"}
    both = {f"timed@{seed}": timed | {"seed": seed} for seed in (0, 1)}
    stages = {"teacher": TEACHER, "student": STUDENT, **both}
    found = play(tmp_path, stages, 4, lambda job, _: None if job.task == "measure" else Outcome())
    assert list(found.failed) == ["timed@0", "timed@1"]
    assert found.failed["timed@1"] == "it needs timed@0"


def test_a_stage_that_may_fail_and_one_that_may_not(tmp_path: Path) -> None:
    stages = {
        "wild": TEACHER | {"may_fail": True},
        "taught": STUDENT | {"teachers": {"wild": {}}},
        "baseline": BASELINE,
    }
    bad = Outcome("stopped", "loss is NaN")
    found = play(tmp_path, stages, 3, lambda job, _: bad if job.stage == "wild" else Outcome())
    assert found.failed == {"wild": "loss is NaN", "taught": "it needs wild"}
    assert "stage wild: failed: loss is NaN" in found.told
    with pytest.raises(TrainingStopped, match="loss is NaN"):
        play(tmp_path, stages, 3, lambda job, _: bad if job.stage == "baseline" else Outcome())
    wrong = Outcome("input", "no such case")
    with pytest.raises(InputError, match="no such case"):  # as in one process: only NaN and memory may fail
        play(tmp_path, stages, 3, lambda job, _: wrong if job.stage == "wild" else Outcome())


def test_errors_of_a_process_are_those_of_the_run() -> None:
    with pytest.raises(InputError, match="too little memory"):
        Outcome.of(MemoryError()).reraise()
    with pytest.raises(InputError, match=r"a\.png: No such file"):
        Outcome.of(FileNotFoundError(2, "No such file", "a.png")).reraise()
    with pytest.raises(RuntimeError, match="KeyError: 'x'"):
        Outcome.of(KeyError("x")).reraise()


def test_a_job_that_works_on_keeps_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of a cluster outlives the command; until it ends the folder is taken."""
    monkeypatch.setattr(run_folder, "SECONDS_TO_END", 0.1)
    (tmp_path / JOBS / "a").mkdir(parents=True)
    with FileLock(tmp_path / JOBS / "a" / "net.lock"):
        for _ in range(2):
            with (
                pytest.raises(InputError, match="a job of an earlier call still trains stage net"),
                only_writer(tmp_path),
            ):
                pass
    with only_writer(tmp_path):
        assert not list(tmp_path.glob(f"{JOBS}*"))


# refusals


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--jobs", "0"), "--jobs 0 trains nothing: use at least 1"),
        (
            ("--jobs", "2", "--devices", "2"),
            "--jobs 2 trains each stage on one device, not on 2: use --devices 1",
        ),
        (("--cluster-option", "mem_gb=2"), "--cluster-option mem_gb is for --cluster: add --cluster slurm"),
        (("--cluster", "slum"), "unknown cluster 'slum': choose slurm or local"),
    ],
)
def test_refused(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    before = snapshot(tmp_path)
    answer = segdistill("run", "demo", "--out", tmp_path / "runs" / "r", *words)
    assert answer.code == 2
    assert answer.line.startswith(line)
    assert snapshot(tmp_path) == before


def test_without_submitit_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    answer = segdistill("run", "demo", "--out", tmp_path / "r", "--cluster", "slurm")
    assert answer.code == 2
    assert answer.line == "--cluster slurm needs the extra 'cluster': pip install 'segdistill[cluster]'"


def test_options_of_a_cluster_are_checked_first(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    for option, line in (
        ("partition=gpu", "--cluster-option: NameError: Unknown argument 'partition' for executor 'local'"),
        ("timeout_min=soon", '--cluster-option: AssertionError: Parameter "timeout_min" expected type'),
    ):
        answer = segdistill(
            "run", "demo", "--out", tmp_path / "r", "--cluster", "local", "--cluster-option", option
        )
        assert answer.code == 2
        assert answer.line.startswith(line)


def test_parts_of_a_script_cannot_be_imported_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from segdistill.models.registry import NETWORKS

    class Mine(torch.nn.Module):
        pass

    Mine.__module__ = "__main__"
    monkeypatch.setattr(NETWORKS, "_parts", {**NETWORKS._parts})
    NETWORKS.register("mine", "")(Mine)
    recipe = load_recipe({"stages": {"net": {"model": {"name": "mine"}}}})
    with pytest.raises(
        InputError, match=r"the network mine is defined in the script itself.*plugins=\[FILE\]"
    ):
        require_importable(recipe)


# real processes


@pytest.mark.usefixtures("brief")
@pytest.mark.slow
def test_stages_side_by_side_have_the_weights_of_one_after_the_other(
    tmp_path: Path, one_thread: None
) -> None:
    """One of them is a network of a plugin, which its process must load; it fails there, and is listed."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    wild = {"model": {"name": "planted"}, "may_fail": True, "fit": {"optimizer": {"name": "sgd", "lr": 1e30}}}
    stages = {"baseline": BASELINE, "wild": wild}
    path = write_recipe(tmp_path, stages=stages, fit=SHORT, export=None, plugins=["mine.py"])
    one, two = tmp_path / "one" / "tiny", tmp_path / "two" / "tiny"
    before = segdistill("run", path, "--device", "cpu", "--out", one)
    answer = segdistill("run", path, "--device", "cpu", "--out", two, "--jobs", "2")
    assert answer.code == before.code == 4, answer.err
    assert answer.line == before.line
    assert "stage baseline: 5/5  epoch 1/1" in answer.err
    assert weights(one) == weights(two)
    assert list(weights(two)) == [f"stages/baseline/{WEIGHTS}"]
    stage = Path("stages") / "baseline"
    assert (two / stage / "metrics.csv").read_bytes() == (one / stage / "metrics.csv").read_bytes()
    evaluated = EvaluationRecord.read(two / stage)
    assert evaluated is not None
    assert evaluated.cost.ms  # measured at the end, when nothing else runs
    assert not list(two.glob(f"{JOBS}*"))


@pytest.mark.slow
def test_folds_side_by_side(tmp_path: Path, one_thread: None) -> None:
    stages = {"teacher": TEACHER, "student": STUDENT}
    path = write_recipe(tmp_path, stages=stages, fit=SHORT, export=None, folds=2)
    one, two = tmp_path / "one" / "tiny", tmp_path / "two" / "tiny"
    assert segdistill("run", path, "--device", "cpu", "--out", one).code == 0
    answer = segdistill("run", path, "--device", "cpu", "--out", two, "--jobs", "3")
    assert answer.code == 0, answer.err
    assert "over 2 folds" in answer.out
    assert re.search(r"fold 2 of 2: stage student: (\d+)/\1 ", answer.err)
    assert len(weights(two)) == 4
    assert weights(two) == weights(one)
    again = segdistill("run", path, "--device", "cpu", "--out", two, "--jobs", "2")
    assert again.code == 0, again.err
    assert again.err.count("finished before, nothing changed") == 4
    again = segdistill("run", path, "--device", "cpu", "--out", two, "--set", "evaluation.threshold=0.4")
    assert again.code == 0, again.err
    assert again.err.count("finished before, nothing changed") == 4


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A recipe that takes some seconds, and its weights."""
    base = tmp_path_factory.mktemp("long")
    stages = {"teacher": TEACHER, "baseline": BASELINE}
    path = write_recipe(base, stages=stages, fit=RECIPE["fit"] | {"epochs": 40}, export=None)
    answer = process("run", path, "--device", "cpu", "--out", base / "whole" / "tiny")
    assert answer.code == 0, answer.err
    return path, weights(base / "whole" / "tiny")


def begin(recipe: Path, folder: Path) -> subprocess.Popen[str]:
    """Starts a run of two jobs, and waits until both have a checkpoint."""
    run = subprocess.Popen(
        command("run", recipe, "--device", "cpu", "--out", folder, "--jobs", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while run.poll() is None and len(list(folder.glob(f"stages/*/{STATE}"))) < 2:
        time.sleep(0.02)
    assert run.poll() is None, run.communicate()[1]
    return run


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.exists():
        pytest.skip("needs /proc")
    return [int(each) for each in listed.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupted", "killed", "process killed"])
def test_whatever_is_stopped_continues_to_the_same_weights(
    long_run: tuple[Path, dict[str, bytes]], tmp_path: Path, how: str
) -> None:
    (recipe, whole), broken = long_run, tmp_path / "broken" / "tiny"
    run = begin(recipe, broken)
    workers = children(run.pid)
    assert len(workers) == 2
    if how == "process killed":
        os.kill(workers[0], signal.SIGKILL)
        err = run.communicate()[1]
        assert run.returncode == 0, err
        assert err.count("its process was killed by SIGKILL: it is started again") == 1
    else:
        run.send_signal(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
        began = time.monotonic()
        err = run.communicate()[1]
        while any(map(is_alive, workers)) and time.monotonic() - began < 20:
            time.sleep(0.05)
        assert not any(map(is_alive, workers))
        if how == "interrupted":
            assert run.returncode == 130
            assert err.splitlines()[-1] == "segdistill: interrupted; run the same command again to continue"
            assert not list(broken.glob("stages/*/.*"))
        answer = process("run", recipe, "--device", "cpu", "--out", broken)
        assert answer.code == 0, answer.err
    assert weights(broken) == whole


@pytest.mark.slow
def test_jobs_of_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    path = write_recipe(tmp_path, fit=SHORT)
    one, two = tmp_path / "one" / "tiny", tmp_path / "two" / "tiny"
    assert process("run", path, "--device", "cpu", "--out", one).code == 0
    words = ("--cluster", "local", "--cluster-option", "timeout_min=30")
    answer = process("run", path, "--device", "cpu", "--out", two, *words)
    assert answer.code == 0, answer.err
    assert "stage student: submitted as job " in answer.err
    assert "stage student: 5/5" in answer.err
    assert weights(two) == weights(one)
    assert not list(two.glob(f"{JOBS}*"))


SLURM = {
    "sbatch": """
for last; do :; done
cat "$last" >> "$STAND_IN/submitted"
export SLURM_JOB_ID=$$ SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
sh "$last" > /dev/null 2>&1 &
echo "Submitted batch job $$"
""",
    "srun": """
while [ "${1#--}" != "$1" ]; do
  case "$1" in --output|--error) shift 2;; *) shift;; esac
done
exec "$@"
""",
    "sacct": "echo 'JobID|State|NodeList'",
    "scancel": "exit 0",
}
"""Scripts in place of Slurm's commands: a job is a process."""


@pytest.mark.slow
def test_jobs_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    for name, script in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path, folder = write_recipe(tmp_path, fit=SHORT), tmp_path / "runs" / "tiny"
    words = ("--cluster", "slurm", "--cluster-option", "partition=small", "--cluster-option", "mem_gb=2")
    answer = process("run", path, "--device", "cpu", "--out", folder, *words)
    assert answer.code == 0, answer.err
    told = (
        "phantom:",
        "preparing",
        "checking",
        "2 stages",
        "stage",
        "evaluating",
        "writing",
        "exporting",
        "done:",
    )
    assert [line for line in answer.err.splitlines() if not line.startswith(told)] == []
    assert "stage student: submitted as job " in answer.err
    assert list(weights(folder)) == [f"stages/{name}/{WEIGHTS}" for name in ("student", "teacher")]
    submitted = (tmp_path / "submitted").read_text()
    for line in ("--partition=small", "--mem=2GB", "--time=1440"):
        assert submitted.count(f"#SBATCH {line}\n") == 2


def test_where_slurm_is_not(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    if shutil.which("srun"):
        pytest.skip("here it is")
    answer = segdistill("run", "demo", "--out", tmp_path / "r", "--cluster", "slurm")
    assert answer.code == 2
    assert answer.line.startswith("no Slurm here (RuntimeError: Could not detect")
