"""The command line: one subcommand a stage. Stages are imported when they run; options.py says what may be asked."""

from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from autoseg import __version__, options
from autoseg.artifacts.dataset import Repair
from autoseg.artifacts.model import Precision
from autoseg.artifacts.plan import PresetName, WishedPreset
from autoseg.errors import OUT_OF_MEMORY, AutosegError, DatasetError, Terminated, is_out_of_memory
from autoseg.layout import Workspace
from autoseg.options import ANY_FILE, ANY_PATH, DEBUG, EXISTING, EXISTING_FILE, FOLDER, RESTART, Finite


class _Program(click.Group):
    """Turns errors into one message and an exit code: 0 done, 1 explained, 2 wrong usage, 130 or 143 interrupted."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click has it
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as interrupt:
            goes_on = ctx.invoked_subcommand in ("preprocess", "train", "select", "predict", "distill")
            again = "goes on from here" if goes_on else "begins anew"
            but = " without --restart" if ctx.meta.get(RESTART) else ""
            click.echo(f"interrupted; the same command{but} {again}", err=True)
            ctx.exit(143 if isinstance(interrupt, Terminated) else 130)
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


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="autoseg")
def main() -> None:
    """From a folder of labelled scans to a validated segmentation model.

    \b
      autoseg plan RAW -w W          measure the dataset and plan
      autoseg train all -w W         train, predict and score every fold
      autoseg select -w W            choose what predicts, and learn post-processing
      autoseg predict IN OUT -w W    segment new volumes
      autoseg compare A B            paired statistics of two results
      autoseg baselines              published figures to compare with
      autoseg report W               all of it on one page
    """  # noqa: D301 - click wants the character itself


@main.command()
@options.dataset_of
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
    type=Finite(min=0.1),
    default=None,
    show_default="8; resenc-l 24, resenc-xl 40",
    metavar="GB",
    help="Memory target of the planner.",
)
@click.option(
    "--spacing",
    metavar="[Z,]Y,X",
    callback=options.spacing,
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
@click.option(
    "--budget-hours",
    type=Finite(min=0, min_open=True),
    metavar="HOURS",
    help="Time training steps, and choose networks that are best in so much training a fold.",
)
@click.option("--fingerprint", type=EXISTING_FILE, help="Plan from a fingerprint, autoseg's or nnU-Net's.")
@click.option("--dataset", type=EXISTING_FILE, help="nnU-Net's dataset.json, which belongs to its fingerprint.")
@click.option("--read-nnunet", type=EXISTING_FILE, metavar="FILE", help="Take the plan from an nnUNetPlans.json.")
@click.option("--write-nnunet", type=ANY_FILE, metavar="FILE", help="Also write the plan as an nnUNetPlans.json.")
@options.workspace
@options.device
@options.jobs
@options.common
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
    budget_hours: float | None,
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
    from autoseg.plan.budget_reasons import budget_lines
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
    if read_nnunet is not None and (measure or budget_hours or spacing or gpu_memory_gb or preset != "plain"):
        message = "--read-nnunet takes the place of --preset, --gpu-memory, --spacing, --measure and --budget-hours"
        raise click.UsageError(message)
    split = options.split(num_folds, stratify, splits, fingerprint)
    wishes = Wishes(
        preset=preset,
        gpu_memory_gb=gpu_memory_gb,
        spacing=spacing,
        measure_on=device if measure else None,
        budget_hours=budget_hours,
        budget_on=device,
    )
    space = Workspace(workspace)
    if fingerprint is not None:
        made = planning.plan_fingerprint(fingerprint, space, description=dataset, wishes=wishes, imported=read_nnunet)
    else:
        group_by = options.grouping(group_by, space)
        found = options.find(raw, images, labels, channels, label_names, group_by, repair, lenient=reject)
        made = planning.plan(
            found,
            space,
            raw=folders,
            jobs=options.count(jobs),
            wishes=wishes,
            imported=read_nnunet,
            split=split,
            reject=reject,
        )
    if explain:
        click.echo(space.explanation.read_text(encoding="utf-8"))
    measured = read(space.fingerprint, Fingerprint)
    for line in (*console.plan_lines(made), *budget_lines(made.budget), *console.case_lines(measured)):
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
@options.dataset_of
@click.option("--json", "out", type=ANY_PATH, default=None, show_default="check.json", help="Where to write.")
@options.jobs
@options.common
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
    from autoseg.datasets.check import look_at, table

    dataset = options.find(raw, images, labels, channels, label_names, group_by, repair, lenient=True)
    report = look_at(dataset, jobs=options.count(jobs))
    for line in table(report):
        click.echo(line)
    target = out or Workspace(Path()).check
    write(target, report)
    click.echo(f"{len(report.cases)} cases, {report.num_problems} with a problem -> {target}")
    if report.num_problems:
        raise DatasetError(
            f"{report.num_problems} of {len(report.cases)} cases can't be used",
            where=str(target),
            hint="mend the files, or let plan leave such cases out (--reject) or resample labels (--repair)",
        )


@main.command()
@options.configuration
@options.settings
@options.workspace
@options.jobs
@options.scheduler
@options.common
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
    records = pipeline.preprocess(space, dataset, made, name, jobs=options.count(jobs), scheduler=scheduler)
    click.echo(f"{len(records)} cases -> {space.preprocessed(name)}")


@main.command()
@click.argument("folds", nargs=-1, required=True, metavar="FOLD...")
@click.option("--epochs", type=click.IntRange(min=1), help="Train for so many epochs.")
@click.option("--max-hours", type=Finite(min=0, min_open=True), help="Fit the training to this time.")
@click.option(
    "--patience", type=click.IntRange(min=1), help="Come to an end after so many epochs without a better patch Dice."
)
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, batches and augmentation.")
@click.option("--restart", is_flag=True, help="Throw an earlier training of these folds away.")
@click.option("--extend", is_flag=True, help="Train finished folds for longer: to the --epochs or --max-hours given.")
@options.pretrained
@options.configuration
@options.settings
@options.workspace
@options.device
@options.devices
@options.jobs
@options.common
def train(
    folds: tuple[str, ...],
    epochs: int | None,
    max_hours: float | None,
    patience: int | None,
    seed: int | None,
    restart: bool,
    extend: bool,
    pretrained: Path | None,
    configuration: str | None,
    settings: tuple[str, ...],
    workspace: Path,
    device: str,
    devices: list[str],
    jobs: int | None,
) -> None:
    """Train folds (0 1 2 3 4 or all), predict and score their validation cases.

    Reads plan.json and preprocessed/ (made where missing). Writes models/CONFIGURATION/fold_FOLD/. The same
    command goes on where an earlier one stopped. With torchrun several processes train each fold together.
    """
    from autoseg import console, pipeline

    if restart and extend:
        message = "--restart throws away what --extend goes on with"
        raise click.UsageError(message)
    click.get_current_context().meta[RESTART] = restart
    settings = (*settings, *options.recipe(epochs, max_hours, patience, seed))
    space = Workspace(workspace)
    wish = pipeline.TrainingWish(
        folds=options.folds(folds),
        settings=settings,
        configuration_name=configuration,
        jobs=options.count(jobs),
        restart=restart,
        extend=extend,
        pretrained=pretrained,
    )
    failures: dict[int, str] = {}
    if devices:
        if "--device" in (arguments := options.again("devices", "jobs")):
            message = "--devices takes the place of --device"
            raise click.UsageError(message)
        results, failures = pipeline.train_side_by_side(space, wish, devices, arguments)
    else:
        results = pipeline.train(space, wish, device_name=device)
    for fold, evaluation in results.items():
        click.echo(f"fold {fold}: {console.summary_line(evaluation)}")
    if results:  # of several processes that train together only one has any
        click.echo(f"-> {space.root / 'models'}")
    if failures:
        raise console.failed_folds(failures, restarted=restart)


@main.command()
@click.argument("fold", type=click.IntRange(min=0), default=0)
@click.option(
    "--iterations", type=click.IntRange(min=20), default=100, show_default=True, help="Steps from 0.00001 to 1."
)
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, batches and augmentation.")
@options.pretrained
@options.configuration
@options.settings
@options.workspace
@options.device
@options.jobs
@options.common
def lr_find(
    fold: int,
    iterations: int,
    seed: int | None,
    pretrained: Path | None,
    configuration: str | None,
    settings: tuple[str, ...],
    workspace: Path,
    device: str,
    jobs: int | None,
) -> None:
    """Find a learning rate for FOLD (default 0): a sweep over rising rates, on weights that are thrown away.

    Reads plan.json and preprocessed/ (made where missing). Writes the curve to models/CONFIGURATION/lr_find_FOLD.json
    and .png, and prints the rate it suggests with the command that trains at it. Trainings are left alone.
    """
    from autoseg import console, pipeline

    space = Workspace(workspace)
    wish = pipeline.TrainingWish(
        folds=[fold],
        settings=(*settings, *options.recipe(seed=seed)),
        configuration_name=configuration,
        jobs=options.count(jobs),
        pretrained=pretrained,
    )
    test = pipeline.lr_find(space, wish, device_name=device, iterations=iterations)
    for line in console.rate_lines(test, workspace=workspace, pretrained=pretrained):
        click.echo(line)
    click.echo(f"-> {space.rate_test(test.configuration_name, fold).with_suffix('.png')}")


@main.command()
@click.option(
    "--configuration",
    "configurations",
    metavar="NAME",
    multiple=True,
    show_default="all that are trained",
    help="What to choose from; repeatable.",
)
@click.option("--folds", default=None, metavar="0,1,...", show_default="all in common", help="Folds to judge by.")
@options.workspace
@options.device
@options.jobs
@options.common
def select(configurations: tuple[str, ...], folds: str | None, workspace: Path, device: str, jobs: int | None) -> None:
    """Choose the best configuration, or pair of them, and learn post-processing, from cross-validation.

    Reads the workspace's trained folds and their validation cases. Writes selection.json, by which `predict` goes from
    then on, and keeps the probabilities of the cases in models/CONFIGURATION/fold_FOLD/validation/probabilities/.
    """
    from autoseg import console, selecting

    space = Workspace(workspace)
    chosen = selecting.select(
        space,
        configurations=configurations,
        folds=options.folds(tuple(folds.split(","))) if folds else None,
        device_name=device,
        jobs=options.count(jobs),
    )
    for line in console.selection_lines(chosen):
        click.echo(line)
    click.echo(f"-> {space.selection}")


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=EXISTING, metavar="INPUT...")
@click.argument("output", type=ANY_PATH)
@click.option(
    "--folds", default=None, metavar="0,1,...", show_default="as selected, else all trained", help="Folds to average."
)
@click.option("--no-mirroring", is_flag=True, help="One pass, not one for each mirroring: faster, a little worse.")
@click.option(
    "--step",
    type=Finite(min=0, max=1, min_open=True),
    default=None,
    show_default="the plan's, 0.5",
    help="Distance of neighbouring windows, in patch edges.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default=None,
    show_default="the device's fastest",
    help="Arithmetic of the network's layers.",
)
@click.option("--save-probabilities", is_flag=True, help="Also write CASE.npz with the key `probabilities`.")
@click.option(
    "--report",
    is_flag=True,
    help="Also write report/CASE.json, with what each label measures, and report/CASE.png, a picture.",
)
@click.option(
    "--part", metavar="I/N", callback=options.part, help="Only the I-th of N shares of the cases, e.g. 2/4; N commands."
)
@click.option(
    "--model", "bundle", type=EXISTING_FILE, default=None, help="A bundle to predict with; no workspace is needed."
)
@options.selected_configuration
@options.workspace
@options.device
@options.scheduler
@options.common
def predict(
    inputs: tuple[Path, ...],
    output: Path,
    folds: str | None,
    no_mirroring: bool,
    step: float | None,
    precision: Precision | None,
    save_probabilities: bool,
    report: bool,
    part: tuple[int, int] | None,
    bundle: Path | None,
    configuration: str | None,
    workspace: Path,
    device: str,
    scheduler: str | None,
) -> None:
    """Segment new volumes: INPUT files or folders, into the folder OUTPUT.

    Reads the workspace's trained folds, as selection.json says where there is one and neither --configuration nor
    --folds is given, or those of a bundle (`--model`). Writes one label map a case, on the case's
    own grid and in its kind of file, and prediction.json.
    """
    from autoseg import pipeline
    from autoseg.images.endings import file_ending
    from autoseg.predict.stage import Options, Part

    if file_ending(output.name) and not output.is_dir():
        message = f"{output} looks like a file: OUTPUT is a folder, which is made where it is missing"
        raise click.UsageError(message)
    if bundle and configuration:
        message = "--model FILE holds one configuration; leave --configuration away"
        raise click.UsageError(message)
    chosen = options.folds(tuple(folds.split(","))) if folds else None
    files = pipeline.predict(
        bundle or workspace,
        inputs,
        output,
        configuration_name=configuration,
        folds=chosen,
        device_name=device,
        options=Options(
            mirroring=False if no_mirroring else None,
            step=step,
            precision=precision,
            save_probabilities=save_probabilities,
            report=report,
            part=Part(*part) if part else None,
        ),
        scheduler=scheduler,
    )
    click.echo(f"{len(files)} cases -> {output}")


@main.command()
@click.argument("out", type=ANY_PATH)
@click.option(
    "--folds",
    default=None,
    metavar="0,1,...",
    show_default="as selected, else all trained",
    help="Folds to take along.",
)
@click.option("--onnx", is_flag=True, help="Write a folder of ONNX files with a program that needs no autoseg.")
@click.option(
    "--model", "bundle", type=EXISTING_FILE, default=None, help="With --onnx: take a bundle's folds, not a workspace's."
)
@options.selected_configuration
@options.workspace
@options.common
def export(
    out: Path, folds: str | None, onnx: bool, bundle: Path | None, configuration: str | None, workspace: Path
) -> None:
    """Write trained folds into one file OUT, for machines without the workspace.

    Reads models/. The file is an archive of plan and weights, a bundle; nothing in it is code. `autoseg predict
    --model OUT` predicts with it. With --onnx OUT is a folder instead: networks as ONNX, model.json and predict.py,
    which needs numpy, SimpleITK and onnxruntime alone.
    """
    from autoseg import pipeline

    if bundle and not onnx:
        message = "--model is for --onnx: a bundle is exported already"
        raise click.UsageError(message)
    if bundle and configuration:
        message = "--model FILE holds one configuration; leave --configuration away"
        raise click.UsageError(message)
    if out.is_dir() and not onnx:
        message = f"{out} is a folder: a bundle is a file, and --onnx writes a folder"
        raise click.UsageError(message)
    chosen = options.folds(tuple(folds.split(","))) if folds else None
    if onnx:
        made = pipeline.export_onnx(bundle or workspace, out, configuration_name=configuration, folds=chosen)
        click.echo(f"{len(made.folds)} folds -> {out}; python {out / 'predict.py'} -h")
    else:
        written = pipeline.export_bundle(Workspace(workspace), out, configuration_name=configuration, folds=chosen)
        click.echo(f"{len(written.folds)} folds -> {out}")


@main.command()
@click.argument("model_folder", type=EXISTING)
@click.argument("bundle", type=ANY_FILE)
@click.option(
    "--folds", default=None, metavar="0,1,...|all", show_default="all numbered, else all", help="Folds to take."
)
@options.common
def import_nnunet(model_folder: Path, bundle: Path, folds: str | None) -> None:
    """Turn MODEL_FOLDER, trained by nnU-Net v2, into a file BUNDLE for `autoseg predict --model`.

    Reads plans.json, dataset.json, dataset_fingerprint.json and fold_*/checkpoint_final.pth there, without running
    anything that may be in them.
    """
    from autoseg import pipeline

    written = pipeline.import_nnunet(model_folder, bundle, folds=folds.split(",") if folds else None)
    click.echo(f"{len(written.folds)} folds -> {bundle}")


@main.command()
@click.option("--folds", default=None, metavar="0,1,...", show_default="all trained", help="Folds to learn from.")
@click.option(
    "--width",
    type=Finite(min=0, max=1, min_open=True),
    default=0.5,
    show_default=True,
    help="The student's feature maps, as a share of its teachers'.",
)
@click.option(
    "--share",
    type=Finite(min=0, max=1),
    default=0.5,
    show_default=True,
    help="Of the loss that is for the teachers' answers, not for the labels.",
)
@click.option(
    "--temperature",
    type=Finite(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Above 1, what teachers find unlikely counts more.",
)
@click.option("--images", type=FOLDER, help="Cases that took no part in training, to compare both on.")
@click.option("--labels", type=FOLDER, help="Their label maps.")
@click.option("--epochs", type=click.IntRange(min=1), help="Train for so many epochs.")
@click.option("--max-hours", type=Finite(min=0, min_open=True), help="Fit the training to this time.")
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, batches and augmentation.")
@click.option("--restart", is_flag=True, help="Throw an earlier student away.")
@options.configuration
@options.settings
@options.workspace
@options.device
@options.jobs
@options.common
def distill(
    folds: str | None,
    width: float,
    share: float,
    temperature: float,
    images: Path | None,
    labels: Path | None,
    epochs: int | None,
    max_hours: float | None,
    seed: int | None,
    restart: bool,
    configuration: str | None,
    settings: tuple[str, ...],
    workspace: Path,
    device: str,
    jobs: int | None,
) -> None:
    """Train a small network that imitates trained folds, and compare it with them.

    Reads the workspace's trained folds and preprocessed/. Writes models/CONFIGURATION_student/fold_0/, which
    `predict` and `export` take with `--configuration CONFIGURATION_student`, and distillation.json beside it.
    """
    from autoseg import console
    from autoseg.distill import Wish
    from autoseg.distill import distill as run

    if (images is None) != (labels is None):
        message = "cases to compare on need both --images and --labels"
        raise click.UsageError(message)
    click.get_current_context().meta[RESTART] = restart
    space = Workspace(workspace)
    wish = Wish(
        configuration_name=configuration,
        folds=options.folds(tuple(folds.split(","))) if folds else None,
        width=width,
        share=share,
        temperature=temperature,
        settings=(*settings, *options.recipe(epochs, max_hours, seed=seed)),
        images=images,
        labels=labels,
        jobs=options.count(jobs),
        restart=restart,
    )
    result = run(space, wish, device_name=device)
    for line in console.distillation_lines(result):
        click.echo(line)
    click.echo(f"-> {space.distillation(result.configuration_name)}")


@main.command()
@click.argument("predicted", type=EXISTING)
@click.argument("reference", type=EXISTING)
@click.option("--json", "out", type=ANY_PATH, default=None, help="Where to write; default PREDICTED/evaluation.json.")
@click.option("--dataset", type=EXISTING, default=None, help="A dataset.json that names the labels.")
@options.repair
@click.option(
    "--tolerance",
    "tolerance_mm",
    type=Finite(min=0),
    default=1.0,
    show_default=True,
    metavar="MM",
    help="Of the surface Dice.",
)
@click.option(
    "--lesion-iou",
    type=Finite(min=0, max=1),
    default=None,
    metavar="SHARE",
    help="Also count lesions: components of both that overlap at least so much (IoU; 0.1 is usual).",
)
@options.jobs
@options.common
def evaluate(
    predicted: Path,
    reference: Path,
    out: Path | None,
    dataset: Path | None,
    repair: Repair | None,
    tolerance_mm: float,
    lesion_iou: float | None,
    jobs: int | None,
) -> None:
    """Score PREDICTED label maps against REFERENCE ones: two folders or two files.

    Writes evaluation.json and prints the mean scores.
    """
    from autoseg import console, pipeline
    from autoseg.evaluate.labels import read_labels, read_repair
    from autoseg.evaluate.pairing import pair_files

    pairs = pair_files(predicted, reference)
    target = out or (predicted if predicted.is_dir() else predicted.parent) / "evaluation.json"
    names = read_labels(dataset) if dataset else None
    evaluation = pipeline.evaluate(
        pairs.predicted,
        pairs.reference,
        names,
        target,
        tolerance_mm=tolerance_mm,
        lesion_iou=lesion_iou,
        repair=repair or (read_repair(dataset) if dataset else None),
        jobs=options.count(jobs),
    )
    for line in console.score_lines(evaluation):
        click.echo(line)
    click.echo(f"{len(evaluation.cases)} cases -> {target}")


@main.command()
@click.argument("results", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--baseline",
    metavar="NAME|FILE",
    help="Compare with a published figure (autoseg baselines lists them), or with a file of scores as first result.",
)
@click.option("--metric", "metrics", multiple=True, default=["dice"], show_default=True, help="Repeatable.")
@click.option("--task", "tasks", multiple=True, help="Task in a table of several; once, or once for each table.")
@click.option("--arch", "archs", multiple=True, help="Network in a table of several; once, or once for each table.")
@click.option(
    "--group-by", metavar="REGEX", help="Finds the patient in a case's name; default: the workspace's groups."
)
@click.option("--json", "out", type=ANY_PATH, default=None, help="Also write the result here.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@options.common
def compare(
    results: tuple[Path, ...],
    baseline: str | None,
    metrics: tuple[str, ...],
    tasks: tuple[str, ...],
    archs: tuple[str, ...],
    group_by: str | None,
    out: Path | None,
    seed: int,
) -> None:
    """Compare results, each with the first, paired by case: the difference is the other minus the first.

    Each is a workspace, an evaluation.json, a folder with some (a workspace's models/CONFIGURATION), an nnU-Net
    summary.json, or a CSV with the columns task, arch, case, label and the metric. A single CSV stands for as many
    results as --arch names.
    """
    from autoseg.artifacts.base import write
    from autoseg.artifacts.comparison import Comparisons
    from autoseg.artifacts.standing import Standing
    from autoseg.comparing import read_results
    from autoseg.evaluate.compare import compare_all
    from autoseg.evaluate.published import find_baseline
    from autoseg.evaluate.standing import stand
    from autoseg.evaluate.words import render_all, render_standing

    published = baseline is not None and not Path(baseline).exists()
    found = find_baseline(baseline) if baseline is not None and published else None
    paths = results if baseline is None or published else (Path(baseline), *results)
    if found is not None and (len(results) > 1 or len(archs) > 1 or len(set(metrics)) > 1):
        message = "with the name of a published figure, one result by one metric is compared"
        raise click.UsageError(message)
    if baseline is None and len(results) < 2 and len(archs) < 2:
        message = "name two results or more, or a --baseline"
        raise click.UsageError(message)
    tables = read_results(paths, metrics=metrics, tasks=tasks, archs=archs, group_by=group_by)
    result: Comparisons | Standing
    if baseline is not None and found is not None:
        result = stand(tables[0][0], baseline, found, seed=seed)
        click.echo(render_standing(result))
    else:
        result = compare_all(tables, seed=seed)
        click.echo(render_all(result))
    if out is not None:
        write(out, result)
        click.echo(f"-> {out}")


@main.command()
@click.argument("words", nargs=-1)
@options.common
def baselines(words: tuple[str, ...]) -> None:
    """List published figures that results can be compared with: name, Dice in points (of each label), what it is.

    WORDS narrow the list (hippocampus v2). A whole name, or words that fit one alone, show where the figure is from.
    """
    from autoseg.evaluate import published

    found = published.search(words)
    if len(found) == 1:
        lines = published.detail_lines(*next(iter(found.items())))
    else:
        lines = [*published.list_lines(found), "Dice in points: foreground mean (each label)"]
    for line in lines:
        click.echo(line)


@main.command()
@click.argument("cases", nargs=-1, metavar="[CASE...]")
@click.option("--folds", default=None, metavar="0,1,...", show_default="all that are scored", help="Of the workspace.")
@click.option("--images", type=FOLDER, help="Folder of images: plain folders are shown, not a workspace.")
@click.option("--predicted", type=FOLDER, help="Folder of their predicted label maps.")
@click.option("--reference", type=FOLDER, help="Folder of their reference label maps.")
@click.option("--dataset", type=EXISTING_FILE, help="With --images: a dataset.json that names the labels.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="a free one", help="On 127.0.0.1.")
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@click.option("--niivue", type=EXISTING_FILE, help="NiiVue's script, where `make viewer` was not run.")
@options.selected_configuration
@options.workspace
@options.common
def view(
    cases: tuple[str, ...],
    folds: str | None,
    images: Path | None,
    predicted: Path | None,
    reference: Path | None,
    dataset: Path | None,
    port: int,
    no_browser: bool,
    niivue: Path | None,
    configuration: str | None,
    workspace: Path,
) -> None:
    """Look at validation cases in a browser, the worst Dice first: image, reference and prediction.

    Reads the workspace's scored folds and the raw files, or --images with --predicted, --reference or both. Writes
    nothing. Serves a page on this machine alone until Ctrl-C.
    """
    import webbrowser

    from autoseg.view.cases import folder_cases, workspace_cases
    from autoseg.view.server import NIIVUE, Answers, ViewServer

    if images is None and (predicted or reference or dataset):
        message = "--predicted, --reference and --dataset belong to --images"
        raise click.UsageError(message)
    if images is not None and not (predicted or reference):
        message = "--images needs --predicted, --reference or both"
        raise click.UsageError(message)
    if images is not None and (folds or configuration):
        message = "--folds and --configuration are of a workspace, --images takes its place"
        raise click.UsageError(message)
    if images is not None:
        shown = folder_cases(images, predicted, reference, dataset=dataset, names=cases)
    else:
        chosen = options.folds(tuple(folds.split(","))) if folds else None
        shown = workspace_cases(Workspace(workspace), configuration, chosen, cases)
    server = ViewServer(Answers(shown, niivue or NIIVUE), port)
    click.echo(f"{len(shown)} cases at {server.url} (Ctrl-C ends it)")
    if not no_browser:
        webbrowser.open(server.url)
    server.serve()


@main.command()
@click.argument("folder", metavar="[WORKSPACE]", required=False, type=FOLDER)
@click.option("--comparison", type=EXISTING_FILE, metavar="FILE", help="Show what `autoseg compare` wrote there.")
@options.workspace
@options.common
def report(folder: Path | None, comparison: Path | None, workspace: Path) -> None:
    """Write one page that tells all about WORKSPACE (or -w): report/index.html in it.

    Scores with intervals, worst cases with pictures, training curves, the dataset, the plan and its reasons, versions,
    hashes and commands. The page is a single file that loads nothing and runs nothing; it says what is missing or
    stale.
    """
    from datetime import datetime

    from autoseg.report import stage

    given = click.get_current_context().get_parameter_source("workspace") is ParameterSource.COMMANDLINE
    if folder is not None and given:
        message = "name the workspace once: as WORKSPACE or with -w"
        raise click.UsageError(message)
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")
    path = stage.run(Workspace(folder or workspace), made=made, comparison=comparison)
    click.echo(f"-> {path}")


@main.command()
@click.argument("folder", type=FOLDER, default=Path("demo"))
@click.option("--minutes", type=Finite(min=0, min_open=True), default=1.5, show_default=True, help="Training time.")
@click.option("--scans-only", is_flag=True, help="Make the scans and stop, to go the way by hand.")
@options.device
@options.jobs
@options.common
def demo(folder: Path, minutes: float, scans_only: bool, device: str, jobs: int | None) -> None:
    """Walk the whole way on a generated dataset, in minutes, without a GPU.

    Writes FOLDER (default: demo): raw scans with known truth, a workspace, predictions of unseen scans and
    result.png.
    """
    from autoseg.demo.walk import walk

    for line in walk(folder, minutes=minutes, device_name=device, jobs=options.count(jobs), scans_only=scans_only):
        click.echo(line)
