"""Where everything comes from: versions, devices, hashes, and the commands that make it again."""

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.model import TrainedModel
from autoseg.report.found import Found
from autoseg.report.html import Element, Node, element, facts, paragraph, section, table
from autoseg.report.words import listed, several

LONGEST_LINE = 100


def origin(found: Found, versions: Mapping[str, str], made: str) -> Element:
    """The part.

    Parameters
    ----------
    found : Found
    versions : mapping of str to str
        Of what is installed where the page is made, by name.
    made : str
        When.
    """
    trained_by = sorted({_software(each) for each in found.manifests})
    here = listed((f"{name} {number}" for name, number in versions.items()), 30)
    told: list[tuple[str, Node]] = [("Page made", made), ("Versions here", here)]
    if trained_by:
        told.append(("Trained with", "; ".join(trained_by)))
    parts: list[Node] = [facts(told), element("h3", "Commands"), *_commands(found)]
    hashes = list(_hashes(found))
    if hashes:
        parts.append(element("h3", "Hashes"))
        lines: list[list[Node]] = [[name, element("code", value)] for name, value in hashes]
        parts.append(table("SHA-256 of what the figures rest on", ["What", "SHA-256"], lines, name="hashes"))
    return section("Environment and origin", "origin", *parts)


def commands(found: Found) -> list[str]:
    """The commands that make the workspace again, as far as its files tell."""
    lines = [_plan(found, found.dataset)] if found.dataset is not None else []
    lines += _trainings(found)
    for student in found.distillations:
        teacher = student.removesuffix("_student")
        lines.append(["autoseg", "distill", "-w", found.root, "--configuration", teacher])
    if found.selection is not None:
        lines.append(["autoseg", "select", "-w", found.root])
    lines.append(["autoseg", "report", found.root])
    return [_folded(line) for line in lines]


def _folded(words: Sequence[str]) -> str:
    """A command as one line, or as several where it is long: each option then begins one."""
    line = shlex.join(words)
    if len(line) <= LONGEST_LINE:
        return line
    first = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    lines = [shlex.join(words[:first])]
    for word in words[first:]:
        if word.startswith("-"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(lines)


def _plan(found: Found, dataset: Dataset) -> list[str]:
    """The command that planned."""
    options = {"--group-by": dataset.group_by, "--repair": dataset.repair}
    if found.plan is not None:
        options |= {"--preset": found.plan.preset, "--gpu-memory": f"{found.plan.gpu_memory_gb:g}"}
    if found.splits is not None and found.splits.source is not None:
        options["--splits"] = found.splits.source.path
    given = [part for name, value in options.items() if value is not None for part in (name, value)]
    return ["autoseg", "plan", dataset.root, "-w", found.root, *given]


def _trainings(found: Found) -> Iterator[list[str]]:
    """One command for all folds that were trained alike; students come from another one."""
    alike: dict[tuple[str, tuple[str, ...], str | None], list[int]] = defaultdict(list)
    for manifest in found.manifests:
        if manifest.teaching is None:
            before = manifest.pretrained.path if manifest.pretrained is not None else None
            alike[manifest.configuration_name, manifest.settings, before].append(manifest.fold)
    for (name, settings, before), folds in alike.items():
        given = [part for setting in settings for part in ("--set", setting)]
        given += [] if before is None else ["--pretrained", before]
        yield ["autoseg", "train", *map(str, sorted(folds)), "-w", found.root, "--configuration", name, *given]


def _commands(found: Found) -> Iterator[Node]:
    yield paragraph(
        "These do it again, from the same files with the same versions. What was changed by hand in plan.json or "
        "splits.json, and options that only shaped these files, are not in them: take the two files along."
    )
    yield element(
        "pre", element("code", "\n".join(commands(found))), tabindex="0", role="region", aria_label="Commands"
    )


def _software(manifest: TrainedModel) -> str:
    threads = (
        ""
        if manifest.num_threads is None or manifest.device != "cpu"
        else f", {several(manifest.num_threads, 'thread')}"
    )
    return f"autoseg {manifest.autoseg_version}, torch {manifest.torch_version} on {manifest.device}{threads}"


def _hashes(found: Found) -> Iterator[tuple[str, str]]:
    yield from found.file_sha256.items()
    for name, folds in found.folds.items():
        for fold in folds:
            where = f"{name}, fold {fold.number}"
            if fold.weights_sha256 is not None:
                yield f"{where}: weights", fold.weights_sha256
            if fold.manifest is not None and fold.manifest.data_sha256:
                yield f"{where}: preprocessed cases", fold.manifest.data_sha256
            if fold.evaluation is not None:
                yield f"{where}: predictions scored", fold.evaluation.hashes.get("predicted", "–")
                yield f"{where}: references", fold.evaluation.hashes.get("reference", "–")
