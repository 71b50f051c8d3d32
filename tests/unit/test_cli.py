"""The command line: light to start, and every mistake one message."""

import json
import logging
import re
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from autoseg import __version__, console, options
from autoseg.artifacts.base import read, write
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.plan import Plan, Training
from autoseg.cli import main
from autoseg.datasets.splits import find_splits
from autoseg.layout import Workspace
from autoseg.plan.decide import Wishes, make_plan

HEAVY = ("torch", "SimpleITK", "scipy", "sklearn", "matplotlib")
COMMANDS = tuple(main.commands)


@pytest.fixture(autouse=True)
def quiet_afterwards():
    """The command line configures logging for the whole process: put it back."""
    logger = logging.getLogger("autoseg")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def call(*arguments):
    """Exit code, standard output and standard error."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def explained(*arguments):
    """The message of a call that ends with exit code 1 and no traceback."""
    code, _, message = call(*arguments)
    assert code == 1, message
    assert message.count("Error:") == 1
    assert "Traceback" not in message
    assert "unexpected" not in message
    return message


@pytest.mark.parametrize(
    "statements",
    [
        "import autoseg",
        "import autoseg.cli",
        "from autoseg.cli import main; main(['--help'], standalone_mode=False)",
        "from autoseg.cli import main; main(['train', '--help'], standalone_mode=False)",
        "from autoseg.cli import main; main(['baselines', 'heart'], standalone_mode=False)",
    ],
)
def test_starting_loads_nothing_heavy(statements):
    code = f"{statements}\nimport sys\nprint('LOADED', *sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert "autoseg" in loaded
    assert not set(loaded) & set(HEAVY)


def test_python_m_autoseg_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "autoseg", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"autoseg, version {__version__}\n"
    wrong = subprocess.run([sys.executable, "-m", "autoseg", "pln"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


def test_help_names_every_command():
    code, out, _ = call("--help")
    assert code == 0
    assert {"plan", "preprocess", "train", "predict", "evaluate", "compare", "baselines", "demo"} <= set(COMMANDS)
    for command in COMMANDS:
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(command, flag):
    code, out, _ = call(command, flag)
    assert code == 0
    assert out.startswith(f"Usage: main {command}")
    assert "--debug" in out


@pytest.mark.parametrize("command", ["predict", "export"])
def test_help_tells_that_a_selection_goes_before_the_usual_configuration(command):
    assert "as selected, else 3d_fullres, else 2d" in " ".join(call(command, "-h")[1].split())
    assert "as selected" not in call("train", "-h")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("--nonsense",),
        ("plan",),
        ("plan", "--images", "i"),
        ("plan", "--labels", "l"),
        ("plan", "raw", "--gpu-memory", "none"),
        ("train",),
        ("train", "first"),
        ("train", "0", "--max-hours", "0"),
        ("train", "0", "--epochs", "0"),
        ("train", "0", "--patience", "0"),
        ("train", "0", "--epochs", "5", "--max-hours", "1"),
        ("train", "0", "--extend", "--restart"),
        ("train", "0", "--seed", "-1"),
        ("train", "0", "--jobs", "0"),
        ("predict", "only one"),
        ("predict", "nowhere", "out"),
        ("predict", ".", "out", "--step", "1.5"),
        ("predict", ".", "out", "--step", "nan"),
        ("predict", ".", "out.nii.gz"),
        ("plan", "raw", "--gpu-memory", "inf"),
        ("plan", "raw", "--preset", "resenc"),
        ("plan", "raw", "--spacing", "1"),
        ("plan", "raw", "--spacing", "1,1,1,1"),
        ("plan", "raw", "--spacing", "1,0,1"),
        ("plan", "raw", "--num-folds", "1"),
        ("plan", "raw", "--splits", "nowhere.csv"),
        ("plan", "raw", "--num-folds", "3", "--splits", __file__),
        ("plan", "raw", "--stratify", "--splits", __file__),
        ("plan", "--fingerprint", __file__, "--stratify"),
        ("predict", ".", "out", "--folds", "0,x"),
        ("export", "."),
        ("export", "out.zip", "--model", __file__),
        ("export", "out", "--onnx", "--model", __file__, "--configuration", "2d"),
        ("select", "--folds", "0,x"),
        ("select", "--jobs", "0"),
        ("evaluate", "nowhere", "."),
        ("compare", "."),
        ("compare", ".", ".", "--baseline", "msd/Task04_Hippocampus/nnunet-v2-plain"),
        ("compare", ".", "--metric", "dice", "--metric", "nsd", "--baseline", "msd/Task04_Hippocampus/nnunet-v2-plain"),
        ("demo", "--minutes", "0"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, message = call(*arguments)
    assert code == 2
    assert "Error:" in message
    assert "Usage:" in message
    assert not list(tmp_path.iterdir())


@pytest.fixture
def workspace(tmp_path, build_dataset, build_plan):
    space = Workspace(tmp_path / "w")
    write(space.dataset, build_dataset(tmp_path / "raw"))
    write(space.plan, build_plan())
    return space


def edit(path, change):
    """Change the plan's JSON as a person with an editor would."""
    tree = msgspec.json.decode(path.read_bytes())
    change(tree)
    path.write_bytes(msgspec.json.encode(tree))


@pytest.mark.parametrize("command", [("train", "0"), ("preprocess",)])
def test_a_folder_that_is_no_workspace(command, tmp_path):
    message = explained(*command, "-w", tmp_path)
    assert "not a workspace" in message
    assert str(tmp_path) in message
    assert "autoseg plan RAW" in message


@pytest.mark.parametrize("command", [("train", "0"), ("preprocess",)])
def test_an_unknown_configuration_names_the_nearest(command, workspace):
    message = explained(*command, "-w", workspace.root, "--configuration", "3d_fulres")
    assert "found:   3d_fulres" in message
    assert "did you mean 3d_fullres?" in message


@pytest.mark.parametrize(
    ("setting", "hint"), [("epochs=3", "training.epochs"), ("training.epoch=3", "training.epochs")]
)
@pytest.mark.parametrize("command", [("train", "0"), ("preprocess",)])
def test_an_unknown_setting_names_the_nearest(command, setting, hint, workspace):
    message = explained(*command, "-w", workspace.root, "--set", setting)
    assert f"did you mean {hint!r}?" in message


def test_a_setting_out_of_bounds(workspace):
    message = explained("train", "0", "-w", workspace.root, "--set", "training.epochs=0")
    assert "training.epochs" in message


def test_a_mistyped_key_in_the_plan_names_the_nearest_and_the_file(workspace):
    edit(workspace.plan, lambda tree: tree["training"].update(epoch=tree["training"].pop("epochs")))
    message = explained("train", "0", "-w", workspace.root)
    assert "unknown key 'training.epoch'" in message
    assert "did you mean 'epochs'?" in message
    assert str(workspace.plan) in message


def test_a_plan_of_a_newer_autoseg(workspace):
    edit(workspace.plan, lambda tree: tree.update(schema_version=99))
    message = explained("train", "0", "-w", workspace.root)
    assert "newer autoseg" in message
    assert str(workspace.plan) in message


def test_a_plan_that_is_no_json(workspace):
    workspace.plan.write_text("{")
    assert "not valid JSON" in explained("preprocess", "-w", workspace.root)


def test_a_fold_that_does_not_exist(workspace):
    message = explained("train", "7", "-w", workspace.root)
    assert "no such fold" in message
    assert "0 to 4" in message


def test_fewer_cases_than_folds(workspace, build_dataset):
    write(workspace.dataset, build_dataset(num_cases=3))
    assert "training.num_folds=3" in explained("train", "all", "-w", workspace.root)


def test_a_device_that_does_not_exist(workspace):
    assert "--device" in explained("train", "0", "-w", workspace.root, "--device", "toaster")
    assert read(workspace.plan, Plan).training.epochs == 1000


def test_a_dataset_that_does_not_exist(tmp_path):
    message = explained("plan", tmp_path / "nowhere", "-w", tmp_path / "w")
    assert str(tmp_path / "nowhere") in message
    assert not (tmp_path / "w").exists()


def test_predicting_without_a_trained_fold(workspace, tmp_path):
    (tmp_path / "in").mkdir()
    message = explained("predict", tmp_path / "in", tmp_path / "out", "-w", workspace.root)
    assert "trained" in message
    assert "autoseg train" in message
    assert not (tmp_path / "out").exists()


def test_somebody_elses_description_is_not_written_over(tmp_path):
    (tmp_path / "w").mkdir()
    theirs = tmp_path / "w" / "dataset.json"
    theirs.write_text('{"name": "Hippocampus"}')
    raw = tmp_path / "raw"
    for name in "abc":
        save(raw / "images" / f"{name}.nii.gz", 3)
        save(raw / "labels" / f"{name}.nii.gz", 2)
    options = ("--channels", "MR", "--label-names", "blob", "--jobs", "1")
    assert str(theirs) in explained("plan", raw, "-w", tmp_path / "w", *options)
    assert theirs.read_text() == '{"name": "Hippocampus"}'
    assert list((tmp_path / "w").iterdir()) == [theirs]
    # The folder above two plain ones holds nobody's description: it may as well be worked in.
    assert call("plan", "--images", raw / "images", "--labels", raw / "labels", "-w", raw, *options)[0] == 0
    assert (raw / "plan.json").exists()


@pytest.fixture
def cascade(workspace):
    """A workspace whose plan has a cascade."""

    def add(plan):
        full = plan["configurations"]["3d_fullres"]
        plan["configurations"]["3d_lowres"] = full
        plan["configurations"]["3d_cascade_fullres"] = {**full, "previous_stage": "3d_lowres"}

    edit(workspace.plan, add)
    return workspace


def test_a_sweep_of_the_rate_trains_no_first_stage(cascade):
    message = explained("lr-find", "-w", cascade.root, "--configuration", "3d_cascade_fullres", "--device", "cpu")
    assert "3d_cascade_fullres learns from what 3d_lowres predicts" in message
    assert f"autoseg train 0 1 2 3 4 --configuration 3d_lowres -w {cascade.root}" in message


def test_a_cascade_needs_folds_that_leave_each_case_out_once(cascade):
    splits = find_splits(read(cascade.dataset, Dataset), read(cascade.plan, Plan), cascade)
    write(cascade.splits, msgspec.structs.replace(splits, folds=splits.folds[:2]))
    message = explained("train", "0", "-w", cascade.root, "--configuration", "3d_cascade_fullres", "--device", "cpu")
    assert "every fold of the first stage is trained on some cases" in message
    assert not cascade.models("3d_lowres").exists()


def test_a_cascade_that_is_not_trained_does_not_predict(cascade, tmp_path):
    message = explained(
        "predict", tmp_path, tmp_path / "o", "-w", cascade.root, "--configuration", "3d_cascade_fullres"
    )
    assert "no fold is trained yet" in message


def save(path, seed):
    """A small label map."""
    from autoseg.artifacts.geometry import Geometry
    from autoseg.images.io import write_label

    array = np.random.default_rng(seed).integers(0, 2, (8, 8, 8))
    write_label(path, array, Geometry(shape=array.shape, spacing_mm=(1.0, 1.0, 1.0)))


def test_under_debug_the_traceback_is_shown(tmp_path):
    result = CliRunner().invoke(main, ["preprocess", "--debug", "-w", str(tmp_path)])
    assert type(result.exception).__name__ == "ArtifactError"


@pytest.fixture
def labels(tmp_path):
    """Two folders of label maps of one case, that agree."""
    from autoseg.artifacts.geometry import Geometry
    from autoseg.images.io import write_label

    array = np.zeros((4, 5, 6), np.uint8)
    array[1:3, 1:4, 2:5] = 1
    for folder in ("predicted", "reference"):
        write_label(tmp_path / folder / "a.nii.gz", array, Geometry(shape=array.shape, spacing_mm=(2.0, 1.0, 1.0)))
    return tmp_path / "predicted", tmp_path / "reference"


def test_work_that_is_done_is_exit_code_0(labels):
    code, out, _ = call("evaluate", *labels, "--jobs", "1")
    assert code == 0
    assert "1.0000" in out
    assert str(labels[0] / "evaluation.json") in out
    assert (labels[0] / "evaluation.json").is_file()


def test_a_file_in_the_place_of_the_output_folder(labels, tmp_path):
    (tmp_path / "out").write_text("in the way")
    message = explained("evaluate", *labels, "--jobs", "1", "--json", tmp_path / "out" / "evaluation.json")
    assert "can't be written" in message
    assert str(tmp_path / "out") in message
    assert (tmp_path / "out").read_text() == "in the way"


def test_a_file_in_the_place_of_the_workspace_is_wrong_usage(tmp_path):
    (tmp_path / "w").write_text("in the way")
    code, _, message = call("preprocess", "-w", tmp_path / "w")
    assert code == 2
    assert "is a file" in message


@pytest.fixture
def measured(tmp_path, build_dataset, build_fingerprint):
    """A fingerprint.json of 200 hippocampus-like cases."""
    file = tmp_path / "elsewhere" / "fingerprint.json"
    write(file, build_fingerprint(build_dataset(num_cases=200)))
    return file


def test_a_fingerprint_alone_is_planned_and_explained(measured, tmp_path):
    space = tmp_path / "w"
    code, out, _ = call("plan", "--fingerprint", measured, "-w", space, "--explain")
    assert code == 0
    assert "## 3d_fullres: patch" in out
    assert out.endswith(f"200 cases -> {space / 'plan.json'}\n")
    assert (space / "plan.md").read_text() in out
    assert read(space / "fingerprint.json", Fingerprint) == read(measured, Fingerprint)
    assert "planned from a fingerprint alone" in explained("train", "0", "-w", space)


def test_planning_from_a_fingerprint_loads_nothing_heavy(measured, tmp_path):
    arguments = ["plan", "--fingerprint", str(measured), "-w", str(tmp_path / "w"), "--explain"]
    code = (
        f"import sys; from autoseg.cli import main; main({arguments}, standalone_mode=False)\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert "numpy" in loaded
    assert not set(loaded) & {*HEAVY, "tqdm"}


def test_edits_are_named_when_the_plan_is_explained(measured, tmp_path):
    space = tmp_path / "w"
    call("plan", "--fingerprint", measured, "-w", space)
    edited = read(space / "plan.json", Plan)
    write(space / "plan.json", msgspec.structs.replace(edited, training=Training(epochs=7)))
    _, _, notes = call("plan", "--fingerprint", measured, "-w", space, "--explain")
    assert "by hand or by options: training.epochs was 1000, is 7" in notes
    assert read(space / "plan.json", Plan).training.epochs == 7


def test_plans_go_to_nnunet_and_come_back(measured, tmp_path):
    file = tmp_path / "Dataset004_Hippocampus" / "nnUNetPlans.json"
    code, out, _ = call("plan", "--fingerprint", measured, "-w", tmp_path / "a", "--write-nnunet", file)
    assert code == 0
    assert str(file) in out
    assert json.loads(file.read_bytes())["dataset_name"] == "Dataset004_Hippocampus"
    code, _, _ = call("plan", "--fingerprint", measured, "-w", tmp_path / "b", "--read-nnunet", file)
    assert code == 0
    ours, back = (read(tmp_path / name / "plan.json", Plan) for name in "ab")
    assert back.configurations == ours.configurations
    assert "autoseg plans the same" in (tmp_path / "b" / "plan.md").read_text()
    # Whatever stood there is kept.
    call("plan", "--fingerprint", measured, "-w", tmp_path / "c", "--preset", "resenc-m", "--write-nnunet", file)
    kept = file.with_name("nnUNetPlans.previous.json")
    assert json.loads(kept.read_bytes())["experiment_planner_used"] == "ExperimentPlanner"
    assert "no plan of nnU-Net v2" in explained(
        "plan", "--fingerprint", measured, "-w", tmp_path / "d", "--read-nnunet", measured
    )


def test_measuring_makes_what_does_not_fit_smaller(tmp_path, monkeypatch, build_dataset, build_fingerprint):
    # Many labels, whose loss the published estimate does not count.
    labels = {"background": 0} | {f"label {value}": value for value in range(1, 400)}
    pictures = build_fingerprint(build_dataset(num_cases=200, labels=labels), shapes=((1, 60, 60),))
    write(tmp_path / "fingerprint.json", pictures)
    arguments = ["plan", "--fingerprint", tmp_path / "fingerprint.json", "-w", tmp_path / "w", "--gpu-memory", "0.2"]
    planned = make_plan(pictures, Wishes(gpu_memory_gb=0.2)).configurations["2d"]
    code, out, _ = call(*arguments, "--measure", "--explain")
    assert code == 0
    fitted = read(tmp_path / "w" / "plan.json", Plan).configurations["2d"]
    assert 2 <= fitted.batch_size < planned.batch_size
    assert "0.20 GiB on cpu" in out
    assert f"2d: batch {planned.batch_size} of 64 x 64 becomes batch {fitted.batch_size} of 64 x 64" in out
    # Fresh: nothing is measured again, and what was found stays told.
    before = (tmp_path / "w" / "plan.md").read_text()
    monkeypatch.setattr("autoseg.train.measure.measure_step", None)
    assert call(*arguments, "--measure")[0] == 0
    assert (tmp_path / "w" / "plan.md").read_text() == before
    assert "device is not present" in explained(*arguments, "--measure", "--device", "cuda:99")


def test_a_plan_for_a_time(tmp_path, monkeypatch, build_dataset, build_fingerprint):
    pictures = build_fingerprint(build_dataset(num_cases=350), shapes=((1, 30, 30),))
    write(tmp_path / "fingerprint.json", pictures)
    arguments = ["plan", "--fingerprint", tmp_path / "fingerprint.json", "-w", tmp_path / "w"]
    usual = make_plan(pictures)
    budget = (*arguments, "--budget-hours", "0.0001", "--device", "cpu")
    code, out, _ = call(*budget, "--explain")
    assert code == 0
    made = read(tmp_path / "w" / "plan.json", Plan)
    planned, small = usual.configurations["2d"], made.configurations["2d"]
    assert made.training == msgspec.structs.replace(usual.training, max_hours=0.0001)
    assert 12 <= small.batch_size < planned.batch_size
    assert "\n2d: gave up " in out
    assert f"batch {planned.batch_size} -> {small.batch_size}: " in out
    assert "\n2d: expected to lose " in out
    assert "## Budget" in out
    assert (made.budget.hours, made.budget.device, list(made.budget.configurations)) == (0.0001, "cpu", ["2d"])
    assert made.budget.configurations["2d"].chosen.measured
    # Fresh: nothing is timed again, and what was given up is told again, in plan.md too.
    monkeypatch.setattr("autoseg.train.pace.Stopwatch.seconds", None)
    text = (tmp_path / "w" / "plan.md").read_text()
    (tmp_path / "w" / "plan.md").unlink()
    code, out, _ = call(*budget)
    assert code == 0
    assert "2d: gave up " in out
    assert (tmp_path / "w" / "plan.md").read_text() == text
    # Without a budget the plan is the usual one again.
    assert call(*arguments)[0] == 0
    assert read(tmp_path / "w" / "plan.json", Plan) == usual
    assert "device is not present" in explained(*arguments, "--budget-hours", "1", "--device", "cuda:99")


def test_the_plans_labels_are_made_of_the_datasets_values(measured, tmp_path, build_dataset):
    space = tmp_path / "w"
    call("plan", "--fingerprint", measured, "-w", space)
    write(space / "dataset.json", build_dataset())
    regions = '--set=labels={"background":0,"a":[1,2],"b":[2]}'
    message = explained("train", "0", "-w", space, regions, "--set=regions_class_order=[1,2]")
    assert "made of other values" in message
    assert "of the values 0, 1" in message
    ignored = '--set=labels={"background":0,"ignore":1}'
    assert "made of other values" in explained("preprocess", "-w", space, ignored)


def test_nnunets_plans_never_replace_a_file_that_is_needed(measured, tmp_path):
    space = tmp_path / "w"
    for name in ("plan.json", "fingerprint.json", "plan.md"):
        message = explained("plan", "--fingerprint", measured, "-w", space, "--write-nnunet", space / name)
        assert "would replace a file that is needed" in message
    assert read(space / "plan.json", Plan)


def test_a_fingerprint_does_not_take_over_a_dataset(measured, tmp_path, build_dataset):
    write(tmp_path / "w" / "dataset.json", build_dataset())
    message = explained("plan", "--fingerprint", measured, "-w", tmp_path / "w")
    assert "belongs to a dataset" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RAW", "--fingerprint", "F"), "takes the place of RAW"),
        (("--fingerprint", "F", "--channels", "CT"), "takes the place of RAW"),
        (("RAW", "--dataset", "F"), "--dataset belongs to --fingerprint"),
        (("--fingerprint", "F", "--read-nnunet", "F", "--measure"), "takes the place of --preset"),
        (("--fingerprint", "F", "--read-nnunet", "F", "--preset", "auto"), "takes the place of --preset"),
        (("--fingerprint", "F", "--read-nnunet", "F", "--budget-hours", "1"), "takes the place of --preset"),
        (("--fingerprint", "F", "--budget-hours", "0"), "not in the range x>0"),
        (("--fingerprint", "F", "--budget-hours", "inf"), "--budget-hours"),
        ((), "or --fingerprint"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, measured, tmp_path):
    named = {"RAW": tmp_path, "F": measured}
    code, _, notes = call("plan", *(named.get(each, each) for each in arguments), "-w", tmp_path / "w")
    assert code == 2
    assert message in notes


def test_what_to_look_at_before_training_is_said(tmp_path, build_dataset, build_fingerprint):
    labels = {"background": 0} | {f"label {value}": value for value in range(1, 105)}
    body = build_fingerprint(build_dataset(num_cases=300, labels=labels), shapes=((280, 250, 250),))
    write(tmp_path / "fingerprint.json", body)
    code, out, _ = call("plan", "--fingerprint", tmp_path / "fingerprint.json", "-w", tmp_path / "w")
    assert code == 0
    assert re.search(r"3d_fullres: a training step takes about [\d.]+ GiB on a GPU, more than the target of 8", out)
    _, out, _ = call("plan", "--fingerprint", tmp_path / "fingerprint.json", "-w", tmp_path / "a", "--preset", "auto")
    assert "preset resenc-m was chosen for this dataset" in out
    _, out, _ = call(
        "plan", "--fingerprint", tmp_path / "fingerprint.json", "-w", tmp_path / "b", "--spacing", "99,99,99"
    )
    assert "2d sees 3x3 at one resolution" in out


def test_inputs_are_never_replaced(measured, tmp_path):
    before = measured.read_bytes()
    message = explained("plan", "--fingerprint", measured, "-w", tmp_path / "w", "--write-nnunet", measured)
    assert "would replace a file that is needed" in message
    described = tmp_path / "d.json"
    described.write_text("{}")
    message = explained("plan", "--fingerprint", measured, "--dataset", described, "-w", measured.parent)
    assert "stands where the workspace's own would be written" in message
    assert measured.read_bytes() == before


def test_pictures_are_read_as_pictures_by_nnunet(tmp_path, build_dataset, build_fingerprint):
    write(
        tmp_path / "fingerprint.json",
        build_fingerprint(build_dataset(), shapes=((1, 90, 90),), has_spacing=False, num_dimensions=2),
    )
    out = tmp_path / "n" / "nnUNetPlans.json"
    code, _, _ = call(
        "plan", "--fingerprint", tmp_path / "fingerprint.json", "-w", tmp_path / "w", "--write-nnunet", out
    )
    assert code == 0
    assert json.loads(out.read_bytes())["image_reader_writer"] == "NaturalImage2DIO"


def test_a_fold_given_twice_is_trained_once():
    assert options.folds(("2", "0", "2")) == [2, 0]
    assert options.folds(("0", "all")) is None


def test_nobody_is_told_to_throw_finished_folds_away():
    assert "the same command trains" in str(console.failed_folds({1: "why"}, restarted=False))
    assert "the same command without --restart trains" in str(console.failed_folds({1: "why"}, restarted=True))


def test_published_figures_are_listed_and_one_is_told_in_detail():
    code, out, _ = call("baselines", "hippocampus", "v2")
    assert code == 0
    assert "msd/Task04_Hippocampus/nnunet-v2-plain          89.04 (89.85 / 88.23)" in out
    assert "Heart" not in out
    code, out, _ = call("baselines", "msd/Task04_Hippocampus/nnunet-v2-plain")
    assert code == 0
    for part in ("5-fold cross-validation", "3d_fullres", "260", "label 1:     89.85", "AutoNNUnet", "BSD-3-Clause"):
        assert part in out


@pytest.mark.parametrize("command", [("baselines", "hipocampus"), ("compare", ".", "--baseline", "msd/hipocampus/v2")])
def test_an_unknown_published_figure_names_the_nearest(command):
    assert "msd/Task04_Hippocampus/nnunet-v" in explained(*command)
