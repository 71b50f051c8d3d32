"""The demo: generated scans -> plan -> training -> prediction of unseen scans -> scores and a picture."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from autoseg import console, pipeline, planning
from autoseg.artifacts.base import read
from autoseg.artifacts.model import TrainedModel
from autoseg.datasets.layouts import find_dataset
from autoseg.demo.phantom import write_phantoms
from autoseg.demo.picture import overlay_picture
from autoseg.demo.threshold import best_threshold_dice
from autoseg.errors import SettingError
from autoseg.images.io import read_image, read_label
from autoseg.layout import Workspace

NUM_TRAINING, NUM_TEST = 16, 6
SEED = 2021
# Half the features that the rules give, and less momentum, which takes a few hundred steps to get going: that makes
# minutes on a CPU enough for these scans.
SETTINGS = (
    "configurations.3d_fullres.features_per_stage=[16,32,64,128]",
    "training.momentum=0.95",
    "training.initial_learning_rate=0.02",
)
ENOUGH_STEPS = 250
ENDING = ".nii.gz"
# Lies in a folder that the demo made, and may make anew.
MARK = ".autoseg-demo"


def walk(folder: Path, *, minutes: float, device_name: str, jobs: int, scans_only: bool = False) -> Iterator[str]:
    """Go the whole way below `folder`, telling of each step; earlier results there are thrown away.

    Parameters
    ----------
    folder : Path
    minutes : float
        For training.
    device_name : str
    jobs : int
    scans_only : bool
        Stop when the scans are made.

    Yields
    ------
    str
        A line for the user.

    Raises
    ------
    SettingError
        The folder holds something that no demo made.
    """
    mark = folder / MARK
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise SettingError("the demo's folder holds other things", where=str(folder), hint="name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    raw, workspace, predicted = folder / "raw", Workspace(folder / "workspace"), folder / "predicted"
    for old in (raw, workspace.root, predicted):
        shutil.rmtree(old, ignore_errors=True)
    write_phantoms(raw, num_training=NUM_TRAINING, num_test=NUM_TEST, seed=SEED)
    yield f"1. {NUM_TRAINING} scans with known truth to train on, {NUM_TEST} to test on -> {raw}"
    if scans_only:
        return

    dataset = find_dataset(raw)
    plan = planning.plan(dataset, workspace, raw=[raw], jobs=jobs)
    yield "2. the plan:"
    yield from (f"   {line}" for line in console.plan_lines(plan))
    yield f"   changed for the demo: {', '.join(SETTINGS)}"

    wish = pipeline.TrainingWish(folds=[0], settings=[f"training.max_hours={minutes / 60}", *SETTINGS], jobs=jobs)
    results = pipeline.train(workspace, wish, device_name=device_name)
    steps = read(workspace.fold("3d_fullres", 0).manifest, TrainedModel).iterations
    yield f"3. trained for {minutes:g} minutes, {steps} steps; validation of fold 0: {console.summary_line(results[0])}"
    if steps < ENOUGH_STEPS:
        yield "   too few for good scores: this machine is busy or slow, and --minutes gives it longer"

    inputs = sorted((raw / "imagesTs").glob(f"*{ENDING}"))
    files = pipeline.predict(workspace.root, inputs, predicted, device_name=device_name)
    yield f"4. unseen scans segmented -> {predicted}"

    truth = {name: raw / "labelsTs" / f"{name}{ENDING}" for name in files}
    evaluation = pipeline.evaluate(files, truth, dataset.labels, predicted / "evaluation.json", jobs=jobs)
    yield f"5. unseen scans: {console.summary_line(evaluation)}"

    labels = {name: read_label(file, case=name).array_zyx for name, file in truth.items()}
    images = {name: read_image([raw / "imagesTs" / f"{name}_0000{ENDING}"], case=name).array_czyx[0] for name in truth}
    threshold = best_threshold_dice(list(images.values()), list(labels.values()))
    mean = sum(threshold.values()) / len(threshold)
    yield f"   the best intensity threshold for each label, chosen on these very scans: mean Dice {mean:.4f}"

    shown = next(iter(files))
    score = evaluation.cases[shown]
    dice = ", ".join(f"{name} {score[name].dice:.3f}" for name in dataset.foreground if score[name].dice is not None)
    overlay_picture(
        folder / "result.png",
        images[shown],
        labels[shown],
        read_label(files[shown], case=shown).array_zyx,
        dataset.foreground,
        f"{shown}, not seen in training: Dice {dice}",
    )
    yield f"   picture -> {folder / 'result.png'}"
