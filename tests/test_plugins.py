"""Parts from outside, and whose code runs: that which a recipe to run or --plugins names, and no other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segdistill import plugins
from segdistill.errors import InputError
from segdistill.models.registry import NETWORKS
from segdistill.records import StageRecord
from tests.experiment.tiny import RECIPE, Answer, segdistill, surroundings

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "segdistill-example-plugin"
NETWORK = """
from pathlib import Path
from torch import nn
from segdistill import register_network
from segdistill.models.network import Network, Output

Path(__file__).with_suffix(".ran").touch()

@register_network("mine_net", "one convolution")
class Mine(Network):
    def __init__(self, in_channels: int = 3, classes: int = 2, *, bias: bool = True) -> None:
        super().__init__(in_channels, classes)
        self.head = nn.Conv2d(in_channels, classes, 1, bias=bias)

    def forward(self, image):
        self.check(image)
        return Output(self.head(image), {})
"""


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that a test registers, and code that it names, are forgotten afterwards."""
    monkeypatch.setattr(plugins, "_named", set())
    monkeypatch.setattr(NETWORKS, "_parts", {name: NETWORKS[name] for name in list(NETWORKS)})


def forget(name: str) -> None:
    """As in a process that has not run the plugin."""
    plugins._named.clear()
    del NETWORKS._parts[name]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "mine.py"
    path.parent.mkdir()
    path.write_text(NETWORK)
    return path


def recipe(folder: Path, **student: Any) -> Path:
    """A recipe with one small stage."""
    path = folder / "r.yaml"
    content = {
        **{key: RECIPE[key] for key in ("data", "fit")},
        "name": "r",
        "stages": {"net": {"model": student.pop("model", {"name": "simplified_unet", "widths": [2, 4]})}},
        "export": "net",
        **student,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def run(path: Path, *words: object) -> Answer:
    return segdistill("run", path, "--device", "cpu", "--out", path.parent / "run", *words)


def test_a_file_named_by_the_recipe_is_run_and_its_network_trained(tmp_path: Path, mine: Path) -> None:
    path = recipe(tmp_path, plugins=["code/mine.py"], model={"name": "mine_net", "bias": False})
    done = run(path)
    assert done.code == 0, done.err
    assert mine.with_suffix(".ran").exists()
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["plugins"] == [str(mine)]
    listed = json.loads(segdistill("list", "networks", "mine_net", "--json").out)
    assert listed["options"]["bias"] == {"type": "bool", "default": True}
    places = {"run": tmp_path / "run", "tmp": tmp_path, "picture": picture(tmp_path / "run")}
    for words in OPENING:
        forget("mine_net")
        mine.with_suffix(".ran").unlink()
        refused = segdistill(*(word.format(**places) for word in words))
        assert refused.code == 2
        assert "network 'mine_net', which is not part of segdistill" in refused.line
        assert f"add --plugins {mine}" in refused.line
        assert not mine.with_suffix(".ran").exists()
        allowed = segdistill(*(word.format(**places) for word in words), "--plugins", mine)
        assert allowed.code == 0, allowed.err
        assert mine.with_suffix(".ran").exists()


OPENING: tuple[tuple[str, ...], ...] = (
    ("evaluate", "{run}"),
    ("export", "{run}", "-o", "{tmp}/x.onnx"),
    ("predict", "{run}", "{picture}", "-o", "{tmp}/p"),
)


def test_plugins_on_the_command_line(tmp_path: Path, mine: Path) -> None:
    assert "unknown network 'mine_net'" in run(recipe(tmp_path, model={"name": "mine_net"})).line
    assert run(tmp_path / "r.yaml", "--plugins", mine).code == 0
    assert "mine_net" in segdistill("list", "networks").out
    assert "mine_net" in segdistill("complexity", "mine_net", "--input", "1x8x8").out
    missing = segdistill("list", "networks", "--plugins", tmp_path / "none.py")
    assert missing.line == f"no plugin file {tmp_path / 'none.py'}: check the path"
    (tmp_path / "bad.py").write_text("1 / 0")
    broken = segdistill("list", "networks", "--plugins", tmp_path / "bad.py")
    assert broken.line.startswith(f"plugin {tmp_path / 'bad.py'} cannot be loaded (ZeroDivisionError")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; copy it before you change it."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(recipe(folder))
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def theirs(whole: Path, tmp_path: Path) -> Path:
    """A run folder from somebody else, whose files try to create `ran`."""
    folder = Path(shutil.copytree(whole / "run", tmp_path / "run"))
    shutil.copy(whole / "r.yaml", tmp_path)
    code = tmp_path / "evil.py"
    code.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    content = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"plugins": [str(code)]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder


def picture(folder: Path) -> Path:
    return next(folder.glob("phantom*/images/*.png"))


def name_network(folder: Path, **network: Any) -> None:
    record = StageRecord.read(folder / "stages" / "net")
    assert record is not None
    replace(record, network=network).write(folder / "stages" / "net")


def test_plugins_in_the_recipe_of_a_folder_never_run(theirs: Path, tmp_path: Path) -> None:
    table = theirs / "cases.csv"
    for words in (
        ("evaluate", theirs),
        ("evaluate", theirs / "model.onnx", table),
        ("export", theirs, "-o", tmp_path / "x.onnx"),
        ("predict", theirs, picture(theirs), "-o", tmp_path / "p"),
        ("compare", theirs),
        ("reproduce", "lightbtseg", "--runs", tmp_path),
        ("data", "check", table),
        ("run", tmp_path / "r.yaml", "--device", "cpu", "--out", theirs),
    ):
        answer = segdistill(*words)
        assert answer.code == (2 if words[0] == "compare" else 0), answer.err  # there is no baseline
        assert not (tmp_path / "ran").exists(), words


@pytest.mark.parametrize(
    "network",
    [
        {"name": "external", "target": "subprocess:getoutput", "arguments": {"cmd": "touch {ran}"}},
        {"name": "subprocess:getoutput", "arguments": {"cmd": "touch {ran}"}},
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "export", "predict", "run"])
def test_a_network_that_a_folder_names_is_refused(
    command: str, network: dict[str, Any], theirs: Path, tmp_path: Path
) -> None:
    ran = {"arguments": {"cmd": network["arguments"]["cmd"].format(ran=tmp_path / "ran")}}
    name_network(theirs, **{**network, **ran})
    (theirs / "stages" / "net" / "evaluation.json").unlink()  # else nothing of the stage is loaded again
    words = {
        "evaluate": (theirs, theirs / "cases.csv"),
        "export": (theirs, "-o", tmp_path / "x.onnx"),
        "predict": (theirs, picture(theirs), "-o", tmp_path / "p"),
        "run": (tmp_path / "r.yaml", "--device", "cpu", "--out", theirs),
    }
    refused = segdistill(command, *words[command])
    assert refused.code == 2
    assert "stage.json names code that is not part of segdistill, subprocess:getoutput" in refused.line
    assert refused.line.endswith("if you trust it, add --plugins subprocess")
    assert not (tmp_path / "ran").exists()
    named = segdistill(command, *words[command], "--plugins", "subprocess")
    assert named.code == 2  # it is no network
    assert (tmp_path / "ran").exists()


def test_python_functions_refuse_as_the_commands_do(theirs: Path, tmp_path: Path) -> None:
    import segdistill as front

    name_network(theirs, name="subprocess:getoutput", arguments={"cmd": f"touch {tmp_path / 'ran'}"})
    for call in (
        lambda: front.load_model(theirs),
        lambda: front.evaluate(theirs),
        lambda: front.predict(theirs, picture(theirs), tmp_path / "p"),
    ):
        with pytest.raises(InputError, match="names code that is not part of segdistill"):
            call()
    assert not (tmp_path / "ran").exists()


def test_an_import_path_runs_when_the_recipe_names_it(tmp_path: Path) -> None:
    model = {"name": "torch.nn:Conv2d", "arguments": {"kernel_size": 1}}
    assert run(recipe(tmp_path, model=model)).code == 0
    plugins._named.clear()
    refused = segdistill("complexity", "torch.nn:Conv2d", "--input", "1x8x8")
    assert "the command line names code that is not part of segdistill, torch.nn:Conv2d" in refused.line


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the example package is installed."""
    site = tmp_path / "site"
    shutil.copytree(EXAMPLE / "src", site)
    points = {
        "example-light": "segdistill_example_plugin.light",
        "example-learned": "segdistill_example_plugin.learned",
    }
    write_entry_points(site, points)
    return surroundings() | {"PYTHONPATH": f"{site}{os.pathsep}{surroundings()['PYTHONPATH']}"}


def write_entry_points(site: Path, points: dict[str, str]) -> None:
    facts = site / "segdistill_example_plugin-0.1.0.dist-info"
    facts.mkdir(parents=True, exist_ok=True)
    (facts / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: segdistill-example-plugin\nVersion: 0.1.0\n"
    )
    lines = [f"{name} = {module}" for name, module in points.items()]
    (facts / "entry_points.txt").write_text("\n".join(["[segdistill.plugins]", *lines]))


def process(environment: dict[str, str], *words: object, cwd: Path | None = None) -> Answer:
    command = [sys.executable, "-m", "segdistill.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, cwd=cwd)
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_an_installed_package_brings_one_part_of_each_kind(installed: dict[str, str], tmp_path: Path) -> None:
    """A run uses all of them; afterwards nothing opens its folder without --plugins."""
    rng = np.random.default_rng(0)
    data = tmp_path / "pairs"
    data.mkdir()
    for n in range(24):
        pixels, mask = rng.integers(0, 80, (32, 32), dtype=np.uint8), np.zeros((32, 32), np.uint8)
        mask[4 + n % 12 : 16 + n % 12, 6:20] = 255
        Image.fromarray(pixels + (mask > 0).astype(np.uint8) * 120).save(data / f"{n}.png")
        Image.fromarray(mask).save(data / f"{n}.mask.png")
    content = {
        "name": "ours",
        "data": {"dataset": "example_pairs", "size": 32, "channels": 1},
        "fit": {"epochs": 1, "batch_size": 8, "precision": "fp32", "workers": 0},
        "evaluation": {"metrics": ["example_area_error"]},
        "stages": {
            "teacher": {"model": {"name": "example_net"}, "loss": {"name": "example_smooth"}},
            "student": {
                "task": "distillation",
                "model": {"name": "example_net", "width": 2},
                "teachers": {"teacher": {}},
                "methods": {"example_brightness": {}},
                "weighting": "example_first",
            },
        },
        "export": "student",
    }
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    out = tmp_path / "run"
    words = ("run", tmp_path / "ours.yaml", "--data", data, "--device", "cpu", "--out", out)
    done = process(installed, *words, cwd=tmp_path)
    assert done.code == 0, done.err
    page = (out / "report.html").read_text()
    assert "Smallest network" in page
    assert "Area error" in page
    refused = process(installed, "evaluate", out)
    assert refused.code == 2
    assert (
        "add --plugins segdistill_example_plugin.light or segdistill_example_plugin.learned" in refused.line
    )
    named = process(installed, "evaluate", out, "--plugins", "segdistill_example_plugin.learned")
    assert named.code == 0, named.err
    listed = process(installed, "list", "datasets")
    assert "example_pairs" not in listed.out
    light = process(installed, "list", "datasets", "--plugins", "segdistill_example_plugin.light")
    assert "example_pairs" in light.out


def test_python_loads_installed_plugins_for_an_unknown_name_alone(
    installed: dict[str, str], tmp_path: Path
) -> None:
    code = (
        "import sys, segdistill\n"
        "segdistill.create_dataset('phantom', sys.argv[1], count=2, size=32)\n"
        "assert 'segdistill_example_plugin' not in sys.modules\n"
        "assert not [n for n in segdistill.list_datasets() if n.startswith('example')]\n"
        "assert segdistill.create_metric('example_area_error').label == 'Area error'\n"
        "assert type(segdistill.create_network('example_net')).__name__ == 'ExampleNet'\n"
        "assert {n for n in segdistill.list_methods() if n.startswith('example')} == {'example_brightness'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "phantom"], env=installed, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_broken_installed_plugin_is_one_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "broken_plugin.py").write_text("import no_such_module_at_all")
    write_entry_points(site, {"broken": "broken_plugin"})
    environment = surroundings() | {"PYTHONPATH": f"{site}{os.pathsep}{surroundings()['PYTHONPATH']}"}
    words = ("run", recipe(tmp_path), "--device", "cpu", "--out", tmp_path / "run")
    assert "warning" not in process(environment, *words).err  # all names are ours
    unknown = process(environment, *words, "--set", "stages.net.model.name=no_such_net")
    assert unknown.code == 2
    assert unknown.err.splitlines()[0] == (
        "warning: plugin broken (broken_plugin) cannot be loaded: ModuleNotFoundError: No module named "
        "'no_such_module_at_all'"
    )
    assert sum("warning: plugin" in line for line in unknown.err.splitlines()) == 1
    assert "unknown network 'no_such_net'" in unknown.line


def test_without_torch_a_plugin_does_not_bring_it(installed: dict[str, str], tmp_path: Path) -> None:
    """The base install: parts that need no torch are there, those that do are one warning."""
    code = (
        "import sys, warnings\n"
        "for name in ('torch', 'lightning_fabric'): sys.modules[name] = None\n"
        "import segdistill\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    assert segdistill.create_metric('example_area_error').label == 'Area error'\n"
        "print(len(seen), seen[0].message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=installed, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(
        "1 plugin example-learned (segdistill_example_plugin.learned) cannot be loaded"
    )


@pytest.mark.slow
def test_the_example_package_can_be_installed(tmp_path: Path) -> None:
    source = Path(shutil.copytree(EXAMPLE, tmp_path / "source"))
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", tmp_path / "site", source], check=True)
    environment = surroundings() | {
        "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{surroundings()['PYTHONPATH']}"
    }
    code = "import segdistill; print(segdistill.create_network('example_net').encoder[0].out_channels)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "8"
