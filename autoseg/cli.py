"""The command line: one subcommand a stage, parsing only. Stages are imported when they run."""

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
import msgspec

from autoseg import __version__, log
from autoseg.artifacts.dataset import Dataset, Repair
from autoseg.artifacts.plan import PresetName, WishedPreset
from autoseg.errors import OUT_OF_MEMORY, AutosegError, DatasetError, is_out_of_memory
from autoseg.layout import Workspace

if TYPE_CHECKING:
    from autoseg.datasets.splits import SplitWishes


class _Finite(click.FloatRange):
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


class _Program(click.Group):
    """Turns errors into one message and an exit code: 0 done, 1 explained, 2 wrong usage, 130 interrupted."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click has it
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand in ("preprocess", "train", "predict")
            again = "goes on from here" if goes_on else "begins anew"
            click.echo(f"interrupted; the same command {again}", err=True)
            ctx.exit(130)
        except Exception as error:
            if ctx.meta.get(DEBUG):
                raise
            click.echo(f"Error: {_in_words(error)}", err=True)
            ctx.exit(1)


def _in_words(error: Exception) -> str:
    """Our errors explain themselves; of another one nobody expected, say what is known and how to learn more."""
    if isinstance(error, AutosegError):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory\n  found:   {error}\n  next:    {OUT_OF_MEMORY}"
    return f"unexpected {type(error).__name__}: {error}\n  next:    the same command with --debug shows where"


def _common(command: F) -> F:
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


def _workspace(command: F) -> F:
    return click.option(
        "-w", "--workspace", type=FOLDER, default=Path(), show_default="here", help="Folder that autoseg works in."
    )(command)


def _jobs(command: F) -> F:
    return click.option(
        "--jobs", type=click.IntRange(min=1), default=None, show_default="CPUs at hand", help="Cases at a time."
    )(command)


def _configuration(command: F) -> F:
    return click.option(
        "--configuration", metavar="NAME", default=None, show_default="3d_fullres, else 2d", help="Which network."
    )(command)


def _device(command: F) -> F:
    return click.option(
        "--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."
    )(command)


def _settings(command: F) -> F:
    return click.option(
        "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Replace one value of plan.json; repeatable."
    )(command)


def _dataset(command: F) -> F:
    """What says where the cases are: RAW and the options that go with it."""
    for option in (
        click.option(
            "--repair",
            type=click.Choice(get_args(Repair)),
            help="What to do where image and label lie on different grids; without, such a case is an error.",
        ),
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


def _find(
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
    """The dataset that the options of `_dataset` name."""
    from autoseg.datasets.layouts import find_dataset

    if (images is not None and labels is None) or not (raw or images):
        message = "give the dataset RAW, or both --images and --labels"
        raise click.UsageError(message)
    found = find_dataset(
        raw,
        images=images,
        labels=labels,
        channels=_names(channels),
        label_names=_names(label_names),
        group_by=group_by,
        lenient=lenient,
    )
    return msgspec.structs.replace(found, repair=repair)


def _scheduler(command: F) -> F:
    return click.option(
        "--scheduler", metavar="ADDRESS", default=None, help="Run the cases on the cluster of this dask scheduler."
    )(command)


def _count(jobs: int | None) -> int:
    from autoseg.machine import available_cpus

    return jobs or available_cpus()


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _spacing(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
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


def _folds(values: tuple[str, ...]) -> list[int] | None:
    """Numbers, or None for all."""
    if "all" in values:
        return None
    try:
        return [int(value) for value in values]
    except ValueError as error:
        message = f"{' '.join(values)!r}: folds are numbers, or all"
        raise click.UsageError(message) from error


def _split(
    num_folds: int | None, stratify: bool | None, splits: Path | None, fingerprint: Path | None
) -> "SplitWishes":
    """What the options of `plan` ask of the folds."""
    from autoseg.datasets.splits import SplitWishes

    if fingerprint is not None and (num_folds or splits or stratify is not None):
        message = "--num-folds, --stratify and --splits are for RAW: a fingerprint has no cases to split"
        raise click.UsageError(message)
    if splits is not None and (num_folds or stratify):
        message = "--splits takes the place of --num-folds and --stratify"
        raise click.UsageError(message)
    return SplitWishes(num_folds, stratify, splits)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="autoseg")
def main() -> None:
    """From a folder of labelled scans to a validated segmentation model.

    \b
      autoseg plan RAW -w W          measure the dataset and plan
      autoseg train all -w W         train, predict and score every fold
      autoseg predict IN OUT -w W    segment new volumes
      autoseg compare A B            paired statistics of two results
    """  # noqa: D301 - click wants the character itself


@main.command()
@_dataset
@click.option(
    "--preset",
    type=click.Choice([*get_args(PresetName), "auto"]),
    default="plain",
    show_default=True,
    help="Family of networks: plain U-Nets, residual encoders of several sizes, or what suits the dataset.",
)
@click.option(
    "--gpu-memory",
    "gpu_memory_gb",
    type=_Finite(min=0.1),
    default=None,
    show_default="8; resenc-l 24, resenc-xl 40",
    metavar="GB",
    help="Memory target of the planner.",
)
@click.option(
    "--spacing",
    metavar="[Z,]Y,X",
    callback=_spacing,
    help="Target spacing in mm, in the order of the arrays, in place of the one found.",
)
@click.option("--reject", is_flag=True, help="Leave out cases that can't be used; dataset.json says which and why.")
@click.option(
    "--num-folds",
    type=click.IntRange(min=2),
    default=None,
    show_default="the plan's, 5",
    metavar="K",
    help="Folds of the cross-validation.",
)
@click.option(
    "--stratify/--no-stratify", default=None, show_default="the plan's, off", help="Balance labels over the folds."
)
@click.option("--splits", type=EXISTING_FILE, metavar="FILE", help="Take the folds from a file of your own.")
@click.option("--explain", is_flag=True, help="Print why each choice was made (plan.md).")
@click.option("--measure", is_flag=True, help="Do training steps, and make what does not fit the memory smaller.")
@click.option("--fingerprint", type=EXISTING_FILE, help="Plan from a fingerprint, autoseg's or nnU-Net's.")
@click.option("--dataset", type=EXISTING_FILE, help="nnU-Net's dataset.json, which belongs to its fingerprint.")
@click.option("--read-nnunet", type=EXISTING_FILE, metavar="FILE", help="Take the plan from an nnUNetPlans.json.")
@click.option("--write-nnunet", type=ANY_FILE, metavar="FILE", help="Also write the plan as an nnUNetPlans.json.")
@_workspace
@_device
@_jobs
@_common
def plan(
    raw: Path | None,
    images: Path | None,
    labels: Path | None,
    channels: str | None,
    label_names: str | None,
    group_by: str | None,
    repair: Repair | None,
    preset: WishedPreset,
    gpu_memory_gb: float | None,
    spacing: tuple[float, ...] | None,
    reject: bool,
    num_folds: int | None,
    stratify: bool | None,
    splits: Path | None,
    explain: bool,
    measure: bool,
    fingerprint: Path | None,
    dataset: Path | None,
    read_nnunet: Path | None,
    write_nnunet: Path | None,
    workspace: Path,
    device: str,
    jobs: int | None,
) -> None:
    """Measure the dataset RAW and plan every configuration.

    Reads RAW (a folder in nnU-Net's, the Medical Decathlon's or BIDS' layout, with folders of images and of labels,
    or with one folder a case; or a list of files: CSV, TSV or JSON), or --images and --labels, or a --fingerprint.
    Writes dataset.json, fingerprint.json, plan.json, plan.md and splits.json into the workspace.
    """
    from autoseg import console, planning
    from autoseg.artifacts.base import read
    from autoseg.artifacts.fingerprint import Fingerprint
    from autoseg.artifacts.splits import Splits
    from autoseg.plan.decide import Wishes

    folders = [folder for folder in (raw, images, labels) if folder is not None]
    if fingerprint is not None and (folders or channels or label_names or group_by):
        message = "--fingerprint takes the place of RAW, --images, --labels, --channels, --label-names and --group-by"
        raise click.UsageError(message)
    if dataset is not None and fingerprint is None:
        message = "--dataset belongs to --fingerprint"
        raise click.UsageError(message)
    if not (folders or fingerprint):
        message = "give the dataset RAW, or both --images and --labels, or --fingerprint"
        raise click.UsageError(message)
    if read_nnunet is not None and (measure or spacing or gpu_memory_gb or preset != "plain"):
        message = "--read-nnunet takes the place of --preset, --gpu-memory, --spacing and --measure"
        raise click.UsageError(message)
    split = _split(num_folds, stratify, splits, fingerprint)
    wishes = Wishes(preset=preset, gpu_memory_gb=gpu_memory_gb, spacing=spacing, measure_on=device if measure else None)
    space = Workspace(workspace)
    if fingerprint is not None:
        made = planning.plan_fingerprint(fingerprint, space, description=dataset, wishes=wishes, imported=read_nnunet)
    else:
        found = _find(raw, images, labels, channels, label_names, group_by, repair, lenient=reject)
        made = planning.plan(
            found,
            space,
            raw=folders,
            jobs=_count(jobs),
            wishes=wishes,
            imported=read_nnunet,
            split=split,
            reject=reject,
        )
    if explain:
        click.echo(space.explanation.read_text(encoding="utf-8"))
    measured = read(space.fingerprint, Fingerprint)
    for line in (*console.plan_lines(made), *console.case_lines(measured)):
        click.echo(line)
    if fingerprint is None and space.splits.exists():
        click.echo(f"{console.splits_line(read(space.splits, Splits))} -> {space.splits}")
    click.echo(f"{len(measured.cases)} cases -> {space.plan}")
    if write_nnunet is not None:
        inputs = (fingerprint, dataset, read_nnunet)
        folder = raw.parent if raw is not None and raw.is_file() else raw
        planning.export_nnunet(made, space, write_nnunet, raw=folder, description=dataset, inputs=inputs)
        click.echo(f"-> {write_nnunet}")


@main.command()
@_dataset
@click.option("--json", "out", type=ANY_PATH, default=None, show_default="check.json", help="Where to write.")
@_jobs
@_common
def check(
    raw: Path | None,
    images: Path | None,
    labels: Path | None,
    channels: str | None,
    label_names: str | None,
    group_by: str | None,
    repair: Repair | None,
    out: Path | None,
    jobs: int | None,
) -> None:
    """Look at every case of the dataset RAW, and tell what is wrong with which.

    Reads RAW as `plan` does, every case of it. Prints a table and writes check.json into the current folder. Ends
    with exit code 1 where a case can't be used.
    """
    from autoseg.artifacts.base import write
    from autoseg.datasets.check import check as look
    from autoseg.datasets.check import table

    dataset = _find(raw, images, labels, channels, label_names, group_by, repair, lenient=True)
    report = look(dataset, jobs=_count(jobs))
    for line in table(report):
        click.echo(line)
    target = out or Path("check.json")
    write(target, report)
    click.echo(f"{len(report.cases)} cases, {report.num_problems} with a problem -> {target}")
    if report.num_problems:
        raise DatasetError(
            f"{report.num_problems} of {len(report.cases)} cases can't be used",
            where=str(target),
            hint="mend the files, or let plan leave such cases out (--reject) or resample labels (--repair)",
        )


@main.command()
@_configuration
@_settings
@_workspace
@_jobs
@_scheduler
@_common
def preprocess(
    configuration: str | None, settings: tuple[str, ...], workspace: Path, jobs: int | None, scheduler: str | None
) -> None:
    """Crop, normalize and resample every case.

    Reads the workspace's plan.json and the raw files. Writes preprocessed/CONFIGURATION/; only what is missing
    or stale. `train` does this by itself where needed.
    """
    from autoseg import pipeline

    space = Workspace(workspace)
    dataset, made = pipeline.open_workspace(space, settings)
    name = pipeline.choose_configuration(made, configuration)
    records = pipeline.preprocess(space, dataset, made, name, jobs=_count(jobs), scheduler=scheduler)
    click.echo(f"{len(records)} cases -> {space.preprocessed(name)}")


@main.command()
@click.argument("folds", nargs=-1, required=True, metavar="FOLD...")
@click.option("--max-hours", type=_Finite(min=0, min_open=True), help="Fit the training to this time.")
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, batches and augmentation.")
@click.option("--restart", is_flag=True, help="Throw an earlier training of these folds away.")
@_configuration
@_settings
@_workspace
@_device
@_jobs
@_common
def train(
    folds: tuple[str, ...],
    max_hours: float | None,
    seed: int | None,
    restart: bool,
    configuration: str | None,
    settings: tuple[str, ...],
    workspace: Path,
    device: str,
    jobs: int | None,
) -> None:
    """Train folds (0 1 2 3 4 or all), predict and score their validation cases.

    Reads plan.json and preprocessed/ (made where missing). Writes models/CONFIGURATION/fold_FOLD/. The same
    command goes on where an earlier one stopped.
    """
    from autoseg import console, pipeline

    extra = []
    if max_hours is not None:
        extra.append(f"training.max_hours={max_hours}")
    if seed is not None:
        extra.append(f"training.seed={seed}")
    space = Workspace(workspace)
    results = pipeline.train(
        space,
        _folds(folds),
        settings=(*settings, *extra),
        configuration_name=configuration,
        device_name=device,
        jobs=_count(jobs),
        restart=restart,
    )
    for fold, evaluation in results.items():
        click.echo(f"fold {fold}: {console.summary_line(evaluation)}")
    click.echo(f"-> {space.root / 'models'}")


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=EXISTING, metavar="INPUT...")
@click.argument("output", type=ANY_PATH)
@click.option("--folds", default=None, metavar="0,1,...", show_default="all trained", help="Folds to average.")
@click.option("--no-mirroring", is_flag=True, help="One pass, not one for each mirroring: faster, a little worse.")
@click.option(
    "--step",
    type=_Finite(min=0, max=1, min_open=True),
    default=None,
    show_default="the plan's, 0.5",
    help="Distance of neighbouring windows, in patch edges.",
)
@click.option("--save-probabilities", is_flag=True, help="Also write CASE.npz with the key `probabilities`.")
@_configuration
@_workspace
@_device
@_scheduler
@_common
def predict(
    inputs: tuple[Path, ...],
    output: Path,
    folds: str | None,
    no_mirroring: bool,
    step: float | None,
    save_probabilities: bool,
    configuration: str | None,
    workspace: Path,
    device: str,
    scheduler: str | None,
) -> None:
    """Segment new volumes: INPUT files or folders, into the folder OUTPUT.

    Reads the workspace's trained folds. Writes one label map a case, on the case's own grid and in
    its kind of file, and prediction.json.
    """
    from autoseg import pipeline
    from autoseg.images.endings import file_ending
    from autoseg.predict.stage import Options

    if file_ending(output.name) and not output.is_dir():
        message = f"{output} looks like a file: OUTPUT is a folder, which is made where it is missing"
        raise click.UsageError(message)
    chosen = _folds(tuple(folds.split(","))) if folds else None
    files = pipeline.predict(
        Workspace(workspace),
        inputs,
        output,
        configuration_name=configuration,
        folds=chosen,
        device_name=device,
        options=Options(mirroring=False if no_mirroring else None, step=step, save_probabilities=save_probabilities),
        scheduler=scheduler,
    )
    click.echo(f"{len(files)} cases -> {output}")


@main.command()
@click.argument("predicted", type=EXISTING)
@click.argument("reference", type=EXISTING)
@click.option("--json", "out", type=ANY_PATH, default=None, help="Where to write; default PREDICTED/evaluation.json.")
@click.option("--dataset", type=EXISTING, default=None, help="A dataset.json that names the labels.")
@click.option(
    "--tolerance",
    "tolerance_mm",
    type=_Finite(min=0),
    default=1.0,
    show_default=True,
    metavar="MM",
    help="Of the surface Dice.",
)
@_jobs
@_common
def evaluate(
    predicted: Path,
    reference: Path,
    out: Path | None,
    dataset: Path | None,
    tolerance_mm: float,
    jobs: int | None,
) -> None:
    """Score PREDICTED label maps against REFERENCE ones: two folders or two files.

    Writes evaluation.json and prints the mean scores.
    """
    from autoseg import console, pipeline
    from autoseg.evaluate.labels import read_labels
    from autoseg.evaluate.pairing import pair_files

    pairs = pair_files(predicted, reference)
    target = out or (predicted if predicted.is_dir() else predicted.parent) / "evaluation.json"
    names = read_labels(dataset) if dataset else None
    evaluation = pipeline.evaluate(
        pairs.predicted, pairs.reference, names, target, tolerance_mm=tolerance_mm, jobs=_count(jobs)
    )
    for line in console.score_lines(evaluation):
        click.echo(line)
    click.echo(f"{len(evaluation.cases)} cases -> {target}")


@main.command()
@click.argument("a", type=EXISTING)
@click.argument("b", type=EXISTING)
@click.option("--metric", default="dice", show_default=True, help="Which score to compare.")
@click.option("--task-a", "--task", "task_a", help="Task of A, where A is a table of several.")
@click.option("--task-b", help="Task of B; default: that of A.")
@click.option("--arch-a", help="Network of A, where A is a table of several.")
@click.option("--arch-b", help="Network of B.")
@click.option("--json", "out", type=ANY_PATH, default=None, help="Also write the result here.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@_common
def compare(
    a: Path,
    b: Path,
    metric: str,
    task_a: str | None,
    task_b: str | None,
    arch_a: str | None,
    arch_b: str | None,
    out: Path | None,
    seed: int,
) -> None:
    """Compare two results, paired by case: the difference is B minus A.

    A and B are each an evaluation.json, a folder with some (a workspace's models/CONFIGURATION), an nnU-Net
    summary.json, or a CSV with the columns task, arch, case, label and the metric.
    """
    from autoseg.artifacts.base import write
    from autoseg.evaluate.baselines import read_scores
    from autoseg.evaluate.compare import compare as compare_tables
    from autoseg.evaluate.compare import render

    table_a = read_scores(a, metric=metric, task=task_a, arch=arch_a)
    table_b = read_scores(b, metric=metric, task=task_b or task_a, arch=arch_b)
    result = compare_tables(table_a, table_b, seed=seed)
    click.echo(render(result))
    if out is not None:
        write(out, result)
        click.echo(f"-> {out}")


@main.command()
@click.argument("folder", type=FOLDER, default=Path("demo"))
@click.option("--minutes", type=_Finite(min=0, min_open=True), default=1.5, show_default=True, help="Training time.")
@_device
@_jobs
@_common
def demo(folder: Path, minutes: float, device: str, jobs: int | None) -> None:
    """Walk the whole way on a generated dataset, in minutes, without a GPU.

    Writes FOLDER (default: demo): raw scans with known truth, a workspace, predictions of unseen scans and
    result.png.
    """
    from autoseg.demo.walk import walk

    for line in walk(folder, minutes=minutes, device_name=device, jobs=_count(jobs)):
        click.echo(line)
