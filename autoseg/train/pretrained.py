"""Begin from the weights of another training: those that fit, with input and output adapted by name.

State dicts and names -> a state dict and what became of each tensor; below that, where the weights are read.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autoseg.artifacts.base import read
from autoseg.artifacts.labels import BACKGROUND, foreground, has_regions
from autoseg.artifacts.model import CarriedOver, Pretrained, TrainedModel
from autoseg.artifacts.overlay import differences
from autoseg.artifacts.plan import Plan
from autoseg.errors import ArtifactError, SettingError
from autoseg.layout import FoldFolder, Workspace, folds_in
from autoseg.networks.unet import UNet, build_network

log = logging.getLogger(__name__)
Outcome = Literal["loaded", "adapted", "fresh"]
Shapes = Mapping[str, tuple[int, ...]]
# Of these the network counts the levels from the coarsest, whose number differs with the depth; the finest are alike.
FROM_THE_COARSEST = ("up", "decoder", "heads")
INPUT, OUTPUT = "input", "output"
# Below this share of the encoder, or of all, training would begin from noise under another name.
LEAST_SHARE = 0.1
MOST_SHOWN = 5
# What of a configuration changes neither the network nor what it is shown.
OF_NO_CONCERN = (
    "patch_size",
    "batch_size",
    "median_image_size_in_voxels",
    "memory_proxy",
    "mirror_axes",
    "batch_dice",
    "previous_stage",
    "next_stage",
    "normalization_schemes",
    "use_mask_for_norm",
)


@dataclass(frozen=True, slots=True)
class Ends:
    """What a network is shown and what it tells, by name.

    Attributes
    ----------
    channels, outputs : tuple of str
    regions : bool
        Each output answers for itself, rather than that exactly one of them holds.
    """

    channels: tuple[str, ...]
    outputs: tuple[str, ...]
    regions: bool


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a tensor.

    Attributes
    ----------
    part : str
        ``input`` or ``output`` where its shape depends on the channels or outputs, else its place in the network.
    why : str
        In words, where it is not simply loaded.
    """

    name: str
    part: str
    outcome: Outcome
    numbers: int
    why: str = ""


def ends_of(plan: Plan, configuration_name: str) -> Ends:
    """The channels and outputs of a plan's network."""
    names = list(foreground(plan.labels))
    previous = names if plan.configurations[configuration_name].previous_stage else []
    regions = has_regions(plan.labels)
    return Ends(
        channels=(*plan.channel_names, *(f"predicted {name}" for name in previous)),
        outputs=tuple(names if regions else [BACKGROUND, *names]),
        regions=regions,
    )


def match(wanted: Sequence[str], known: Sequence[str]) -> tuple[int | None, ...]:
    """Where in `known` each wanted name stands, capitals aside; of names that occur twice, the first with the first.

    Returns
    -------
    tuple of int or None
        None where it is not there.
    """
    left: dict[str, list[int]] = {}
    for index, name in enumerate(known):
        left.setdefault(name.strip().casefold(), []).append(index)
    places = (left.get(name.strip().casefold(), []) for name in wanted)
    return tuple(each.pop(0) if each else None for each in places)


def adapt_input(weight: Tensor, axis: int, places: Sequence[int | None]) -> Tensor:
    """A convolution's weight for other channels.

    Parameters
    ----------
    weight : Tensor
        Filters along the first axis.
    axis : int
        Of the channels.
    places : sequence of int or None
        Which old channel each new one is; None: a mean over all old ones.

    Returns
    -------
    Tensor
        Each filter as long (root of the sum of squares) as it was.

    Notes
    -----
    For inputs that are independent and of variance 1, as z-scores roughly are, a filter's length is the standard
    deviation of what it gives: the layers behind see what they are used to, whether channels come or go.
    """
    old = weight.unbind(axis)
    mean = weight.mean(axis)
    new = torch.stack([mean if place is None else old[place] for place in places], axis)
    if sorted(place for place in places if place is not None) == list(range(len(old))) and None not in places:
        return new
    over = tuple(range(1, weight.ndim))
    length = new.square().sum(over, keepdim=True).sqrt()
    scale = weight.square().sum(over, keepdim=True).sqrt() / length.clamp(min=torch.finfo(new.dtype).tiny)
    return new * scale


def adapt_output(old: Tensor, fresh: Tensor, axis: int, places: Sequence[int | None]) -> Tensor:
    """A head's weight or bias for other outputs: the old rows of known ones, the fresh rows of the others."""
    rows = [fresh.select(axis, i) if place is None else old.select(axis, place) for i, place in enumerate(places)]
    return torch.stack(rows, axis)


def axes_that_differ(shapes: Shapes, others: Shapes) -> dict[str, int]:
    """The first axis in which two networks' tensors of the same name differ, of those that do."""
    return {
        name: next(axis for axis, (m, n) in enumerate(zip(shape, others[name], strict=True)) if m != n)
        for name, shape in shapes.items()
        if shape != others[name]
    }


def counterparts(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """The name of the same tensor in a network that may be deeper or shallower; what has none there keeps its name."""
    moved = {part: _count(known, part) - _count(names, part) for part in FROM_THE_COARSEST}
    found = {}
    for name in names:
        part, _, rest = name.partition(".")
        index, _, inner = rest.partition(".")
        found[name] = f"{part}.{int(index) + moved[part]}.{inner}" if part in moved else name
    return found


def _count(names: Sequence[str], part: str) -> int:
    """Entries of a list of modules."""
    return len({name.split(".")[1] for name in names if name.startswith(f"{part}.")})


def carry_over(
    old: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    old_ends: Ends,
    ends: Ends,
    channel_axes: Mapping[str, int],
    output_axes: Mapping[str, int],
) -> tuple[dict[str, Tensor], list[Fate]]:
    """The state a network begins with, made of another one's and its own fresh one.

    Parameters
    ----------
    old, fresh : mapping of str to Tensor
        State of the pretrained network and of the new one.
    old_ends, ends : Ends
        Theirs.
    channel_axes, output_axes : mapping of str to int
        Tensors of the new network whose shape depends on the number of channels, or of outputs, and the axis.

    Returns
    -------
    state : dict of str to Tensor
        With the names, shapes and types of `fresh`.
    fates : list of Fate
        One a tensor.

    Notes
    -----
    Channels are matched by name; a new one begins as the mean of the old ones (see `adapt_input`). Outputs are matched
    by name; a new one begins fresh. Between classes, which exclude each other, and regions nothing is carried over:
    the one's logits count relative to the others, the other's do not. A tensor that differs otherwise is left fresh.
    """
    alike = ends.regions == old_ends.regions
    places = {
        INPUT: match(ends.channels, old_ends.channels),
        OUTPUT: match(ends.outputs, old_ends.outputs) if alike else (None,) * len(ends.outputs),
    }
    known = counterparts(tuple(fresh), tuple(old))
    state, fates = {}, []
    for name, own in fresh.items():
        there = old.get(known[name])
        part = INPUT if name in channel_axes else OUTPUT if name in output_axes else name.partition(".")[0]
        axis = channel_axes.get(name, output_axes.get(name))
        tensor, why = own, ""
        if there is None:
            why = "not there"
        elif not _fits(there.shape, own.shape, axis):
            why = f"{_shape(there)} there, {_shape(own)} here"
        elif axis is None:
            tensor = there
        elif part == INPUT:
            tensor = adapt_input(there, axis, places[part])
        elif any(place is not None for place in places[part]):
            tensor = adapt_output(there.to(own.dtype), own, axis, places[part])
        else:
            why = "no label of the same name" if alike else "classes on one side, regions on the other"
        outcome: Outcome = "fresh" if why else _outcome(places.get(part), there, axis)
        state[name] = tensor.to(own.dtype)
        fates.append(Fate(name, part, outcome, own.numel(), why))
    return state, fates


def _fits(there: Sequence[int], here: Sequence[int], axis: int | None) -> bool:
    """Whether shapes are the same but for the axis that can be adapted."""
    return len(there) == len(here) and all(
        m == n or i == axis for i, (m, n) in enumerate(zip(there, here, strict=True))
    )


def _outcome(places: Sequence[int | None] | None, there: Tensor | None, axis: int | None) -> Outcome:
    """Whether a tensor that was carried over had to be changed."""
    same = axis is None or there is None or places is None or tuple(places) == tuple(range(there.shape[axis]))
    return "loaded" if same else "adapted"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def sums(fates: Sequence[Fate]) -> dict[str, CarriedOver]:
    """How many numbers were loaded, adapted and left fresh, part by part."""
    counts: dict[str, dict[str, int]] = {}
    for fate in fates:
        part = counts.setdefault(fate.part, {"loaded": 0, "adapted": 0, "fresh": 0})
        part[fate.outcome] += fate.numbers
    return {part: CarriedOver(**count) for part, count in counts.items()}


def check_enough(fates: Sequence[Fate], where: str) -> None:
    """Refuse weights that hardly fit.

    Raises
    ------
    SettingError
        Less than a tenth of the network fits, or of its encoder, without which the rest is of no use.
    """
    inward = [fate for fate in fates if fate.part in (INPUT, "stem", "encoder")]
    if min(_share(fates), _share(inward)) >= LEAST_SHARE:
        return
    raise SettingError(
        "the pretrained weights hardly fit this network",
        where=where,
        found="; ".join((f"{100 * _share(fates):.0f} % of its numbers fit", *misfits(fates))),
        allowed=f"at least {100 * LEAST_SHARE:.0f} % of all numbers, and of the encoder's",
        hint="give the network the shape of the pretrained one: --set, or edit plan.json",
    )


def misfits(fates: Sequence[Fate]) -> list[str]:
    """The first layers that were left fresh, and why."""
    layers: dict[str, str] = {}
    for fate in fates:
        if fate.outcome == "fresh":
            layers.setdefault(fate.name.rpartition(".")[0], fate.why)
    lines = [f"{layer}: {why}" for layer, why in layers.items()]
    return lines[:MOST_SHOWN] + ([f"and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else [])


def _share(fates: Sequence[Fate]) -> float:
    """Share of the numbers that came along."""
    return sum(f.numbers for f in fates if f.outcome != "fresh") / max(1, sum(f.numbers for f in fates))


def table(pretrained: Pretrained, ends: Ends) -> list[str]:
    """What was carried over, for a person."""
    notes = {
        INPUT: ", ".join(
            f"{name} from {source or 'the mean'}"
            for name, source in zip(ends.channels, pretrained.channels, strict=True)
        ),
        OUTPUT: ", ".join(
            f"{name} from {source}" if source else f"{name} fresh"
            for name, source in zip(ends.outputs, pretrained.outputs, strict=True)
        ),
    }
    rows = [("part", "loaded", "adapted", "left fresh", "")]
    rows += [
        (name, f"{part.loaded:,}", f"{part.adapted:,}", f"{part.fresh:,}", notes.get(name, ""))
        for name, part in pretrained.parts.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join((row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4])).rstrip()
        for row in rows
    ]


# Where weights are read.


@dataclass(frozen=True, slots=True)
class PretrainedFold:
    """A finished fold whose weights another training begins with.

    Attributes
    ----------
    weights_sha256 : str
        Of the file.
    """

    folder: FoldFolder
    manifest: TrainedModel
    weights_sha256: str


def find_pretrained(path: Path, fold: int, plan: Plan, configuration_name: str) -> PretrainedFold:
    """The fold that `--pretrained` names, held against the network that is to begin with it.

    Parameters
    ----------
    path : Path
        A fold's folder or its weights, or a folder of folds or a workspace, of which the fold of the same number is
        taken.
    fold : int
        That is to be trained.
    plan : Plan
    configuration_name : str

    Raises
    ------
    SettingError
        There is no such fold, it is not finished, or its network is of another kind.
    ArtifactError
        Its files can't be read.
    """
    source = open_fold(_folder(path, fold, configuration_name))
    with torch.device("meta"):
        network = _network(plan, configuration_name)
    _state(network, plan, configuration_name, source)
    return source


def _folder(path: Path, fold: int, configuration_name: str) -> FoldFolder:
    """The folder of the fold that a path stands for."""
    here = FoldFolder(path)
    if path == FoldFolder(path.parent).weights:
        return FoldFolder(path.parent)
    if path.is_file():
        raise SettingError(
            "these are no pretrained weights",
            where="--pretrained",
            found=str(path),
            allowed=f"a fold's folder or the {here.weights.name} in it, a folder of folds, or a workspace",
        )
    if here.manifest.exists():
        return here
    models = path if folds_in(path) else Workspace(path).models(configuration_name)
    folds = folds_in(models)
    if fold in folds:
        return folds[fold]
    others = sorted(each for each in models.parent.glob("*") if folds_in(each)) if models != path else []
    found = [str(folder.root) for each in (models, *others) for folder in folds_in(each).values()]
    raise SettingError(
        f"there is no trained fold {fold} of {configuration_name} to begin with"
        if found
        else "no fold is trained here",
        where=f"--pretrained {path}",
        found=", ".join(found[:MOST_SHOWN]) or None,
        hint=f"--pretrained {found[0]} names one" if found else "name a fold's folder, which holds a manifest.json",
    )


def open_fold(folder: FoldFolder) -> PretrainedFold:
    """A finished fold.

    Raises
    ------
    SettingError
        It is not finished.
    ArtifactError
        Its files can't be read.
    """
    manifest = read(folder.manifest, TrainedModel)
    if not manifest.finished or not folder.weights.exists():
        raise SettingError(
            "the pretrained fold's training is not finished",
            where=str(folder.root),
            hint="wait for it, go on with it, or begin with another fold",
        )
    with folder.weights.open("rb") as file:
        return PretrainedFold(folder, manifest, hashlib.file_digest(file, "sha256").hexdigest())


def recorded_in(folder: FoldFolder) -> Pretrained | None:
    """What an earlier run of a fold's training began with, if there was one and it did not begin from scratch."""
    return read(folder.manifest, TrainedModel).pretrained if folder.manifest.exists() else None


def other_beginning(then: Pretrained | None, now: PretrainedFold | Pretrained | None) -> list[str]:
    """That a training began with other weights than it is to begin with, in words; nothing where they are the same."""
    if (then and then.weights_sha256) == (now and now.weights_sha256):
        return []
    return [f"it began {f'with the weights of {then.path}' if then else 'from scratch'}, not with those asked for"]


def begin(
    network: UNet, plan: Plan, configuration_name: str, source: PretrainedFold | Pretrained | None
) -> Pretrained | None:
    """Give a network the weights that its training begins with.

    Parameters
    ----------
    network : UNet
        Fresh; changed in place.
    plan : Plan
    configuration_name : str
    source : PretrainedFold, Pretrained or None
        As asked, or as recorded by an earlier run that left no checkpoint.

    Returns
    -------
    Pretrained or None
        For the manifest; None where the training begins from scratch.

    Raises
    ------
    SettingError
        The weights that were recorded are gone, or others stand in their place.
    """
    if source is None:
        return None
    if isinstance(source, Pretrained):
        source = _again(source)
    state, told, fates = _state(network, plan, configuration_name, source)
    network.load_state_dict(state)
    log.info("begins with the weights of %s", source.folder.root)
    for line in (
        *table(told, ends_of(plan, configuration_name)),
        *(f"left fresh: {each}" for each in misfits(fates)),
        *(f"unlike the pretrained network: {each}" for each in _unlike(source.manifest, plan, configuration_name)),
    ):
        log.info("%s", line)
    return told


def _again(recorded: Pretrained) -> PretrainedFold:
    """What an earlier run began with."""
    folder = FoldFolder(Path(recorded.path))
    source = open_fold(folder) if folder.manifest.exists() else None
    if source is None or source.weights_sha256 != recorded.weights_sha256:
        raise SettingError(
            "the weights that this training began with are gone, or others stand in their place",
            where=recorded.path,
            found=source and source.weights_sha256,
            allowed=recorded.weights_sha256,
            hint="--pretrained says where they are now; --restart begins anew",
        )
    return source


def _network(plan: Plan, configuration_name: str, *, channels: int = 0, outputs: int = 0) -> UNet:
    """The plan's network, with so many channels and outputs more."""
    configuration = plan.configurations[configuration_name]
    return build_network(configuration, plan.num_inputs(configuration) + channels, plan.num_classes + outputs)


def _state(
    network: UNet, plan: Plan, configuration_name: str, source: PretrainedFold
) -> tuple[dict[str, Tensor], Pretrained, list[Fate]]:
    """What a network begins with, and what is to be told of it."""
    _check_dimensions(source.manifest, plan, configuration_name)
    try:
        old = load_file(source.folder.weights)
    except (OSError, SafetensorError) as error:
        raise ArtifactError("weights can't be read", where=str(source.folder.weights), found=str(error)) from error
    with torch.device("meta"):
        more_channels, more_outputs = (
            _network(plan, configuration_name, **{end: 1}) for end in ("channels", "outputs")
        )
    ends, old_ends = (
        ends_of(plan, configuration_name),
        ends_of(source.manifest.plan, source.manifest.configuration_name),
    )
    # On no device at all where it is only to be seen what fits.
    device = "meta" if next(network.parameters()).is_meta else "cpu"
    state, fates = carry_over(
        {name: tensor.to(device) for name, tensor in old.items()},
        {name: tensor.to(device) for name, tensor in network.state_dict().items()},
        old_ends,
        ends,
        axes_that_differ(_shapes(network), _shapes(more_channels)),
        axes_that_differ(_shapes(network), _shapes(more_outputs)),
    )
    check_enough(fates, str(source.folder.root))
    channels, outputs = match(ends.channels, old_ends.channels), match(ends.outputs, old_ends.outputs)
    carried = ends.regions == old_ends.regions and any(f.part == OUTPUT and f.outcome != "fresh" for f in fates)
    told = Pretrained(
        path=str(source.folder.root.resolve()),
        weights_sha256=source.weights_sha256,
        channels=tuple(None if place is None else old_ends.channels[place] for place in channels),
        outputs=tuple(None if place is None or not carried else old_ends.outputs[place] for place in outputs),
        parts=sums(fates),
    )
    return state, told, fates


def _shapes(network: UNet) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _check_dimensions(manifest: TrainedModel, plan: Plan, configuration_name: str) -> None:
    """Refuse weights of flat kernels for volumes, or the other way round.

    Raises
    ------
    SettingError
        They are.
    """
    there, here = (len(c.patch_size) for c in (manifest.configuration, plan.configurations[configuration_name]))
    if there != here:
        raise SettingError(
            f"the pretrained network is {there}D, the one to be trained is {here}D",
            where="--pretrained",
            found=f"{manifest.configuration_name} for {configuration_name}",
            hint=f"--configuration chooses a {there}D network, or begin with a {here}D one",
        )


def _unlike(manifest: TrainedModel, plan: Plan, configuration_name: str) -> list[str]:
    """In what the networks, or what they are shown, differ."""
    sides = ((manifest.plan, manifest.configuration_name), (plan, configuration_name))
    shared = set(manifest.plan.channel_names) & set(plan.channel_names)
    seen = []
    for each, name in sides:
        configuration = each.configurations[name]
        tree = msgspec.to_builtins(configuration)
        kept = {key: value for key, value in tree.items() if key not in OF_NO_CONCERN}
        schemes = dict(zip(each.channel_names, configuration.normalization_schemes, strict=True))
        kept["normalization"] = {channel: scheme for channel, scheme in schemes.items() if channel in shared}
        seen.append({**kept, "transpose_forward": each.transpose_forward})
    return differences(*seen)
