"""Recipes: those that come with the package, a user's own, bases, changes, and what is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from segdistill.config.load import bundled_recipes, load_recipe
from segdistill.config.schema import MemberRecipe, parse_recipe
from segdistill.errors import InputError
from segdistill.experiment.check import check_parts
from segdistill.experiment.run import resolved_yaml
from segdistill.experiment.stage_evaluation import stated
from tests.experiment.tiny import write_recipe


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_can_be_built(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    assert recipe.export in {None, *recipe.stages}
    check_parts(recipe, list(recipe.stages))
    assert parse_recipe(yaml.safe_load(resolved_yaml(recipe)), name) == recipe


@pytest.mark.parametrize("name", ["lightbtseg/busi", "lightbtseg/dataset_b"])
def test_lightbtseg_is_the_papers(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.data.height_width == (512, 512)
    assert recipe.data.labels == ["benign", "malignant"]
    assert (recipe.data.split.method, recipe.data.split.test) == ("paper", 0.15)
    for stage in recipe.stages:
        fit = recipe.fit_settings(stage)
        assert (fit.epochs, fit.batch_size, fit.accumulate, fit.select) == (20, 8, 1, "last")
        assert (fit.optimizer.name, fit.optimizer.lr, fit.optimizer.weight_decay) == ("adam", 1e-3, 5e-4)
        assert (fit.schedule.name, fit.schedule.factor, fit.schedule.patience) == ("plateau", 0.1, 3)
        assert recipe.stages[stage].loss.name == "weight_balance"
    student = recipe.stages["student"]
    assert student.model.name == "simplified_unet"
    assert student.hard_weight == 0.3
    assert student.routing == "all"
    assert student.finetune_teachers
    for teacher in ("benign_teacher", "malignant_teacher"):  # those that are evaluated
        tuned = recipe.stages[f"{teacher}_tuned"]
        assert (tuned.tuned_by, tuned.starts_from) == ("student", teacher)
    assert {key: t.weight for key, t in student.teachers.items()} == {
        "benign_teacher": 0.5,
        "malignant_teacher": 0.2,
    }
    assert [(k.method, k.weight, k.options) for k in student.methods.values()] == [
        ("soft_prediction", 1.0, {})
    ]
    single = recipe.stages["student_single"]
    assert single.hard_weight == 0.3
    assert [(t.stage, t.weight) for t in single.teachers.values()] == [("all_teacher", 0.7)]
    for teacher, labels in (("benign_teacher", ["benign"]), ("malignant_teacher", ["malignant"])):
        assert recipe.stages[teacher].labels == labels
        assert recipe.stages[teacher].model.options == {"depth": 101}
        assert recipe.stages[teacher].model.pretrained is None


def test_lightbtseg_cpu_keeps_groups_and_compares_at_equal_steps() -> None:
    recipe = load_recipe("lightbtseg/cpu")
    assert max(recipe.data.height_width) <= 128
    assert recipe.data.split.method == "hold_out"
    assert recipe.stages["benign_teacher"].model.options == {"depth": 18}
    assert recipe.fit_settings("student") == recipe.fit_settings("baseline")
    assert recipe.stages["student"].model == recipe.stages["baseline"].model
    assert recipe.with_teachers(["student_single"]) == ["all_teacher", "student_single"]


def test_changes_reach_every_stage_and_may_be_short(tmp_path: Path) -> None:
    recipe = load_recipe("distill", ["size=[64, 96]", "epochs=3", "lr=1e-3", "student=unet", "teacher=unet"])
    assert recipe.data.height_width == (64, 96)
    assert recipe.fit_settings("student").epochs == 3
    assert recipe.fit.optimizer.lr == 1e-3
    assert recipe.fit.optimizer.name == "adamw"
    assert recipe.stages["student"].model.name == "unet"
    assert recipe.stages["teacher"].model.options == {}  # those of the network before do not fit


@pytest.mark.parametrize("name", bundled_recipes())
def test_what_a_recipe_states_is_the_whole_of_it(name: str) -> None:
    """Reports show this alone: read again it must give the same recipe, and be shorter."""
    recipe = load_recipe(name, ["seed=3"])
    assert parse_recipe(stated(recipe), name) == recipe
    assert len(yaml.safe_dump(stated(recipe))) < len(resolved_yaml(recipe))


def test_the_size_of_patches_is_the_size() -> None:
    recipe = load_recipe("lightvessel/cpu", ["size=64"])
    assert recipe.data.patches is not None
    assert (recipe.data.height_width, recipe.data.patches.size, recipe.data.patches.count) == (
        (64, 64),
        64,
        2,
    )
    other_way = load_recipe("lightvessel/cpu", ["data.patches.size=64", "data.patches.count=5"])
    assert other_way.data.height_width == (64, 64)
    assert load_recipe("lightvessel/cpu", ["size=64", "data.patches.count=5"]).data == other_way.data
    assert load_recipe("lightvessel/cpu", ["data.patches={count: 5}", "size=64"]).data == other_way.data
    together = load_recipe("lightvessel/cpu", ["data.patches={count: 5, size: 64}", "size=64"])
    assert together.data == other_way.data
    wrong = (
        ["size=64", "data.patches.size=32"],
        ["data.patches={count: 5, size: 32}", "size=64"],
        ["size=[64, 96]"],
    )
    for changes in wrong:
        with pytest.raises(InputError, match=r"patches\.size") as caught:
            load_recipe("lightvessel/cpu", changes)
        assert "\n" not in str(caught.value)


def test_sizes_that_contradict_each_other_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base: lightvessel/cpu\nname: own\ndata: {size: 64}\n")
    message = "data: size is 64 and patches.size is 160, but the network sees patches: set data.size and "
    with pytest.raises(InputError, match=re.escape(message + "data.patches.size to the same number")):
        load_recipe(str(tmp_path / "own.yaml"))


def test_a_base_is_named_from_the_recipes_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    write_recipe(tmp_path)
    child = tmp_path / "deep" / "child.yaml"
    child.write_text("base: ../tiny.yaml\nname: child\nfit: {epochs: 7}\n")
    monkeypatch.chdir(tmp_path / "deep")
    recipe = load_recipe("child.yaml")
    assert (recipe.name, recipe.fit.epochs, recipe.fit.batch_size) == ("child", 7, 4)
    (tmp_path / "own.yaml").write_text("base: distill\nname: own\n")
    assert load_recipe(str(tmp_path / "own.yaml")).stages == load_recipe("distill").stages


CHANGES = {
    "epoch=3": "unknown key: did you mean 'epochs'",
    "epochs=many": "fit.epochs: Input should be a valid integer, not 'many'",
    "epochs=0": "fit.epochs: Input should be greater than or equal to 1, not 0",
    "batch_size=0": "fit.batch_size: ",
    "lr=-1": "fit.optimizer.lr: ",
    "size=0": "data.size: give a side or [height, width] in pixels",
    "size=[32, 32, 3]": "data.size: give a side or [height, width] in pixels",
    "size=30": "image size 30x30 is not a multiple of 4; use size=32",
    "channels=0": "data.channels: ",
    "labels=benign": "data.labels: Input should be a valid list, not 'benign'",
    "augment=wild": "stage teacher: unknown augmentation 'wild'",
    "export=studnt": "export: no stage 'studnt': did you mean 'student'",
    "fit.optimiser.lr=1": "fit.optimiser: unknown key: did you mean 'optimizer'",
    "data.split.method=half": "data.split.method: ",
    "data.split.test=0": "data.split.test: ",
    "stages.studnt.model.name=unet": "no such stage: did you mean 'student'",
    "stages=3": "no such stage",
    "stages.student.model.name=unett": "stage student: unknown network 'unett': did you mean 'unet'",
    "stages.student.model.classes=3": "stage student: model.classes is 3, but masks have background and one kind",
    "stages.student.model.widths=[a]": "stage student: network 'simplified_unet': widths is 'a'",
    "stages.student.model.width=[2]": "network 'simplified_unet' has no option 'width': did you mean 'widths'",
    "stages.student.model.in_channels=3": "in_channels is set by data.channels",
    "stages.student.loss.name=dic": "unknown loss 'dic': did you mean 'dice'",
    "stages.student.fit={epoch: 3}": "stages.student.fit.epoch: unknown key: did you mean 'epochs'",
    "stages.student.teachers={teachr: {}, teacher: null}": "'teachr' is not defined before it: did you mean 'teacher'",
    "stages.student.teachers={student: {}}": "'student' is not defined before it",
    "stages.student.teachers.teacher=null": "a distillation stage needs teachers and methods",
    "stages.student.teachers=[]": "stages.student.teachers: Input should be a valid dictionary, not []",
    "stages.student.teachers.teacher.wieght=1": "teachers.teacher.wieght: unknown key: did you mean 'weight'",
    "stages.student.methods={a/b: {method: fitnet}}": "'a/b' cannot name a teacher or a method",
    "stages.student.methods={weighting: {method: fitnet}}": "none of combined, weight, weighting",
    "stages.student.methods.soft_prediction.heat=2": "'soft_prediction' has no option 'heat'",
    "stages.new={modle: {name: unet}}": "no such stage",
    "stages.new={model: {nam: unet}}": "stages.new.model.name: Field required",
    "seeds=[0, 0]": "seeds: [0, 0] has a number twice: give each once",
    "seeds=3": "seeds: give a list of whole numbers such as [0, 1, 2], not 3",
    "stages.student.task=supervised": "methods belongs to a stage with task: distillation, not supervised: remove it",
    "fit=[": "the value is not YAML",
    "fit": "write key=value",
    "=3": "write key=value",
    "data=3": "data: ",
}


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        ("labels=[4]", ["4"]),
        ("labels=[4, '3', benign]", ["4", "3", "benign"]),
        ("labels=[4.5, 2020-01-02]", ["4.5", "2020-01-02"]),
        ("labels=[no, yes, off, true]", ["no", "yes", "off", "true"]),
        (
            "labels=['no', '04', 04, 012, 0x10, 1_000, 12:30]",
            ["no", "04", "04", "012", "0x10", "1_000", "12:30"],
        ),
        ("data={labels: [no, 3]}", ["no", "3"]),
    ],
)
def test_labels_that_yaml_takes_for_something_else(tmp_path: Path, change: str, labels: list[str]) -> None:
    assert load_recipe(str(write_recipe(tmp_path)), [change]).data.labels == labels


def test_values_of_masks(tmp_path: Path) -> None:
    data = load_recipe(
        str(write_recipe(tmp_path)), ["data.foreground=[4, '#FF0000']", "data.background=0"]
    ).data
    assert (data.foreground, data.background) == ([4, "#ff0000"], [0])
    with pytest.raises(InputError, match=r"data\.foreground.*'red' is not a value of a mask"):
        load_recipe(str(write_recipe(tmp_path)), ["data.foreground=[red]"])


@pytest.mark.parametrize("change", CHANGES)
def test_changes_that_are_refused(change: str, tmp_path: Path) -> None:
    def build() -> None:
        recipe = load_recipe(str(write_recipe(tmp_path)), [change])
        check_parts(recipe, list(recipe.stages))

    with pytest.raises(InputError, match=re.escape(CHANGES[change])) as caught:
        build()
    assert "\n" not in str(caught.value)


FILES = {
    "name: [": "is not YAML",
    "- 1": "is not a recipe: it has no keys",
    "": "is not a recipe",
    "name: x\nname: y\nstages: {}": "key 'name' twice",
    "name: x\nstages: {}": "stages: Dictionary should have at least 1 item",
    "name: x": "stages: Field required",
    "base: other.yaml": "no recipe file",
    "base: distil": "unknown recipe 'distil': did you mean 'distill'",
    "base: r.yaml\nname: x": "in a circle",
    "name: x\nstages: {a: {model: {}}}": "stages.a.model.name: Field required",
    "name: x\nstages: {a: {modle: {}}}": "unknown key: did you mean 'model'",
    "\x00": "is not YAML",
}


def test_what_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("stages: " + "[" * 5000)
    with pytest.raises(InputError, match="nested too deeply"):
        load_recipe(str(path))
    with pytest.raises(InputError, match="the value is not YAML"):
        load_recipe("distill", ["fit=" + "[" * 5000])


@pytest.mark.parametrize("text", FILES)
def test_files_that_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(FILES[text])) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


def test_names_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown recipe 'distil': did you mean 'distill'"):
        load_recipe("distil")
    with pytest.raises(InputError, match="no recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match="cannot read recipe"):
        load_recipe(str((tmp_path / "folder.yaml").mkdir() or tmp_path / "folder.yaml"))
    with pytest.raises(InputError, match="no stage 'studnt': did you mean 'student'"):
        load_recipe("distill").with_teachers(["studnt"])


def test_roles_are_found_where_none_is_stated() -> None:
    other = ["stages.other={model: {name: unet}}", "stages.known={model: {name: unet}, role: teacher}"]
    recipe = load_recipe("distill", other)
    assert {name: stage.role for name, stage in recipe.stages.items()} == {
        "teacher": "teacher",
        "student": "student",
        "baseline": "baseline",
        "baseline_equal_time": "baseline",
        "other": "comparator",
        "known": "teacher",
    }
    assert "role" not in stated(recipe)["stages"]["other"]
    coronary = load_recipe("lightvessel/coronary")
    assert coronary.stages["baseline"].role == "baseline"  # though auto-encoders learn its features


def test_a_method_s_options_are_set_by_its_name() -> None:
    recipe = load_recipe("distill", ["stages.student.methods.soft_prediction.temperature=4"])
    assert recipe.stages["student"].methods["soft_prediction"].options == {"temperature": 4}
    changes = [
        "stages.student.methods={hot: {method: soft_prediction, temperature: 4.0}, fitnet: {weight: 0.5}}"
    ]
    methods = (
        load_recipe("distill", [*changes, "stages.student.methods.fitnet=null"]).stages["student"].methods
    )
    assert {name: (part.method, part.options) for name, part in methods.items()} == {
        "soft_prediction": ("soft_prediction", {}),
        "hot": ("soft_prediction", {"temperature": 4.0}),
    }


def test_teachers_and_methods_merge_with_those_of_the_base(tmp_path: Path) -> None:
    stages = """
        student:
          teachers: {benign_teacher: {weight: 0.9}, malignant_teacher: null, third: {stage: all_teacher}}
          methods: {soft_prediction: {method: fitnet}, cwd: }
    """
    (tmp_path / "own.yaml").write_text(f"base: lightbtseg/cpu\nname: own\nstages:{stages}")
    student = load_recipe(str(tmp_path / "own.yaml")).stages["student"]
    assert [(name, t.stage, t.weight, t.labels) for name, t in student.teachers.items()] == [
        ("benign_teacher", "benign_teacher", 0.9, ["benign"]),
        ("third", "all_teacher", 1.0, []),
    ]
    assert [(name, part.method) for name, part in student.methods.items()] == [
        ("soft_prediction", "fitnet"),
        ("cwd", "cwd"),
    ]


def test_a_whole_stage_may_be_set() -> None:
    recipe = load_recipe("distill", ["stages.wide={model: {name: unet}}", "run=[student, wide]"])
    assert recipe.stages["wide"].model.name == "unet"
    assert recipe.chosen(None) == ["teacher", "student", "wide"]


def test_a_table_is_named_relative_to_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "own.yaml").write_text("base: distill\nname: own\ndata: {table: ../cases.csv}\n")
    (tmp_path / "child.yaml").write_text("base: deep/own.yaml\nname: child\n")
    for name in ("deep/own.yaml", "child.yaml"):
        table = load_recipe(str(tmp_path / name)).data.table
        assert table is not None
        assert Path(table).resolve() == tmp_path / "cases.csv"
    monkeypatch.chdir(tmp_path)
    changed = load_recipe("deep/own.yaml", ["data.table=other.csv"])
    assert changed.data.table == str(tmp_path / "other.csv")


def test_an_outside_teacher_is_named_relative_to_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "own.yaml").write_text(
        "base: distill\nname: own\neffort: quick\noutside: {predictions: there, trained_on: ids.txt}\n"
    )
    monkeypatch.chdir(tmp_path)

    def member(*changes: str) -> MemberRecipe:
        return load_recipe("deep/own.yaml", changes).stages["student"].teachers["ensemble"].members[-1]

    stated = member()
    assert stated.predictions == str(tmp_path / "deep" / "there")
    assert stated.trained_on == str(tmp_path / "deep" / "ids.txt")
    assert member("outside={onnx: b.onnx}").onnx == str(tmp_path / "b.onnx")
    changed = member("outside.predictions=other", "outside.foreground=[1]")
    assert changed.predictions == str(tmp_path / "other")
    assert (changed.foreground, changed.trained_on) == ([1], stated.trained_on)


def test_seeds_train_every_stage_once_each() -> None:
    recipe = load_recipe("distill", ["seeds=[3, 5]", "evaluation.robustness=[student, baseline@5]"])
    names = ("teacher", "baseline", "student", "baseline_equal_time")
    assert list(recipe.stages) == [f"{name}@{seed}" for seed in (3, 5) for name in names]
    student = recipe.stages["student@5"]
    assert (student.variant, student.seed, student.role) == ("student", 5, "student")
    assert student.taught_by == ["teacher@5"]
    assert list(student.teachers) == ["teacher"]
    assert recipe.export == "student@3"
    assert recipe.evaluation.robustness == ["student@3", "student@5", "baseline@5"]
    # one measurement for all seeds
    assert recipe.stages["baseline_equal_time@5"].equal_time_to == "student@3"
    assert recipe.chosen(None) == [name for name in recipe.stages if recipe.variant(name) in names[:3]]
    assert recipe.with_teachers(["student"]) == ["teacher@3", "student@3", "teacher@5", "student@5"]
    assert recipe.with_teachers(["student@5"]) == ["teacher@5", "student@5"]
    further = load_recipe("distill", ["seeds=[0, 1]", "stages.student.seed=4"])
    assert [further.seed_of(f"student@{seed}") for seed in (0, 1)] == [
        4000,
        4001,
    ]  # another training of every seed
    with pytest.raises(InputError, match=r"stages.student.seed: give a whole number, not 'x'"):
        load_recipe("distill", ["seeds=[0, 1]", "stages.student.seed=x"])


def test_epochs_reach_every_stage() -> None:
    """Those with a fit of their own, of a matrix and with steps too; but not one that another change names."""
    for name in ("lanet/cpu", "verdict/busi", "amtd/methods_cpu", "pays/few_masks", "lightvessel/cpu"):
        recipe = load_recipe(name, ["epochs=1"])
        for stage in recipe.stages:
            fit = recipe.fit_settings(stage)
            assert (fit.epochs, fit.steps) == (1, None), (name, stage)
    recipe = load_recipe(
        "lanet/cpu", {"epochs": 1, "stages.locate.fit.epochs": 7, "stages.lanet.fit": {"steps": 9}}
    )
    assert recipe.fit_settings("locate").epochs == 7
    assert recipe.fit_settings("lanet").steps == 9
    assert recipe.fit_settings("locate_half").epochs == recipe.fit_settings("rmtl").epochs == 1
    assert (
        recipe.fit_settings("locate_half").optimizer
        == load_recipe("lanet/cpu").fit_settings("locate").optimizer
    )
    plain = load_recipe("lanet/cpu", ["fit.epochs=1"])  # the long name is the recipe's own alone
    assert (plain.fit_settings("locate").epochs, plain.fit_settings("rmtl").epochs) == (10, 1)
