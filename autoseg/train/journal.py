"""metrics.jsonl, progress.png, TensorBoard and the bar: how a person follows training."""

import json
import logging
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from tqdm import tqdm

from autoseg.artifacts.base import atomic_path
from autoseg.artifacts.metrics import read_metrics
from autoseg.errors import ArtifactError
from autoseg.train.loop import EpochReport

log = logging.getLogger(__name__)


def rewind_metrics(path: Path, epochs: int) -> None:
    """Keep the records of the first `epochs` epochs: later ones are about to be trained again."""
    records = [record for record in read_metrics(path) if record["epoch"] < epochs]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))


def append_metrics(path: Path, report: EpochReport) -> None:
    """Add one epoch's record.

    Raises
    ------
    ArtifactError
        It can't be written.
    """
    line = json.dumps(asdict(report), allow_nan=False)
    try:
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise ArtifactError(
            "a file can't be written", where=str(path), found=error.strerror, hint="check the disk's free space"
        ) from error


def draw_progress(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Loss, Dice and learning rate over the epochs as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [record["epoch"] + 1 for record in metrics]
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    losses, dice, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    losses.plot(epochs, [_number(record["train_loss"]) for record in metrics], label="training loss")
    losses.plot(epochs, [_number(record["validation_loss"]) for record in metrics], label="validation loss (patches)")
    losses.set_ylabel("loss")
    losses.legend()
    dice.plot(epochs, [_number(record["patch_dice"]) for record in metrics], color="tab:green", label="patch Dice")
    smoothed = [_number(record["smoothed_patch_dice"]) for record in metrics]
    dice.plot(epochs, smoothed, color="tab:green", linestyle=":", label="patch Dice, smoothed")
    whole = [record for record in metrics if record["whole_case_dice"] is not None]
    if whole:
        label = f"Dice of {len(whole[-1]['whole_case_dice_per_case'])} whole cases"
        places, values = [record["epoch"] + 1 for record in whole], [record["whole_case_dice"] for record in whole]
        dice.plot(places, values, color="tab:red", marker="o", label=label)
    dice.set_ylabel("validation Dice")
    dice.set_ylim(0, 1)
    dice.legend()
    rate.plot(epochs, [record["learning_rate"] for record in metrics], color="tab:gray")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


SCALARS = {
    "train_loss": "loss/training",
    "validation_loss": "loss/validation patches",
    "patch_dice": "Dice/validation patches",
    "smoothed_patch_dice": "Dice/validation patches, smoothed",
    "whole_case_dice": "Dice/whole validation cases",
    "learning_rate": "course/learning rate",
    "skipped_steps": "course/skipped steps",
    "samples_per_second": "speed/samples per second",
    "waiting_share": "speed/share of time waiting for data",
}


class Board:
    """The curves for TensorBoard; nothing where that is not installed.

    Written anew from metrics.jsonl by each run, so that it shows what holds, and nothing of epochs trained again.
    """

    def __init__(self, folder: Path, metrics: Iterable[dict[str, Any]]) -> None:
        self._writer: Any = None
        if find_spec("tensorboard") is None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        from torch.utils.tensorboard import SummaryWriter

        # A viewer that is open has read older files: it is told to forget them.
        self._writer = SummaryWriter(str(folder), purge_step=0)
        for record in metrics:
            self.add(record)

    def add(self, record: dict[str, Any]) -> None:
        """One epoch."""
        if self._writer is None:
            return
        for key, title in SCALARS.items():
            if record[key] is not None:
                self._writer.add_scalar(title, record[key], record["epoch"] + 1)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


class ProgressBar:
    """A bar on a terminal, a line an epoch elsewhere.

    The bar counts per cent of the schedule, so its time left is right for runs by count and by time alike.
    """

    def __init__(self, title: str, progress: float, *, shown: bool = True) -> None:
        self._bar = tqdm(
            total=100.0,
            initial=round(100 * progress, 2),
            desc=title,
            disable=not (shown and sys.stderr.isatty()),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )
        self._loss: float | None = None
        self._dice: float | None = None

    def step(self, progress: float, loss: float) -> None:
        """Show an iteration; a loss that is not finite, whose step was skipped, leaves the mean alone."""
        if isfinite(loss):
            self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        shown = {"loss": "-" if self._loss is None else f"{self._loss:.3f}"}
        if self._dice is not None:
            shown["patch Dice"] = f"{self._dice:.3f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(100 * progress - self._bar.n)

    def epoch(self, report: EpochReport) -> None:
        """Show an epoch."""
        self._dice = report.patch_dice
        loss, dice = ("-" if value is None else f"{value:.4f}" for value in (report.train_loss, report.patch_dice))
        whole = skipped = ""
        if report.whole_case_dice is not None:
            whole = f", Dice of {len(report.whole_case_dice_per_case)} whole cases {report.whole_case_dice:.4f}"
        if report.skipped_steps:
            skipped = f", {report.skipped_steps} steps skipped"
        line = (
            f"epoch {report.epoch + 1}: {report.iterations} iterations, loss {loss}, "
            f"patch Dice {dice}{whole}{skipped}, rate {report.learning_rate:.2e}, "
            f"{report.samples_per_second:.2f} samples/s, waiting for data {100 * report.waiting_share:.1f} %, "
            f"{report.seconds / 60:.1f} min in all"
        )
        if self._bar.disable:
            log.info(line)
        else:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the terminal tidy."""
        self._bar.close()
