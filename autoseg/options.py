"""Options that commands share, and what becomes of their text; parsing only."""

import re
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
import msgspec
from click.core import ParameterSource

from autoseg import log
from autoseg.artifacts.dataset import Dataset, Repair
from autoseg.layout import Workspace

if TYPE_CHECKING:
    from autoseg.datasets.splits import SplitWishes


class Finite(click.FloatRange):
    """A float that is neither infinite nor NaN, for which no bound would be out of bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """From text."""
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


F = TypeVar("F", bound=Callable[..., Any])
FOLDER = click.Path(file_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)
ANY_FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DEBUG = "autoseg.debug"
RESTART = "autoseg.restart"


def common(command: F) -> F:
    """What every command has: --debug, and the log."""

    def begin(context: click.Context, _parameter: click.Parameter, debug: bool) -> None:
        log.set_up(debug=debug)
        context.meta[DEBUG] = debug

    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=begin,
        help="Show tracebacks, and messages with time and place.",
    )(command)


def workspace(command: F) -> F:
    """Where the workspace is."""
    return click.option(
        "-w", "--workspace", type=FOLDER, default=Path(), show_default="here", help="Folder that autoseg works in."
    )(command)


def jobs(command: F) -> F:
    """How many cases at a time."""
    return click.option(
        "--jobs", type=click.IntRange(min=1), default=None, show_default="CPUs at hand", help="Cases at a time."
    )(command)


def configuration(command: F) -> F:
    """Which network."""
    return _configuration("3d_fullres, else 2d")(command)


def selected_configuration(command: F) -> F:
    """Which network, where a selection may say it."""
    return _configuration("as selected, else 3d_fullres, else 2d")(command)


def _configuration(default: str) -> Callable[[F], F]:
    return click.option("--configuration", metavar="NAME", default=None, show_default=default, help="Which network.")


def device(command: F) -> F:
    """Where it computes."""
    return click.option(
        "--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."
    )(command)


def devices(command: F) -> F:
    """Where folds are trained side by side."""

    def parse(context: click.Context, _parameter: click.Parameter, text: str | None) -> list[str]:
        named = names(text) or []
        if text is not None and not named:
            message = "name at least one device, e.g. 0,1,2,3"
            raise click.BadParameter(message)
        return [f"cuda:{name}" if name.isdecimal() else name for name in named]

    return click.option(
        "--devices",
        metavar="0,1,...",
        callback=parse,
        help="Train folds side by side, one on each of these devices at a time.",
    )(command)


def again(*without: str) -> list[str]:
    """The options that the command at hand was given, as arguments for another process."""
    context = click.get_current_context()
    given: list[str] = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if not isinstance(option, click.Option) or option.name in without or source is not ParameterSource.COMMANDLINE:
            continue
        value = context.params.get(option.name or "", True)  # --debug keeps its value to itself
        if option.is_flag:
            given.append((option.opts if value else option.secondary_opts)[0])
        else:
            for one in value if option.multiple else (value,):
                given += [option.opts[-1], str(one)]
    return given


def settings(command: F) -> F:
    """Values of the plan to be replaced."""
    return click.option(
        "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Replace one value of plan.json; repeatable."
    )(command)


def pretrained(command: F) -> F:
    """Weights to begin with."""
    return click.option(
        "--pretrained",
        type=EXISTING,
        metavar="PATH",
        help="Begin with the weights of another training: a fold's folder, a folder of folds, a workspace or a bundle.",
    )(command)


def repair(command: F) -> F:
    """What is done with labels on another grid."""
    return click.option(
        "--repair",
        type=click.Choice(get_args(Repair)),
        help="What to do with labels on another grid than their image or prediction.",
    )(command)


def dataset_of(command: F) -> F:
    """What says where the cases are: RAW and the options that go with it."""
    for option in (
        repair,
        click.option(
            "--group-by",
            metavar="REGEX|COLUMN",
            help="Which cases stay together in the folds: a column of the list, or a part of the case's name, "
            "e.g. '^[^_]+'.",
        ),
        click.option("--label-names", metavar="NAMES", help="Label names in order of their values, e.g. liver,tumour."),
        click.option("--channels", metavar="NAMES", help="Channel names, e.g. CT,PET; CT is normalized as CT."),
        click.option(
            "--labels", type=FOLDER, help="Folder of labels; with RAW alone, which derivatives of a BIDS dataset."
        ),
        click.option("--images", type=FOLDER, help="Folder of images, where RAW has no dataset.json."),
        click.argument("raw", type=ANY_PATH, required=False),
    ):
        command = option(command)
    return command


def find(
    raw: Path | None,
    images: Path | None,
    labels: Path | None,
    channels: str | None,
    label_names: str | None,
    group_by: str | None,
    repair: Repair | None,
    *,
    lenient: bool,
) -> Dataset:
    """The dataset that the options of `dataset_of` name."""
    from autoseg.datasets.layouts import find_dataset

    if (images is not None and labels is None) or not (raw or images):
        message = "give the dataset RAW, or both --images and --labels"
        raise click.UsageError(message)
    found = find_dataset(
        raw,
        images=images,
        labels=labels,
        channels=names(channels),
        label_names=names(label_names),
        group_by=group_by,
        lenient=lenient,
    )
    return msgspec.structs.replace(found, repair=repair)


def grouping(group_by: str | None, space: Workspace) -> str | None:
    """What cases are grouped by: as asked, else as before, which is told."""
    from autoseg.planning import grouped_by

    if group_by is None and (group_by := grouped_by(space)) is not None:
        click.echo(f"cases are grouped by {group_by}, as before; --group-by '' ends that")
    return group_by


def scheduler(command: F) -> F:
    """A cluster to run the cases on."""
    return click.option(
        "--scheduler", metavar="ADDRESS", default=None, help="Run the cases on the cluster of this dask scheduler."
    )(command)


def count(jobs: int | None) -> int:
    """The number of cases at a time; the CPUs at hand where it was not given."""
    from autoseg.machine import available_cpus

    return jobs or available_cpus()


def recipe(
    epochs: int | None = None, max_hours: float | None = None, patience: int | None = None, seed: int | None = None
) -> list[str]:
    """The settings that options of `train` are short for."""
    if epochs is not None and max_hours is not None:
        message = "--epochs and --max-hours both say how long to train: give one of them"
        raise click.UsageError(message)
    given = {"epochs": epochs, "max_hours": max_hours, "patience": patience, "seed": seed}
    chosen = [f"training.{name}={value}" for name, value in given.items() if value is not None]
    # The plan may set a time, which would go before the number of epochs.
    return chosen if epochs is None else [*chosen, "training.max_hours=null"]


def names(text: str | None) -> list[str] | None:
    """Names separated by commas, from text."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def spacing(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Two or three positive numbers, from text."""
    if text is None:
        return None
    try:
        edges = tuple(float(part) for part in text.split(","))
    except ValueError:
        edges = ()
    if len(edges) not in (2, 3):
        message = f"{text!r}: give three numbers, e.g. 1.5,0.8,0.8, or two for pictures"
        raise click.BadParameter(message)
    if not all(isfinite(edge) and edge > 0 for edge in edges):
        message = f"{text!r}: the edges of a voxel are above 0"
        raise click.BadParameter(message)
    return edges


def part(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Which share of how many, from text."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        message = f"{text!r}: give the number of the share and of all shares, e.g. 1/4 to 4/4"
        raise click.BadParameter(message)
    return int(match[1]), int(match[2])


def folds(values: tuple[str, ...]) -> list[int] | None:
    """Numbers, each once, or None for all."""
    if "all" in values:
        return None
    try:
        return list(dict.fromkeys(int(value) for value in values))
    except ValueError as error:
        message = f"{' '.join(values)!r}: folds are numbers, or all"
        raise click.UsageError(message) from error


def split(num_folds: int | None, stratify: bool | None, splits: Path | None, fingerprint: Path | None) -> "SplitWishes":
    """What the options of `plan` ask of the folds."""
    from autoseg.datasets.splits import SplitWishes

    if fingerprint is not None and (num_folds or splits or stratify is not None):
        message = "--num-folds, --stratify and --splits are for RAW: a fingerprint has no cases to split"
        raise click.UsageError(message)
    if splits is not None and (num_folds or stratify):
        message = "--splits takes the place of --num-folds and --stratify"
        raise click.UsageError(message)
    return SplitWishes(num_folds, stratify, splits)
